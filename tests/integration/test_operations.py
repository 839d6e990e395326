"""What an operator asks: does the process live, and is everything it needs there (contract §8)."""

from __future__ import annotations

from typing import Any

import pytest
import redis
from django.test import Client

from endpoints import gateway_feed
from gateway.control import Report

pytestmark = [pytest.mark.django_db, pytest.mark.redis]


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
    assert checks_of(client) == (503, {"database": "ok", "redis": "ok", "gateway": "unavailable"})
    version = poll()
    assert checks_of(client)[1]["gateway"] == "unavailable"
    poll(applied=version)
    assert checks_of(client) == (200, {"database": "ok", "redis": "ok", "gateway": "ok"})


def test_a_rejected_snapshot_turns_it_red(client: Client, redis_server: redis.Redis) -> None:
    poll(applied=poll(), rejected="routes.json: duplicate route")
    assert checks_of(client) == (503, {"database": "ok", "redis": "ok", "gateway": "unavailable"})


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
