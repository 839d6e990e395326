"""What becomes of a snapshot that was fetched: what of it is taken, and why the rest is not."""

from __future__ import annotations

from gateway import consistency, defaults, names
from gateway.apply import Applier, Refusal
from gateway.control import Fetched
from gateway.shelf import Shelf


class Taking:
    """refused: why parts of the newest snapshot are not in force. version: that snapshot's. oddities: what a person
    should know of it besides."""

    def __init__(self, shelf: Shelf, applier: Applier) -> None:
        self.refused: tuple[Refusal, ...] = ()
        self.version = ""
        self.oddities: list[str] = []
        self._shelf = shelf
        self._applier = applier

    def take(self, fetched: Fetched, *, envoy_runs: bool) -> None:
        """Put what can be taken on the shelf, and have a running Envoy work with it. Raises AdminError, OSError: then
        take the same again."""
        self.oddities = defaults.oddities(fetched.resources, self._shelf.present)
        new = defaults.complete(fetched.resources, self._shelf.present)
        found = consistency.problems(new)
        held = [Refusal(file, "; ".join(texts[:3])) for file, texts in found.items()]
        groups = [group for group in names.GROUPS if found.keys().isdisjoint(group)]
        self.version = fetched.version
        if envoy_runs:
            self.refused = (*held, *self._applier.apply(new, fetched.version, groups))
        else:
            self._applier.store(new, fetched.version, groups)
            self.refused = tuple(held)

    def hurry(self, fetched: Fetched) -> None:
        """Have a running Envoy refuse whom this newer snapshot refuses, while it still takes its time with the routing
        of the one before. `take` the newer one when that has ended, and never the one before again."""
        new = defaults.complete(fetched.resources, self._shelf.present)
        found = consistency.problems(new)
        groups = [group for group in names.FILTERS if found.keys().isdisjoint(group)]
        self._applier.apply(new, fetched.version, groups)

    def settle(self) -> None:
        """An Envoy was started from the shelf, or found: what it refuses is replaced. Raises AdminError, OSError."""
        refusals = self._applier.settle()
        files = {refusal.file for refusal in refusals}
        self.refused = (*(old for old in self.refused if old.file not in files), *refusals)
