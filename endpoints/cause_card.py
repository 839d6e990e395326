"""The card that says why an endpoint is not as it was asked to be: words, facts, last lines. Reads, never writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.utils.dateparse import parse_datetime
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from endpoints.errors import Reason, describe
from endpoints.models import Endpoint, Replica, ReplicaState, Status

CARD_LINES = 14
LONGEST_FACT = 600
# What a deployment that is under way may be told before it has failed: reconciler/hints.py.
HINTS = frozenset({"wrong_port", "bound_to_loopback"})


@dataclass(frozen=True, slots=True)
class Evidence:
    """One observed fact."""

    label: str
    value: str


@dataclass(frozen=True, slots=True)
class Cause:
    """Why an endpoint is not as it was asked to be.

    tone      bad: it serves nobody; warn: something is to be done; info: it is on its way
    replica   the one that failed, if one did
    is_hint   nothing has failed yet: it is what will probably be the cause
    tries     attempts that failed in a row, 0 where that does not matter
    """

    reason: Reason
    tone: str
    evidence: tuple[Evidence, ...]
    log_lines: tuple[str, ...]
    replica: Replica | None
    is_hint: bool = False
    tries: int = 0
    next_try_at: datetime | None = None


def cause(endpoint: Endpoint, replicas: Sequence[Replica]) -> Cause | None:
    """The card for every status but ACTIVE: a failure with its evidence, or one calm line."""
    if not endpoint.reason_code:
        return None
    params = endpoint.reason_params
    reason = describe(endpoint.reason_code, params)
    is_hint = endpoint.reason_code in HINTS and endpoint.status in (Status.DEPLOYING, Status.UPDATING)
    culprit = None if is_hint else _culprit(endpoint, replicas)
    evidence = _evidence(endpoint, replicas, culprit)
    lines = str(evidence.get("logs") or "").splitlines()
    due = parse_datetime(str(params.get("next_try_at") or ""))
    return Cause(
        reason,
        "warn" if is_hint else _tone(endpoint, reason),
        tuple(_facts(evidence)),
        tuple(lines[-CARD_LINES:]),
        culprit,
        is_hint=is_hint,
        tries=int(params.get("tries") or 0),
        next_try_at=due,
    )


def _tone(endpoint: Endpoint, reason: Reason) -> str:
    tone = {Status.FAILED: "bad", Status.DEGRADED: "warn"}.get(Status(endpoint.status), "info")
    if tone != "info" or endpoint.status != Status.PENDING:
        return tone
    blocked = reason.fix or any(item.get("type") == "Blocked" for item in endpoint.conditions)
    return "warn" if blocked else "info"


def _culprit(endpoint: Endpoint, replicas: Sequence[Replica]) -> Replica | None:
    """The replica whose end the reason tells."""
    failed = [item for item in replicas if item.state == ReplicaState.FAILED]
    named = [item for item in failed if item.name == endpoint.reason_params.get("replica")]
    same = [item for item in failed if item.reason_code == endpoint.reason_code]
    any_of = failed if endpoint.status == Status.FAILED else []
    return max(named or same or any_of, key=lambda item: item.ended_at or item.created_at, default=None)


def _evidence(endpoint: Endpoint, replicas: Sequence[Replica], culprit: Replica | None) -> Mapping[str, Any]:
    live = (item for item in replicas if item.evidence and item.state != ReplicaState.FAILED)
    source = culprit or next(live, None)
    if source is not None:
        return dict(source.evidence)
    error = endpoint.reason_params.get("error")
    return {"error": error} if error else {}


def _facts(evidence: Mapping[str, Any]) -> list[Evidence]:
    facts = []
    for name, label, shown in _SHOWN:
        if name in evidence and evidence[name] not in (None, ""):
            facts.append(Evidence(str(label), shown(evidence[name])[:LONGEST_FACT]))
    return facts


def _exit_code(code: Any) -> str:
    signals = {137: "SIGKILL", 139: "SIGSEGV", 143: "SIGTERM", 134: "SIGABRT"}
    return f"{code} ({signals[code]})" if code in signals else str(code)


def _yes_or_no(value: Any) -> str:
    return _("yes") if value else _("no")


def _ports(value: Any) -> str:
    return ", ".join(map(str, value)) or _("no port")


_SHOWN: tuple[tuple[str, Promise, Callable[[Any], str]], ...] = (
    ("exit_code", gettext_lazy("Exit code"), _exit_code),
    ("oom_killed", gettext_lazy("Ended for memory"), _yes_or_no),
    ("listening", gettext_lazy("Listens on"), _ports),
    ("answer", gettext_lazy("Answered"), str),
    ("fits", gettext_lazy("Context that fits"), str),
    ("image", gettext_lazy("Image"), str),
    ("address", gettext_lazy("Address"), str),
    ("detail", gettext_lazy("The program said"), str),
    ("error", gettext_lazy("The engine said"), str),
)
