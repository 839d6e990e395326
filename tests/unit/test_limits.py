"""Limits of endpoints: who sets them where, what is taken, and that nothing restarts."""

from __future__ import annotations

import html
import re
from datetime import UTC, datetime
from typing import Any
from unittest.mock import patch

import pytest
from django.core.exceptions import PermissionDenied
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from endpoints import gateway_feed, limits, services
from endpoints.limits import LIMITS
from endpoints.models import Endpoint, Event, TokenCount
from iam.actors import Actor
from iam.models import AuditEvent
from tests.support_endpoints import load_data, new_endpoint, ready_model
from tests.unit.test_endpoints_api import URL, body_for

pytestmark = pytest.mark.django_db
SOME = {
    "requests_per_minute": 60,
    "tokens_per_minute": None,
    "tokens_per_month": 5_000_000,
    "max_concurrency": 8,
}


@pytest.fixture(autouse=True)
def _data(db: None) -> None:
    load_data()


@pytest.fixture
def endpoint(owner_actor: Actor) -> Endpoint:
    return new_endpoint(owner_actor, requests_per_minute=30)


def words(answer: Any) -> str:
    """What a reader sees."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", answer.content.decode())).split())


def typed(endpoint: Endpoint, **changes: Any) -> dict[str, Any]:
    """What an admin's settings page sends."""
    assert endpoint.revision is not None
    sent = {
        "name": endpoint.name,
        "model_id": str(endpoint.revision.model_id),
        "instance_type": endpoint.revision.instance_type_id,
        "min_replicas": "1",
        "max_replicas": "1",
        "private": "on",
        "env-shown": "1",
        **{name: str(getattr(endpoint, name) or "") for name in LIMITS},
    }
    return {**sent, **changes}


def of(endpoint: Endpoint) -> dict[str, int | None]:
    return dict(Endpoint.objects.filter(pk=endpoint.pk).values(*LIMITS).get())


def test_the_api_takes_and_tells_them(owner_client: Client, owner_actor: Actor) -> None:
    body = {**body_for(owner_actor), "limits": SOME}
    made = owner_client.post(URL, body, content_type="application/json")
    assert made.status_code == 201, made.content
    assert made.json()["limits"] == SOME
    one = f"{URL}{made.json()['id']}/"
    change = {"limits": {"max_concurrency": None, "tokens_per_minute": 900}}
    changed = owner_client.patch(one, change, content_type="application/json").json()
    assert changed["limits"] == {**SOME, **change["limits"]}
    assert owner_client.get(one).json()["limits"] == changed["limits"]
    assert changed["revision"] == 1


@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize("value", [0, -1, 10**13, "many", 1.5])
def test_what_is_no_limit_is_refused_at_its_field(
    owner_client: Client, endpoint: Endpoint, name: str, value: Any
) -> None:
    answer = owner_client.patch(
        f"{URL}{endpoint.id}/", {"limits": {name: value}}, content_type="application/json"
    )
    assert answer.status_code == 400
    assert list(answer.json()["errors"]) == [f"limits.{name}"]


@pytest.mark.parametrize("name", LIMITS)
def test_the_most_that_is_taken_fits_its_column(owner_actor: Actor, endpoint: Endpoint, name: str) -> None:
    services.update_endpoint(actor=owner_actor, endpoint=endpoint, changes={name: LIMITS[name]})
    assert of(endpoint)[name] == LIMITS[name]


def test_a_change_makes_no_revision_is_on_record_and_tells_the_gateways(
    owner_actor: Actor, endpoint: Endpoint
) -> None:
    with patch.object(gateway_feed, "changed") as told:
        services.update_endpoint(actor=owner_actor, endpoint=endpoint, changes=SOME)
        assert told.called
        told.reset_mock()
        services.update_endpoint(actor=owner_actor, endpoint=endpoint, changes=SOME)
        assert not told.called
    assert endpoint.revisions.count() == 1
    event = Event.objects.filter(target=endpoint.id).latest("id")
    assert event.kind == "endpoint.changed"
    assert event.params["fields"] == "max_concurrency, requests_per_minute, tokens_per_month"
    record = AuditEvent.objects.filter(action="endpoint.change").get()
    assert record.before == {"max_concurrency": None, "requests_per_minute": 30, "tokens_per_month": None}
    assert record.after == {"max_concurrency": 8, "requests_per_minute": 60, "tokens_per_month": 5_000_000}


