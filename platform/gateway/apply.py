"""Takes Envoy from the snapshot it serves to a new one, group by group of files (names.GROUPS), and a group back if
Envoy refuses it. The other groups stay: a route that cannot be taken holds up no revocation.

The order keeps every moment whole: a cluster is there before the first route to it and until after the last one
(the unions in between are of clusters, whose extra members nobody is sent to).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gateway import assignments, names
from gateway.admin import Admin, AdminError
from gateway.shelf import Shelf

Json = dict[str, Any]
Resources = Mapping[str, Json]
Group = tuple[str, ...]

_PATIENCE_S = 15.0  # Envoy takes milliseconds; a busy machine with thousands of endpoints a second


@dataclass(frozen=True, slots=True)
class Refusal:
    """Envoy did not take `file`; `evidence` is its own words where it has some.

    final  it said so: the same content would be refused again
    """

    file: str
    evidence: str
    final: bool = True


def steps(old: Resources, new: Resources, group: Group) -> list[tuple[str, Json]]:
    """The group's files to write, in order, with the content of each. Nothing for what is already there.

    old: what Envoy works with; of an Envoy that has taken nothing yet, nothing.
    """
    plan: list[tuple[str, Json]] = []
    target = {name: new[name] for name in group}
    unions = (
        {name: kind for name, kind in _kinds(new).items() if name in old} if group == names.ROUTING else {}
    )
    for name, kind in unions.items():
        target[name] = _with_leaving(old[name], new[name], kind)
    for name in group:
        if name not in old or target[name]["version_info"] != old[name]["version_info"]:
            plan.append((name, target[name]))
    for name in unions:
        if target[name]["version_info"] != new[name]["version_info"]:
            plan.append((name, new[name]))
    return plan


@dataclass(frozen=True, slots=True)
class _Kind:
    """Of what has to be there before the first that leads to it and until after the last one. leads_on: whether there
    is anything behind it."""

    name_of: Callable[[Json], str]
    leads_on: Callable[[Json], bool]


def _kinds(new: Resources) -> dict[str, _Kind]:
    """By file."""
    served = assignments.with_addresses(new[names.ASSIGNMENTS])
    return {
        names.CLUSTERS: _Kind(
            lambda cluster: str(cluster["name"]),
            lambda cluster: "load_assignment" in cluster or cluster["name"] in served,
        ),
        names.ASSIGNMENTS: _Kind(assignments.name_of, assignments.has_address),
    }


def _with_leaving(old: Json, new: Json, kind: _Kind) -> Json:
    """The new ones and those of the old ones that are about to leave."""
    before = {kind.name_of(one): one for one in old["resources"]}
    after = {kind.name_of(one): one for one in new["resources"]}
    leaving = {
        name: one
        for name, one in before.items()
        if name not in after or (kind.leads_on(one) and not kind.leads_on(after[name]))
    }
    if not leaving:
        return new
    union = {**after, **leaving}
    if union == before:
        return old  # only removals: the union is what is there
    return {
        "version_info": f"{new['version_info']}+{old['version_info']}",
        "resources": list(union.values()),
    }


class Applier:
    """Writes snapshots onto `shelf` for the Envoy behind `admin`.

    evidence()   what Envoy has written to its log since the call before, for a refusal
    meanwhile()  called again and again while Envoy takes its time with a routing; it may `apply` other groups
    """

    def __init__(self, shelf: Shelf, admin: Admin, evidence: Callable[[], str]) -> None:
        self.meanwhile: Callable[[], None] = lambda: None
        self._patient = False
        self._shelf = shelf
        self._admin = admin
        self._evidence = evidence
        self._refused: dict[Group, tuple[Resources, Refusal]] = {}

    def store(self, new: Resources, version: str, groups: Iterable[Group]) -> None:
        """Write these groups for an Envoy that does not run yet. Raises OSError."""
        for group in groups:
            self._note(group, new, version)
            for name in group:
                if self._shelf.present.get(name) != new[name]:
                    self._shelf.put(name, new[name])

    def apply(self, new: Resources, version: str, groups: Iterable[Group]) -> list[Refusal]:
        """Make the running Envoy serve these groups of `new`. One that is refused is as it was, on disk and in Envoy.

        Raises AdminError if Envoy went away meanwhile (what was written stays: it will start from that, and the next
        `apply` of the same snapshot completes it), OSError if a file cannot be written.
        """
        found = (self._apply(group, new, version) for group in groups)
        return [refusal for refusal in found if refusal is not None]

    def _apply(self, group: Group, new: Resources, version: str) -> Refusal | None:
        tried, refusal = self._refused.get(group, ({}, None))
        if refusal is not None and all(tried[name] == new[name] for name in group):
            return refusal  # Envoy has said why; trying again would only disturb what works
        self._refused.pop(group, None)
        self._note(group, new, version)
        plan = steps(self._shelf.good, new, group)
        with self._waiting_for(group):
            refusal = next(filter(None, (self._put(name, content) for name, content in plan)), None)
            if any(name == names.ASSIGNMENTS for name, _ in plan) and refusal is None:
                refusal = self._followed()
            if refusal is None:
                self._shelf.took(group)
            else:
                self._put_back(group)
        if refusal is not None and refusal.final:
            self._refused[group] = ({name: new[name] for name in group}, refusal)
        return refusal

    def settle(self) -> list[Refusal]:
        """What lies there is what an Envoy works with that was just started or found: if it refuses a group, the one
        before is put back, where there is one. Raises AdminError, OSError."""
        refusals = []
        for group in names.GROUPS:
            if any(name not in self._shelf.present for name in group):
                continue
            with self._waiting_for(group):
                refusal = next(filter(None, (self._awaited(name, {}) for name in group)), None)
                if names.ASSIGNMENTS in group and refusal is None:
                    refusal = self._followed()
                if refusal is None:
                    self._shelf.took(group)
                else:
                    self._put_back(group)
                    refusals.append(refusal)
        return refusals

    @contextlib.contextmanager
    def _waiting_for(self, group: Group) -> Iterator[None]:
        self._patient = group == names.ROUTING
        try:
            yield
        finally:
            self._patient = False

    def _pause(self, seconds: float) -> None:
        time.sleep(seconds)
        if self._patient:
            self._patient = False
            self.meanwhile()
            self._patient = True

    def _note(self, group: Group, new: Resources, version: str) -> None:
        if group == names.ROUTING:
            self._shelf.call(new, version)

    def _put(self, name: str, content: Json) -> Refusal | None:
        before = self._admin.rejections()
        self._evidence()
        self._shelf.put(name, content)
        return self._awaited(name, before)

    def _awaited(self, name: str, before: Mapping[str, int]) -> Refusal | None:
        """None as soon as Envoy works with what lies there. before: the rejections that are not about that."""
        if name not in names.ENVOY_FILES:
            return None
        wanted = self._shelf.present[name]["version_info"]
        deadline = time.monotonic() + _PATIENCE_S
        pause = 0.004
        while time.monotonic() < deadline:
            if self._admin.versions().get(name) == wanted:
                return None
            if pause > 0.1 and self._admin.rejections()[name] > before.get(name, 0):
                return Refusal(name, self._evidence() or "Envoy gave no reason")
            self._pause(pause)
            pause = min(pause * 1.6, 0.15)
        evidence = self._evidence() or f"Envoy did not take it within {_PATIENCE_S:.0f} s"
        return Refusal(name, evidence, final=False)

    def _followed(self) -> Refusal | None:
        """None as soon as each cluster whose replicas lie in a file of their own works with that file. Envoy looks
        twice a second, and at once into the file of a cluster that is new; what it refuses it refuses each time."""
        wanted = _assigned(self._shelf.present)
        began = time.monotonic()
        refused: dict[str, int] = {}
        ask_at = began + 1.2 * assignments.POLL_S
        while wanted and (behind := _behind(wanted, self._admin.assigned())):
            now = time.monotonic()
            if now > ask_at:
                before, refused = refused, self._admin.assignments_refused()
                if any(0 < before.get(name, 0) < refused.get(name, 0) for name in behind):
                    text = self._evidence() or f"Envoy refused the replicas of {behind[0]}"
                    return Refusal(names.ASSIGNMENTS, text)
                ask_at = now + 1.2 * assignments.POLL_S
            if now > began + _PATIENCE_S:
                text = f"Envoy did not take the replicas of {behind[0]} within {_PATIENCE_S:.0f} s"
                return Refusal(names.ASSIGNMENTS, text, final=False)
            self._pause(0.03)
        return None

    def _put_back(self, group: Group) -> None:
        """Routes before clusters: none may lead to a cluster that goes. Envoy has had all of this before."""
        if any(name not in self._shelf.good for name in group):
            return
        if names.ASSIGNMENTS in group:  # those that left are there again before their clusters are
            present, good = self._shelf.present[names.ASSIGNMENTS], self._shelf.good[names.ASSIGNMENTS]
            self._shelf.put(
                names.ASSIGNMENTS, _with_leaving(present, good, _kinds(self._shelf.good)[names.ASSIGNMENTS])
            )
        for name in reversed(group):
            good = self._shelf.good[name]
            if self._shelf.present[name] is not good:
                self._shelf.put(name, good)
            deadline = time.monotonic() + _PATIENCE_S
            while (
                name in names.ENVOY_FILES
                and self._admin.versions().get(name) != good["version_info"]
                and time.monotonic() < deadline
            ):
                self._pause(0.02)
        self._shelf.took(group)


def serves(admin: Admin, resources: Resources) -> bool:
    """Whether Envoy's own statistics name exactly these files."""
    wanted = _assigned(resources)
    try:
        versions = admin.versions()
        assigned = admin.assigned() if wanted else {}
    except AdminError:
        return False
    return not _behind(wanted, assigned) and all(
        versions.get(name) == resources[name]["version_info"] for name in names.ENVOY_FILES
    )


def _assigned(resources: Resources) -> dict[str, str]:
    """Cluster → version of its replicas; of those that have them in a file of their own."""
    found = assignments.versions(resources[names.ASSIGNMENTS])
    clusters = {c["name"] for c in resources[names.CLUSTERS]["resources"] if "load_assignment" not in c}
    return {name: version for name, version in found.items() if name in clusters}


def _behind(wanted: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    return [name for name, version in wanted.items() if found.get(name) != version]
