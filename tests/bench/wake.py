"""The first request to an endpoint that sleeps, beside the same container started bare and polled until healthy."""

from __future__ import annotations

import statistics

from tests.bench.inside import answer
from tests.bench.result import Result

ROUNDS = 5
CROWD = 200
GOAL_ABOVE_S = 1.5


def run() -> list[Result]:
    """Medians of ROUNDS wakes of all-MiniLM-L6-v2, then a crowd that comes while it wakes."""
    found = answer("tests.bench.wake_inside", ROUNDS, CROWD)
    ours, bare = statistics.median(found["ours"]), statistics.median(found["bare"])
    above, answered, started = ours - bare, found["answered"], found["started"]
    return [
        Result("asleep → first byte, Docker", round(ours, 2), "s", "", None),
        Result("bare container → healthy", round(bare, 2), "s", "", None),
        Result(
            "asleep → first byte above the bare container",
            round(above, 2),
            "s",
            f"<= {GOAL_ABOVE_S}",
            above <= GOAL_ABOVE_S,
        ),
        Result("requests answered of a crowd during the wake", answered, "", f"= {CROWD}", answered == CROWD),
        Result("replicas started for them", started, "", "= 1", started == 1),
        Result("the last of them answered after", round(found["crowd_s"], 2), "s", "", None),
    ]
