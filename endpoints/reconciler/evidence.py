"""What is known of a replica at its end: gathered before its container goes, because it goes with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from endpoints.causes import Facts, diagnose
from endpoints.models import Replica, Revision
from endpoints.reconciler import probe
from endpoints.specs import HealthCheck, health_check, max_context
from runtimes.contract import Listener, Runtime
from runtimes.errors import RuntimeFailure

LINES = 200
BYTES = 32_000


def collect(
    replica: Replica, code: str, params: Mapping[str, Any], runtime: Runtime
) -> tuple[str, dict[str, Any]]:
    """The cause's code, as far as it can be told, and the evidence that is kept with the replica.

    code, params   what the planner or the driver made of it
    """
    check = health_check(replica.revision)
    logs = _last_words(runtime, replica.name)
    listening, answer = _last_look(replica, check, runtime) if code == "health_timeout" else (None, None)
    found = diagnose(
        Facts(code, check.port, check.path, logs, str(params.get("error") or ""), listening, answer)
    )
    evidence = {**_expected(replica.revision, check), **params, **found.params, "logs": logs}
    if listening is not None:
        evidence["listening"] = [item.port for item in listening]
    return found.code, evidence


def cause_of(failure: RuntimeFailure) -> str:
    """The code of what a driver raised; its own text may tell more than its class."""
    return diagnose(Facts(failure.code, error=failure.evidence)).code


def _expected(revision: Revision, check: HealthCheck) -> dict[str, Any]:
    """What the replica was asked to be: sentences and fixes are filled with it."""
    memory = revision.instance_type.memory_gib
    known: dict[str, Any] = {"port": check.port, "path": check.path, "memory": f"{memory:g} GiB"}
    context = max_context(revision)
    if context:
        known["asked"] = context
    return known


def _last_look(
    replica: Replica, check: HealthCheck, runtime: Runtime
) -> tuple[tuple[Listener, ...] | None, int | None]:
    """Where it listens after all, and what it answers on its health path: as much of it as can be had."""
    try:
        listening = runtime.listening(replica.name)
        seen = runtime.observe(replica.name)
    except RuntimeFailure:
        return None, None
    answer = None
    if seen is not None and seen.address is not None:
        answer = probe.status(probe.url(seen.address, check.path))
    return listening, answer


def _last_words(runtime: Runtime, name: str) -> str:
    try:
        return runtime.logs(name, tail=LINES)[-BYTES:].replace("\x00", "")
    except RuntimeFailure as failure:
        return f"(logs could not be read: {failure.evidence})"
