"""Create → ACTIVE on Docker, beside the same container started bare and polled until it is healthy, in turns."""

from __future__ import annotations

import statistics

from tests.bench.inside import answer
from tests.bench.result import Result

ROUNDS = 5
GOAL_ABOVE_S = 1.5


def run() -> list[Result]:
    """Medians of ROUNDS deployments of all-MiniLM-L6-v2, image and weights present."""
    times = answer("tests.bench.deploy_inside", ROUNDS)
    ours, bare = statistics.median(times["ours"]), statistics.median(times["bare"])
    above = ours - bare
    return [
        Result("create → ACTIVE, Docker", round(ours, 2), "s", "", None),
        Result("bare container → healthy", round(bare, 2), "s", "", None),
        Result(
            "create → ACTIVE above the bare container",
            round(above, 2),
            "s",
            f"<= {GOAL_ABOVE_S}",
            above <= GOAL_ABOVE_S,
        ),
    ]
