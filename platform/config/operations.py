"""What tells an operator whether this process is well (contract §8)."""

from __future__ import annotations

import logging
from collections.abc import Callable

from django.core.cache import cache
from django.db import DatabaseError, connection
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path
from redis.exceptions import RedisError

from endpoints import gateway_feed
from endpoints.metrics_api import PrometheusView

logger = logging.getLogger(__name__)


def healthz(_request: HttpRequest) -> HttpResponse:
    """The process is up: 200, whatever it depends on."""
    return JsonResponse({"status": "ok"})


def readyz(_request: HttpRequest) -> HttpResponse:
    """Everything this process needs answers: 200, else 503 with what does not."""
    checks = {name: _outcome(name, check) for name, check in CHECKS.items()}
    ready = all(outcome == "ok" for outcome in checks.values())
    body = {"status": "ok" if ready else "unavailable", "checks": checks}
    return JsonResponse(body, status=200 if ready else 503)


def _database() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")


def _redis() -> None:
    cache.get("readyz")


class NotReady(Exception):
    """A part answers, and says that it does not work."""


def _gateway() -> None:
    """At least one gateway has asked for its snapshot in the last seconds, and each one serves what it was given."""
    gateways = gateway_feed.cluster().live_gateways()
    if not gateways:
        raise NotReady("no gateway agent has asked for its snapshot lately")
    for gateway in gateways:
        if gateway.rejected or not gateway.applied:
            raise NotReady(f"gateway {gateway.gateway_id}: {gateway.rejected or 'serves nothing yet'}")


def _snapshot() -> None:
    """What gateways should serve can be built, so that what changes reaches them."""
    unbuilt = gateway_feed.asked().building().unbuilt
    if unbuilt is not None:
        raise NotReady(
            f"the gateways' snapshot cannot be built, and no change reaches them: {unbuilt.evidence}. "
            "Correct what this names; it is tried again by itself"
        )


CHECKS: dict[str, Callable[[], None]] = {
    "database": _database,
    "redis": _redis,
    "gateway": _gateway,
    "snapshot": _snapshot,
}


def _outcome(name: str, check: Callable[[], None]) -> str:
    try:
        check()
    except (DatabaseError, RedisError, OSError, NotReady) as error:
        # The answer is public: what exactly went wrong stands in the log alone.
        logger.warning("Not ready, %s: %s", name, error)
        return "unavailable"
    return "ok"


urlpatterns = [
    path("healthz", healthz, name="healthz"),
    path("readyz", readyz, name="readyz"),
    path("metrics", PrometheusView.as_view(), name="metrics"),
]
