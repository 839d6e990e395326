"""Redis gone while the console is used: pages work, and what can't be done says so and works again afterwards."""

from __future__ import annotations

import time
from typing import Any

import pytest
from celery import Celery
from django.test import Client

from endpoints import queue
from iam.models import User
from tests.conftest import PASSWORD

pytestmark = pytest.mark.django_db
LOGIN = {"login": "owner@example.org", "password": PASSWORD}
PAGES = (
    "/",
    "/inference/",
    "/inference/create/",
    "/registry/",
    "/registry/import/",
    "/iam/service-accounts/",
)
IN_MEMORY = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}


@pytest.fixture
def away(settings: Any) -> Any:
    """A cache whose server is not there; call it to bring one back."""
    settings.CACHES = {
        "default": {"BACKEND": "config.cache.SharedRedisCache", "LOCATION": "unix:///nonexistent/redis.sock"}
    }

    def back() -> None:
        settings.CACHES = IN_MEMORY

    yield back
    back()


def test_signing_in_names_redis_and_works_once_it_is_back(owner: User, away: Any) -> None:
    client = Client(raise_request_exception=False)
    refused = client.post("/accounts/login/", LOGIN)
    assert (refused.status_code, refused["Retry-After"]) == (503, "5")
    assert "Redis" in refused.content.decode()
    assert "nonexistent" not in refused.content.decode()
    away()
    assert client.post("/accounts/login/", LOGIN).status_code == 302
    assert client.get("/inference/").status_code == 200


def test_who_is_signed_in_goes_on(owner_client: Client, away: Any) -> None:
    assert {page: owner_client.get(page).status_code for page in PAGES} == dict.fromkeys(PAGES, 200)
    assert owner_client.get("/api/v1/endpoints/").status_code == 200


def test_a_click_does_not_wait_for_a_broker_that_is_away(
    settings: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    app = Celery("test", broker="redis+socket:///nonexistent/redis.sock", set_as_current=False)
    app.conf.broker_transport_options = settings.CELERY_BROKER_TRANSPORT_OPTIONS
    monkeypatch.setattr(queue, "app", app)
    began = time.monotonic()
    queue.pull_soon("r1")
    assert time.monotonic() - began < 3, "six seconds with Celery's own defaults"
    assert "waits for the sweep" in caplog.text
