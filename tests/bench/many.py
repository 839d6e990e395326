"""20 endpoints asked for at once on Docker, beside the same 20 containers started bare and side by side."""

from __future__ import annotations

import statistics

from tests.bench.inside import answer
from tests.bench.result import Result

COUNT, ROUNDS = 20, 2
GOAL = 3.0


def run() -> list[Result]:
    """Medians of ROUNDS, in turns; the platform's own image, a tiny model, image and weights present."""
    found = answer("tests.bench.many_inside", COUNT, ROUNDS)
    ours, bare = (statistics.median(found[name]) for name in ("ours", "bare"))
    times = ours / bare
    return [
        Result(f"{COUNT} endpoints at once, all ACTIVE", round(ours, 1), "s", "", None),
        Result(f"{COUNT} bare containers at once, all healthy", round(bare, 1), "s", "", None),
        Result("endpoints at once, times the bare ones", round(times, 2), "×", f"<= {GOAL:g}", times <= GOAL),
    ]
