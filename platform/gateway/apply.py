"""Takes Envoy from the snapshot it serves to a new one, file by file, and back if it refuses one.

The order keeps every moment whole: a cluster is there before the first route to it and until after the last one
(the unions in between are of clusters, whose extra members nobody is sent to).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway import files, names
from gateway.admin import Admin, AdminError

Json = dict[str, Any]
Resources = Mapping[str, Json]

_PATIENCE_S = 15.0  # Envoy takes milliseconds; a busy machine with thousands of endpoints a second


@dataclass(frozen=True, slots=True)
class Refusal:
    """Envoy did not take `file`; `evidence` is its own words where it has some."""

    file: str
    evidence: str


def steps(old: Resources | None, new: Resources) -> list[tuple[str, Json]]:
    """Envoy's files to write, in order, with the content of each. Nothing for what is already there."""
    if old is None:
        return [(name, new[name]) for name in names.ENVOY_FILES]
    plan: list[tuple[str, Json]] = []
    union = _with_leaving(old[names.CLUSTERS], new[names.CLUSTERS])
    if union["version_info"] != old[names.CLUSTERS]["version_info"]:
        plan.append((names.CLUSTERS, union))
    for name in names.ENVOY_FILES[1:]:
        if new[name]["version_info"] != old[name]["version_info"]:
            plan.append((name, new[name]))
    if union["version_info"] != new[names.CLUSTERS]["version_info"]:
        plan.append((names.CLUSTERS, new[names.CLUSTERS]))
    return plan


def _with_leaving(old: Json, new: Json) -> Json:
    """The new clusters and those of the old ones that are about to leave."""
    names = {c["name"] for c in new["resources"]}
    leaving = [c for c in old["resources"] if c["name"] not in names]
    if not leaving:
        return new
    if len(leaving) + len(names) == len(old["resources"]) and new["resources"] == [
        c for c in old["resources"] if c["name"] in names
    ]:
        return old  # only removals: the union is what is there
    return {
        "version_info": f"{new['version_info']}+{old['version_info']}",
        "resources": new["resources"] + leaving,
    }


class Applier:
    """Writes snapshots into `directory` for the Envoy behind `admin`.

    evidence()  what Envoy has written to its log since the call before, for a refusal
    """

    def __init__(self, directory: Path, admin: Admin, evidence: Callable[[], str]) -> None:
        self._directory = directory
        self._admin = admin
        self._evidence = evidence

    def store(self, new: Resources) -> None:
        """Write the files for an Envoy that does not run yet. Raises OSError."""
        for name in names.FILES:
            files.write_json(self._directory / name, new[name])

    def apply(self, old: Resources, new: Resources) -> Refusal | None:
        """Make the running Envoy serve `new`; on a refusal `old` is in place again, on disk and in Envoy.

        Raises AdminError if Envoy went away meanwhile (the files of `new` that were written stay: it will start
        from them, and the next `apply` of the same snapshot completes them), OSError if a file cannot be written.
        """
        for name, content in steps(old, new):
            refusal = self._put(name, content)
            if refusal is not None:
                self._restore(old, new)
                return refusal
        if new[names.LIMITS] != old[names.LIMITS]:
            files.write_json(self._directory / names.LIMITS, new[names.LIMITS])
        return None

    def _put(self, name: str, content: Json) -> Refusal | None:
        before = self._admin.rejections()
        self._evidence()
        files.write_json(self._directory / name, content)
        deadline = time.monotonic() + _PATIENCE_S
        pause = 0.004
        while time.monotonic() < deadline:
            if self._admin.versions().get(name) == content["version_info"]:
                return None
            if pause > 0.1 and self._admin.rejections()[name] > before[name]:
                return Refusal(name, self._evidence() or "Envoy gave no reason")
            time.sleep(pause)
            pause = min(pause * 1.6, 0.15)
        return Refusal(name, self._evidence() or f"Envoy did not take it within {_PATIENCE_S:.0f} s")

    def _restore(self, old: Resources, new: Resources) -> None:
        """Routes before clusters: none may lead to a cluster that goes. Envoy has had all of this before."""
        for name in reversed(names.ENVOY_FILES):
            files.write_json(self._directory / name, old[name])
            deadline = time.monotonic() + _PATIENCE_S
            while (
                self._admin.versions().get(name) != old[name]["version_info"] and time.monotonic() < deadline
            ):
                time.sleep(0.02)


def serves(admin: Admin, resources: Resources) -> bool:
    """Whether Envoy's own statistics name exactly these files."""
    try:
        versions = admin.versions()
    except AdminError:
        return False
    return all(versions.get(name) == resources[name]["version_info"] for name in names.ENVOY_FILES)
