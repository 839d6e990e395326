"""What an operator asks: does the process live, and is everything it needs there (contract §8)."""

from __future__ import annotations

from typing import Any

import pytest
import redis
from django.conf import settings
from django.test import Client

from config.keyfiles import read_or_create
from endpoints import gateway_feed
from endpoints.metrics.prometheus import families
from endpoints.metrics.text_format import text
from endpoints.models import Endpoint, Status
from gateway.control import Report
from iam.actors import Actor
from iam.models import Project, User
from iam.oauth import keys
from tests.conftest import signed_in
from tests.support_endpoints import load_data, new_endpoint

pytestmark = [pytest.mark.django_db, pytest.mark.redis]
WELL = {"database": "ok", "redis": "ok", "gateway": "ok", "snapshot": "ok"}


def checks_of(client: Client) -> tuple[int, dict[str, str]]:
    response = client.get("/readyz")
    return response.status_code, response.json()["checks"]


def poll(applied: str = "", rejected: str = "") -> str:
    given = gateway_feed.poll("gw-1", Report(applied=applied, rejected=rejected))
    assert given is not None
    return given.version


def test_healthz_asks_nobody(client: Client) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}


def test_ready_once_a_gateway_serves_its_snapshot(client: Client, redis_server: redis.Redis) -> None:
    assert checks_of(client) == (503, {**WELL, "gateway": "unavailable"})
    version = poll()
    assert checks_of(client)[1]["gateway"] == "unavailable"
    poll(applied=version)
    assert checks_of(client) == (200, WELL)


def test_a_rejected_snapshot_turns_it_red(client: Client, redis_server: redis.Redis) -> None:
    poll(applied=poll(), rejected="routes.json: duplicate route")
    assert checks_of(client) == (503, {**WELL, "gateway": "unavailable"})


def agent(client: Client, etag: str = "") -> Any:
    token = read_or_create(settings.BERTH_GATEWAY_TOKEN_FILE)
    sent = {"Authorization": f"Bearer {token}", "X-Berth-Gateway": "gw-1", "X-Berth-Applied": etag.strip('"')}
    return client.get("/internal/gateway/snapshot", headers=sent | {"If-None-Match": etag})


def told(client: Client, project: Project) -> tuple[str, str]:
    """The metric, and what an administrator reads of the gateways."""
    metric = next(one for one in families(project) if one.name == "berth_gateway_snapshot_fails")
    page = client.get("/administration/machines/").content.decode().split('aria-labelledby="gateways"')[1]
    return text([metric]).splitlines()[-1], page


@pytest.mark.django_db(transaction=True)
def test_a_snapshot_that_cannot_be_built_is_told_until_it_can(
    client: Client, editor_actor: Actor, redis_server: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    load_data()
    endpoint = new_endpoint(editor_actor)
    admin = signed_in(User.objects.create_user("staff@example.org", "-", is_staff=True, is_superuser=True))
    etag = agent(client)["ETag"]
    assert agent(client, etag).status_code == 304
    assert checks_of(client) == (200, WELL)
    assert told(admin, editor_actor.project)[0] == "berth_gateway_snapshot_fails 0"

    rows = Endpoint.objects.filter(pk=endpoint.pk)
    rows.update(status="<b>ODD</b>")  # as a restored backup, or a newer version's, might have it
    gateway_feed.changed()
    for _ in range(2):
        assert (answer := agent(client, etag)).status_code == 503
        assert b"ODD" not in answer.content
    assert checks_of(client) == (503, {**WELL, "snapshot": "unavailable"})
    assert b"ODD" not in client.get("/readyz").content  # it is public
    metric, page = told(admin, editor_actor.project)
    assert metric == "berth_gateway_snapshot_fails 1"
    assert "No newer configuration can be built" in page
    assert "&lt;b&gt;ODD&lt;/b&gt;" in page
    assert f"at the endpoint {endpoint.id}" in page
    assert "Serves the last one built" in page
    errors = [one.getMessage() for one in caplog.records if one.name == "endpoints.unbuilt"]
    assert len(errors) == 1, "once, however often gateways ask"
    assert "Traceback" in errors[0]

    rows.update(status=Status.PENDING)
    gateway_feed.changed()
    agent(client, etag)
    assert checks_of(client) == (200, WELL)
    metric, page = told(admin, editor_actor.project)
    assert metric == "berth_gateway_snapshot_fails 0"
    assert "ODD" not in page


@pytest.mark.django_db(transaction=True)
def test_a_key_file_that_is_none_is_named(client: Client, redis_server: redis.Redis, db: None) -> None:
    etag = agent(client)["ETag"]
    broken = keys.folder() / "20260101T000000Z-broken.pem"
    broken.write_text("no key")
    try:
        gateway_feed.changed()
        assert agent(client, etag).status_code == 503
        unbuilt = gateway_feed.cluster().building().unbuilt
    finally:
        broken.unlink()
    assert unbuilt is not None
    assert unbuilt.evidence.startswith("ImproperlyConfigured: ")
    assert "broken.pem holds no RSA private key. Move it out of the folder" in unbuilt.evidence
    gateway_feed.changed()
    assert agent(client, etag).status_code == 304
    assert gateway_feed.cluster().building().unbuilt is None


def test_redis_away_is_named_without_its_address(client: Client, settings: Any) -> None:
    settings.CACHES = {
        "default": {"BACKEND": "config.cache.SharedRedisCache", "LOCATION": "unix:///nonexistent/redis.sock"}
    }
    try:
        response = client.get("/readyz")
    finally:
        settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
    assert response.status_code == 503
    assert response.json()["checks"]["redis"] == "unavailable"
    assert b"nonexistent" not in response.content
