"""From what was seen of a failed replica to its cause. Pure: the facts are gathered elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from endpoints.causes.rules import rules
from runtimes.contract import Listener

# A model server may open other ports before the one it is asked on: before this nothing is said of a wrong one.
HINT_AFTER_S = 20.0
MOST_PORTS = 3


@dataclass(frozen=True, slots=True)
class Facts:
    """What was seen of a replica that failed.

    code        what the reconciler or the driver made of it: container_exited, health_timeout, image_not_found …
    port, path  where it was asked whether it is healthy
    logs        its last lines
    error       the engine's own text
    listening   the ports it listened on, None if that is not known
    answer      the HTTP status of its last answer on the health path, None if it gave none
    """

    code: str
    port: int = 0
    path: str = ""
    logs: str = ""
    error: str = ""
    listening: tuple[Listener, ...] | None = None
    answer: int | None = None


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """A code of endpoints.errors, and what its sentence is filled with."""

    code: str
    params: Mapping[str, Any] = field(default_factory=dict)


def diagnose(facts: Facts) -> Diagnosis:
    """The cause as far as it can be told; the code it came with where nothing more can be said."""
    if facts.code == "health_timeout":
        found = misplaced(facts.listening, facts.port) or _unhealthy(facts)
        if found is not None:
            return found
    for rule in rules():
        params = rule.match(facts.code, facts.logs, facts.error)
        if params is not None:
            return Diagnosis(rule.code, params)
    return Diagnosis(facts.code)


def misplaced(listening: Sequence[Listener] | None, expected_port: int) -> Diagnosis | None:
    """Whether a running server listens where nobody asks it: on another port, or for itself alone."""
    if not listening:
        return None
    open_ports = [item.port for item in listening if not item.loopback]
    if expected_port in open_ports:
        return None
    own = [item.port for item in listening if item.loopback]
    if expected_port in own or not open_ports:
        port = expected_port if expected_port in own else own[0]
        return Diagnosis("bound_to_loopback", {"port": port})
    shown = open_ports[:MOST_PORTS]
    return Diagnosis(
        "wrong_port", {"listens": ", ".join(map(str, shown)), "ports": shown, "port": expected_port}
    )


def early_hint(
    listening: Sequence[Listener] | None, expected_port: int, age_s: float
) -> dict[str, Any] | None:
    """What a deployment that is under way may tell already: {"code", "listens", "ports", "port"}, or None.

    Only a hint: a server that loads its model for minutes may open its port last.

    age_s   since the container was started
    """
    found = misplaced(listening, expected_port) if age_s >= HINT_AFTER_S else None
    return {"code": found.code, **found.params} if found else None


def _unhealthy(facts: Facts) -> Diagnosis | None:
    if facts.answer is None or 200 <= facts.answer < 300:
        return None
    return Diagnosis("unhealthy_answer", {"answer": facts.answer, "path": facts.path})
