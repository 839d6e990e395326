"""What lies on the gateway's disk for Envoy to work with, and beside it what Envoy took last.

`xds/` is what Envoy reads. `good/` has the same files as Envoy was last seen to work with them: hard links, since
files are replaced and never changed. They differ while Envoy is asked to take something new, and after an agent was
killed in that moment. `versions.json` says what the control plane calls the routing that lies there, since files of
several snapshots may lie side by side.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from gateway import assignments, bootstrap, consistency, defaults, files, names

Json = dict[str, Any]
Resources = Mapping[str, Json]

GOOD_DIR = "good"
VERSIONS = "versions.json"


class Shelf:
    """present: file → what lies there for Envoy. good: file → what Envoy took last."""

    def __init__(self, home: Path) -> None:
        self.present: dict[str, Json] = {}
        self.good: dict[str, Json] = {}
        self._xds = home / bootstrap.XDS_DIR
        self._good = home / GOOD_DIR
        self._versions = home / VERSIONS
        self._called: dict[str, str] = {}  # digest of a routing → the snapshot's version

    def read(self) -> None:
        """What an agent before us has left. Raises OSError if there is no room for anything."""
        for directory in (self._xds, self._good):
            directory.mkdir(exist_ok=True, mode=0o700)
        self.present, self.good = _documents(self._xds), _documents(self._good)
        for name in self.present:
            if _is_same(self._xds / name, self._good / name):
                self.good[name] = self.present[name]
        for group in names.GROUPS:
            self._mend(group)
        if names.ASSIGNMENTS in self.present:  # an agent may have ended before it had written each of them
            assignments.spread(self.present[names.ASSIGNMENTS], self._xds / assignments.DIRECTORY)
        called = files.read_json(self._versions)
        if isinstance(called, dict):
            self._called = {str(digest): str(version) for digest, version in called.items()}

    def _mend(self, group: Iterable[str]) -> None:
        """What is damaged is not there; the one before takes its place, if that is whole."""
        for kept in (self.good, self.present):
            if not consistency.problems({**defaults.BUILT_IN, **kept}).keys().isdisjoint(group):
                for name in group:
                    kept.pop(name, None)
        for name in group:
            if name not in self.present and name in self.good:
                self.put(name, self.good[name])

    @property
    def is_whole(self) -> bool:
        return all(name in self.present for name in names.FILES)

    @property
    def can_start(self) -> bool:
        """Whether an Envoy could start from it, after `fill`."""
        return all(name in self.present for name in defaults.ESSENTIAL)

    def fill(self) -> list[str]:
        """Put what is built in where nothing lies; which files that are. Raises OSError."""
        missing = [name for name in defaults.BUILT_IN if name not in self.present]
        for name in missing:
            self.put(name, defaults.BUILT_IN[name])
        return missing

    @property
    def version(self) -> str:
        """The newest snapshot whose routing lies there, "" if that is of none that was noted."""
        return self._called.get(_routing(self.present), "")

    def put(self, name: str, content: Json) -> None:
        """Raises OSError; then the old file is still there."""
        files.write_json(self._xds / name, content)
        if name == names.ASSIGNMENTS:
            assignments.spread(content, self._xds / assignments.DIRECTORY, self.present.get(name))
        self.present[name] = content

    def forget(self, group: Iterable[str]) -> None:
        """As if nothing of it had ever been there."""
        for name in group:
            self.present.pop(name, None)
            self.good.pop(name, None)

    def call(self, new: Resources, version: str) -> None:
        """Note what the routing in `new` is called, before it is put there. Raises OSError."""
        kept = {_routing(self.present), _routing(self.good)}
        called = {digest: old for digest, old in self._called.items() if digest in kept}
        called[_routing(new)] = version
        if called != self._called:
            files.write_json(self._versions, called)
            self._called = called

    def took(self, group: Iterable[str]) -> None:
        """Envoy works with these as they lie there. Raises OSError."""
        for name in group:
            self.good[name] = self.present[name]
            if not _is_same(self._xds / name, self._good / name):
                link = self._good / f".{name}"
                link.unlink(missing_ok=True)
                try:
                    os.link(self._xds / name, link)
                    link.replace(self._good / name)
                except OSError:  # a file system without links
                    files.write(self._good / name, (self._xds / name).read_bytes())


def _routing(resources: Resources) -> str:
    return " ".join(str(resources.get(name, {}).get("version_info", "")) for name in names.ROUTING)


def _documents(directory: Path) -> dict[str, Json]:
    found = {name: files.read_json(directory / name) for name in names.FILES}
    return {name: document for name, document in found.items() if isinstance(document, dict)}


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False
