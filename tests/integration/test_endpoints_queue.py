"""Asking for reconciles, with a real Redis: its cache counts time differently from the one in memory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from endpoints import queue
from tests.support_processes import eventually

pytestmark = pytest.mark.redis
Sent = list[tuple[str, str, float]]
IN_MEMORY = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}


@pytest.fixture
def sent(settings: Any, redis_server: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sent]:
    """What reached the broker, while the cache is the one of a running platform."""
    settings.CACHES = {
        "default": {"BACKEND": "config.cache.SharedRedisCache", "LOCATION": settings.REDIS_URL}
    }
    found: Sent = []
    monkeypatch.setattr(queue, "_send", lambda *args: found.append(args))
    yield found
    settings.CACHES = IN_MEMORY


def test_looks_of_one_rhythm_do_not_multiply(sent: Sent) -> None:
    for _ in range(5):
        queue.reconcile_in("me-1", 0.5)
    queue.reconcile_in("me-2", 0.5)
    assert [endpoint for _task, endpoint, _delay in sent] == ["me-1", "me-2"]


def test_the_next_look_of_the_chain_is_not_taken_for_the_last_one(sent: Sent) -> None:
    began = time.monotonic()
    queue.reconcile_in("me-1", 0.2)

    def second() -> bool:
        queue.reconcile_in("me-1", 0.2)
        return len(sent) == 2

    eventually(second, "the mark of the first look ends with its delay")
    assert time.monotonic() - began >= 0.19


def test_a_slow_rhythm_does_not_hold_up_a_quick_one(sent: Sent) -> None:
    queue.reconcile_in("me-1", 2.0)
    queue.reconcile_in("me-1", 0.1)
    assert [delay for *_, delay in sent] == [2.0, 0.1]


def test_a_hint_to_look_at_once_is_never_left_out(sent: Sent) -> None:
    for _ in range(3):
        queue.reconcile_in("me-1", 0)
    assert len(sent) == 3


def test_without_redis_the_sweep_is_waited_for(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found: Sent = []
    monkeypatch.setattr(queue, "_send", lambda *args: found.append(args))
    settings.CACHES = {
        "default": {"BACKEND": "config.cache.SharedRedisCache", "LOCATION": "unix:///nonexistent/redis.sock"}
    }
    try:
        queue.reconcile_in("me-1", 0.5)
    finally:
        settings.CACHES = IN_MEMORY
    assert found == []
