"""What must never have happened, read from what was seen: the engine's events, the triggers' log, and the answers."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from tests.faults.load import Answer
from tests.faults.watch import Seen, params

_TOLD = {
    "starting": ("replica.started",),
    "ready": ("replica.ready",),
    "stopped": ("replica.stopped",),
    "failed": ("replica.failed", "replica.lost"),
}
_ASKED = {
    "endpoint.inserted": ("endpoint.created",),
    "endpoint.deleted": ("endpoint.deleted",),
    "endpoint.deleting_at": ("endpoint.delete_requested",),
    "endpoint.paused_at": ("endpoint.paused", "endpoint.resumed"),
    "endpoint.min_replicas": ("endpoint.changed", "endpoint.revised"),
    "endpoint.revision_id": ("endpoint.revised", "endpoint.rolled_back", "revision.taken_back"),
    "endpoint.epoch": ("endpoint.restarted", "endpoint.retried"),
}


def wrong(seen: Sequence[Seen], answers: Sequence[Answer], mine: dict[str, set[str]]) -> list[str]:
    """Everything that must not have happened. mine: endpoint id → identities that may answer for it."""
    return [
        *two_at_once(seen, "berth.replica", ("create", "destroy")),
        *gpu_twice(seen),
        *transitions_untold(seen),
        *requests_untold(seen),
        *answered_by_another(answers, mine),
    ]


def two_at_once(seen: Sequence[Seen], label: str, life: tuple[str, str]) -> Iterator[str]:
    """Two containers that carried the same label's value at the same time."""
    born, gone = life
    there: dict[str, set[str]] = defaultdict(set)
    for one in seen:
        value = one.labels.get(label, "") if one.source == "engine" else ""
        if not value:
            continue
        if one.kind == born:
            there[value].add(one.subject)
            if len(there[value]) > 1:
                yield f"{len(there[value])} containers with {label}={value} at once"
        elif one.kind == gone:
            there[value].discard(one.subject)


def gpu_twice(seen: Sequence[Seen]) -> Iterator[str]:
    """One GPU in two containers that ran at the same time. Which ones a container has stands in its replica's row."""
    given: dict[str, list[str]] = {}
    has: dict[str, str] = {}
    for one in seen:
        if one.kind == "replica.gpu_ids":
            given[one.subject] = json.loads(one.new or "[]") or given.get(one.subject, [])
        name = one.labels.get("name", "") if one.source == "engine" else ""
        for uuid in given.get(name, ()):
            if one.kind == "start":
                if has.get(uuid, name) != name:
                    yield f"{uuid} in two running containers, {has[uuid]} and {name}"
                has[uuid] = name
            elif one.kind == "die" and has.get(uuid) == name:
                del has[uuid]


def transitions_untold(seen: Sequence[Seen]) -> Iterator[str]:
    """A change of status or of a replica's state without its event, or told in another order."""
    changed: dict[str, list[tuple[str, str]]] = defaultdict(list)
    told: dict[str, list[tuple[str, str]]] = defaultdict(list)
    states: dict[str, list[str]] = defaultdict(list)
    said: dict[str, list[str]] = defaultdict(list)
    for one in seen:
        if one.kind == "endpoint.status":
            changed[one.endpoint].append((one.old, one.new))
        elif one.kind == "replica.state" and one.new in _TOLD:
            states[one.subject].append(one.new)
        elif one.kind == "event" and one.old == "status.changed":
            told[one.endpoint].append((params(one)["before"], params(one)["after"]))
        elif one.kind == "event" and one.old.startswith("replica."):
            state = next((state for state, kinds in _TOLD.items() if one.old in kinds), "")
            if state:
                said[str(params(one)["replica"])].append(state)
    for endpoint in changed.keys() | told.keys():
        if changed[endpoint] != told[endpoint]:
            yield f"{endpoint}: status went {changed[endpoint]}, events say {told[endpoint]}"
    for replica in states.keys() | said.keys():
        if states[replica] != said[replica]:
            yield f"{replica}: went {states[replica]}, events say {said[replica]}"


def requests_untold(seen: Sequence[Seen]) -> Iterator[str]:
    """Something was asked for, and no event says so."""
    kinds: dict[str, list[str]] = defaultdict(list)
    wrote: dict[tuple[str, str], int] = defaultdict(int)
    for one in seen:
        if one.kind == "event":
            kinds[one.endpoint].append(one.old)
        elif one.kind in _ASKED and not (one.kind == "endpoint.revision_id" and not (one.old and one.new)):
            wrote[one.endpoint, one.kind] += 1
    for (endpoint, change), count in wrote.items():
        events = sum(kinds[endpoint].count(kind) for kind in _ASKED[change])
        if events < count:
            yield f"{endpoint}: {change} {count} times, and {events} of the events {_ASKED[change]}"


def answered_by_another(answers: Sequence[Answer], mine: dict[str, set[str]]) -> Iterator[str]:
    """A replica of one endpoint answered a request to another one."""
    strange = Counter(
        (one.endpoint, one.identity)
        for one in answers
        if one.identity and one.identity not in mine.get(one.endpoint, set())
    )
    for (endpoint, identity), count in strange.items():
        yield f"{endpoint} was answered by {identity}, {count} times"


def lost(answers: Sequence[Answer], endpoint: str) -> Iterator[str]:
    """Requests to an endpoint that got no whole answer."""
    failed = [one for one in answers if one.endpoint == endpoint and one.problem]
    if failed:
        yield f"{len(failed)} requests to the bystander were lost, the first: {failed[0].problem}"
