"""What is known of a replica at its end: gathered before its container goes, because it goes with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from endpoints.models import Replica
from endpoints.specs import health_check
from runtimes.contract import Runtime
from runtimes.errors import RuntimeFailure

LINES = 200
BYTES = 32_000


def collect(
    replica: Replica, code: str, params: Mapping[str, Any], runtime: Runtime
) -> tuple[str, dict[str, Any]]:
    """The reason's code and the evidence that is kept with the replica.

    code, params   what the planner made of the container's state
    """
    check = health_check(replica.revision)
    expected = {
        "port": check.port,
        "path": check.path,
        "memory": f"{replica.revision.instance_type.memory_gib:g} GiB",
    }
    return code, {**expected, **params, "logs": _last_words(runtime, replica.name)}


def _last_words(runtime: Runtime, name: str) -> str:
    try:
        return runtime.logs(name, tail=LINES)[-BYTES:].replace("\x00", "")
    except RuntimeFailure as failure:
        return f"(logs could not be read: {failure.evidence})"
