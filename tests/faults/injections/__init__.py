"""One file a kind of fault. `strike(story)` does it, and undoes what a machine's owner would undo."""

from __future__ import annotations

from collections.abc import Callable

from tests.faults.injections import (
    by_hand,
    changed_again,
    clock,
    cut,
    deleted,
    flush,
    foreign,
    freeze,
    full_volume,
    kill,
    two_workers,
)
from tests.faults.plan import FULL
from tests.faults.story import Story

_STRIKES: dict[str, Callable[[Story], None]] = {
    "flush": flush.strike,
    "freeze": freeze.strike,
    "cut": cut.strike,
    "clock": clock.strike,
    "two workers": two_workers.strike,
    "by hand": by_hand.strike,
    "foreign": foreign.strike,
    "changed again": changed_again.strike,
    "deleted": deleted.strike,
    FULL: full_volume.strike,
}
_BEFORE: dict[str, Callable[[Story], None]] = {"two workers": two_workers.before}


def before(story: Story) -> None:
    """What has to be there before the request is made."""
    _BEFORE.get(story.scenario.fault, lambda _story: None)(story)


def strike(story: Story) -> None:
    """The scenario's fault, now."""
    fault = story.scenario.fault
    if fault.startswith("kill "):
        kill.strike(story, fault.removeprefix("kill "))
    else:
        _STRIKES[fault](story)
