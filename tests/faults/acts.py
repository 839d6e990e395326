"""What every scenario does: make a request, strike when its step is reached, wait until all is as wanted."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.faults import checker, injections
from tests.faults.plan import Scenario
from tests.faults.steps import sign_of
from tests.faults.story import Story

CONVERGE_S = 60.0
STEP_S = 30.0
LOOK_EVERY_S = 0.5


@dataclass
class Outcome:
    """What became of a scenario. reached: whether its step came; problems: what is wrong, [] if nothing."""

    scenario: Scenario
    reached: bool = False
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    converged_s: float = 0.0
    took_s: float = 0.0

    @property
    def passed(self) -> bool:
        """Nothing was wrong."""
        return not self.problems


def with_fault(story: Story, outcome: Outcome, request: Callable[[], None]) -> None:
    """Make the request; strike when its step is reached."""
    scenario, watch = story.scenario, story.world.watch
    place = watch.now()
    failed: list[BaseException] = []

    def ask() -> None:
        try:
            request()
        except Exception as error:
            failed.append(error)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    found = watch.wait(place, sign_of(story, scenario.step), STEP_S)
    outcome.reached = found is not None
    if found is not None:
        story.endpoint = story.endpoint or found.endpoint
        time.sleep(scenario.late_s)
        injections.strike(story)
    asking.join(60)
    assert not failed, f"the request failed: {failed[0]}"
    assert found is not None, f"{scenario.step} was not reached within {STEP_S} s"


def until_as_wanted(story: Story) -> float:
    """Wait until nothing differs from what is wanted; how long that took. Fails with what still differs."""
    began = time.monotonic()
    while True:
        left = checker.differences(story)
        took = time.monotonic() - began
        if not left:
            return took
        assert took < CONVERGE_S, f"after {CONVERGE_S:.0f} s: " + "; ".join(left)
        time.sleep(LOOK_EVERY_S)