def test_only_admins_set_them(editor_client: Client, editor_actor: Actor, endpoint: Endpoint) -> None:
    """Contract §7. Whatever else an editor changes leaves them alone."""
    address = f"{URL}{endpoint.id}/"
    refused = editor_client.patch(
        address, {"limits": {"max_concurrency": 1}}, content_type="application/json"
    )
    assert (refused.status_code, refused.json()["detail"]) == (
        403,
        "Only an admin of the project may set limits.",
    )
    body = {"name": "mine", "region": "HCM", "model": str(ready_model(editor_actor.project, "other").pk)}
    body |= {"instance_type": "local-cpu", "limits": SOME}  # type: ignore[dict-item]
    assert editor_client.post(URL, body, content_type="application/json").status_code == 403
    same = {"name": "other", "limits": {"requests_per_minute": 30}}
    assert editor_client.patch(address, same, content_type="application/json").status_code == 200
    with pytest.raises(PermissionDenied):
        services.update_endpoint(actor=editor_actor, endpoint=endpoint, changes={"requests_per_minute": None})
    assert of(endpoint)["requests_per_minute"] == 30


def test_an_editors_settings_page_shows_them_and_changes_none(
    editor_client: Client, endpoint: Endpoint
) -> None:
    page = reverse("endpoints:settings", args=[endpoint.id])
    shown = editor_client.get(page)
    assert b'name="requests_per_minute"' not in shown.content
    assert "Requests a minute 30" in words(shown)
    sent = {name: value for name, value in typed(endpoint, name="other").items() if name not in LIMITS}
    assert editor_client.post(page, sent).status_code == 302
    assert of(endpoint)["requests_per_minute"] == 30
    assert Endpoint.objects.get(pk=endpoint.pk).name == "other"


def test_the_settings_page_changes_them_and_loses_nothing_typed(
    owner_client: Client, endpoint: Endpoint
) -> None:
    page = reverse("endpoints:settings", args=[endpoint.id])
    preview = owner_client.post(
        reverse("endpoints:changes", args=[endpoint.id]), typed(endpoint, max_concurrency="4")
    )
    assert "limit of requests at once" in words(preview)
    wrong = owner_client.post(page, typed(endpoint, tokens_per_minute="10 k", max_concurrency="4"))
    assert wrong.status_code == 422
    assert b'value="10 k"' in wrong.content
    assert b'value="4"' in wrong.content
    assert "Enter a whole number from 1 to 1000000000, or leave it empty for no limit." in words(wrong)
    assert re.search(rb'<details class="fold" id="limits" open>', wrong.content)
    right = typed(endpoint, requests_per_minute="", tokens_per_month="1000000", max_concurrency="4")
    assert owner_client.post(page, right).status_code == 302
    assert of(endpoint) == {
        "requests_per_minute": None,
        "tokens_per_minute": None,
        "tokens_per_month": 1_000_000,
        "max_concurrency": 4,
    }


def test_the_wizard_takes_them(owner_client: Client, owner_actor: Actor) -> None:
    model = ready_model(owner_actor.project)
    sent = {
        "name": "limited",
        "region": "HCM",
        "model_id": str(model.pk),
        "instance_type": "local-cpu",
        "min_replicas": "1",
        "max_replicas": "1",
        "private": "on",
        **dict.fromkeys(LIMITS, "7"),
    }
    answer = owner_client.post(reverse("endpoints:create"), sent)
    assert answer.status_code == 302, answer.content
    assert of(Endpoint.objects.get(name="limited")) == dict.fromkeys(LIMITS, 7)


def test_the_overview_tells_them_and_what_is_gone_of_the_month(
    viewer_client: Client, owner_actor: Actor, endpoint: Endpoint
) -> None:
    services.update_endpoint(actor=owner_actor, endpoint=endpoint, changes={"tokens_per_month": 5_000_000})
    month = f"{timezone.now().astimezone(UTC):%Y-%m}"
    for gateway, window, tokens in (("a", month, 1_000), ("b", month, 234), ("a", "2026-01", 9)):
        TokenCount.objects.create(gateway=gateway, subject=endpoint.id, window=window, tokens=tokens)
    page = words(viewer_client.get(reverse("endpoints:detail", args=[endpoint.id])))
    assert "Limits Requests a minute 30 Tokens a month 5,000,000 (1,234 used)" in page
    found = limits.present(Endpoint.objects.get(pk=endpoint.pk), datetime(2026, 1, 5, tzinfo=UTC))
    assert [limit.used for limit in found] == [None, None, 9, None]
