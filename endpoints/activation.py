"""What activators ask: which of the endpoints that requests wait for are ready, and have those woken that sleep.

Asked ten times a second while anybody waits: a handful of queries for all of them together, none while nobody does.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from django.utils import timezone
from django.utils.translation import override

from endpoints import phase_times, services
from endpoints.errors import describe
from endpoints.gateway_feed import RETRY_AFTER_S, activators
from endpoints.models import Endpoint, PhaseName, Replica, ReplicaState, Revision, Status
from gateway.activators import ActivatorReport
from gateway.targets import address_text

Json = dict[str, Any]

_USUAL_S = 30.0  # for so long what is usual for a revision is not looked up again
_COLUMNS = (
    "id",
    "min_replicas",
    "max_replicas",
    "max_concurrency",
    "desired_replicas",
    "status",
    "reason_code",
    "reason_params",
    "paused_at",
    "deleting_at",
    "generation",
    "observed_generation",
    "revision_id",
)


def waiting() -> dict[str, int]:
    """Endpoint → requests in the hands of the activators: those that wait for a replica, and those that one answers
    by way of them. Raises RedisError."""
    return activators().waiting()


def answer(data: Any) -> Json:
    """One activator's question. Raises ValueError for one that is none, RedisError, DatabaseError."""
    said = ActivatorReport.of(data)
    words = _words(said.waiting.keys()) if not said.gone else {}
    given = [address_text(host, port) for word in words.values() for host, port in word.get("replicas", ())]
    # Before it hears of an address: that must not become another replica's meanwhile.
    activators().report(said, given)
    return {"endpoints": words}


def _words(endpoint_ids: Iterable[str]) -> dict[str, Json]:
    wanted = list(endpoint_ids)
    if not wanted:
        return {}
    rows = {row.id: row for row in Endpoint.objects.filter(pk__in=wanted).only(*_COLUMNS)}
    ready = _ready(rows)
    coming = {key: row for key, row in rows.items() if not ready.get(key) and not _cause(row)}
    for one in coming.values():
        if one.is_asleep:
            services.wake(one.id)
    phases = _phases(coming)
    now = timezone.now()
    found: dict[str, Json] = {}
    for key in wanted:
        row = rows.get(key)
        if row is None or row.deleting_at:
            found[key] = {"state": "gone"}
        elif key in coming:
            found[key] = {"state": "waking", **_outlook(row, phases.get(key), now)}
        elif ready.get(key) and not row.paused_at:
            found[key] = {"state": "ready", "replicas": ready[key], "at_once": row.max_concurrency}
        else:
            found[key] = {"state": "failed", **_cause(row)}
    return found


def _ready(endpoint_ids: Iterable[str]) -> dict[str, list[tuple[str, int]]]:
    """Healthy replicas that serve, by endpoint."""
    rows = Replica.objects.filter(
        endpoint_id__in=list(endpoint_ids), state=ReplicaState.READY, unhealthy_since=None, port__gt=0
    )
    found: dict[str, list[tuple[str, int]]] = {}
    for endpoint_id, host, port in rows.values_list("endpoint_id", "host", "port").order_by("id"):
        found.setdefault(endpoint_id, []).append((host, port))
    return found


def _cause(row: Endpoint) -> Json:
    """Why waiting does not help; {} where it may."""
    if not (row.has_failed or row.paused_at or row.deleting_at):
        return {}
    status = Status.INACTIVE if row.paused_at else Status(row.status)
    code = row.reason_code if row.has_failed else "paused"
    return {
        "status": status.value,
        "code": code,
        "message": _sentence(code, row.reason_params),
        "retry_after_s": RETRY_AFTER_S.get(status),
    }


def _sentence(code: str, params: Mapping[str, Any]) -> str:
    with override("en"):  # an API's errors have one language
        return describe(code, params).message


# ---- how long it will take


def _phases(rows: Mapping[str, Endpoint]) -> dict[str, list[Any]]:
    """The deploy phases of each endpoint's newest replica that is on its way."""
    if not rows:
        return {}
    coming = Replica.objects.filter(
        endpoint_id__in=list(rows), state__in=(ReplicaState.WAITING, ReplicaState.STARTING)
    ).order_by("created_at")
    return {item.endpoint_id: list(item.phases.all()) for item in coming.prefetch_related("phases")}


def _outlook(row: Endpoint, phases: list[Any] | None, now: datetime) -> Json:
    usual = _usual(row.revision_id)
    if not phases:
        left = sum(usual.get(name, 0.0) for name in phase_times.TIMED if name != PhaseName.PULLING)
        return {"phase": "starting a replica", "eta_s": left or None}
    eta = phase_times.estimate(phases, usual, now)
    present = next((item for item in phases if item.finished_at is None), phases[-1])
    with override("en"):
        phase = str(PhaseName(present.name).label).lower()
    late = eta is not None and bool(eta.late)
    return {
        "phase": f"{phase}, longer than usual" if late else phase,
        "eta_s": None if eta is None or late else round(eta.seconds_left, 1),
        # For those whose time runs out meanwhile.
        "message": _sentence(row.reason_code, row.reason_params) if row.reason_code != "asleep" else "",
    }


_known_usual: dict[int, tuple[float, Mapping[str, float]]] = {}


def _usual(revision_id: int | None) -> Mapping[str, float]:
    """phase → seconds, of a moment ago."""
    if revision_id is None:
        return {}
    at, found = _known_usual.get(revision_id, (0.0, {}))
    if not 0 <= time.monotonic() - at < _USUAL_S or not at:
        if len(_known_usual) > 1000:
            _known_usual.clear()
        revision = (
            Revision.objects.select_related("model__framework", "instance_type")
            .filter(pk=revision_id)
            .first()
        )
        found = phase_times.usual_of(revision) if revision is not None else {}
        _known_usual[revision_id] = time.monotonic(), found
    return found
