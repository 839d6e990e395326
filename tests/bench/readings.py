"""Reading the figures of 3,000 replicas: runtime, GPUs and model servers, when all are well and when many hang."""

from __future__ import annotations

from tests.bench.fleet import ENDPOINTS, REPLICAS, answer
from tests.bench.result import Result

GOAL_ROUND_S = 4.0
HUNG = 300
GOAL_HUNG_S = 2.5


def run() -> list[Result]:
    """On the fake runtime; one server on loopback prints llama.cpp's page, another one hangs."""
    found = answer("tests.bench.readings_inside", str(ENDPOINTS * REPLICAS), str(HUNG))
    well, first, hung = found["well"], found["first"], found["hung"]
    label = f"reading the figures of {ENDPOINTS * REPLICAS} replicas"
    return [
        Result(f"{label}, the first round's processor time", round(first["cpu"], 2), "s", "", None),
        Result(
            f"{label}, a round's processor time",
            round(well["cpu"], 2),
            "s",
            f"<= {GOAL_ROUND_S:g}",
            well["cpu"] <= GOAL_ROUND_S,
        ),
        Result(f"{label}, wall time", round(well["wall"], 2), "s", "", None),
        Result(
            f"{label}, the round in which {HUNG} model servers begin to hang, wall time",
            round(hung["wall"], 2),
            "s",
            f"<= {GOAL_HUNG_S:g}",
            hung["wall"] <= GOAL_HUNG_S,
        ),
    ]
