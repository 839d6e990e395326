"""Metrics of 1,000 busy endpoints with 3,000 replicas: a whole round, a chart of a day, and what it all weighs."""

from __future__ import annotations

from tests.bench.fleet import ENDPOINTS, REPLICAS, answer
from tests.bench.result import Result

GOAL_ROUND_S = 4.0
GOAL_CHART_MS = 100.0


def run() -> list[Result]:
    """On SQLite, full tables; a round is `Metering.round` with figures of a gateway and all replicas' model servers."""
    found = answer("tests.bench.metrics_inside", str(ENDPOINTS), str(REPLICAS))
    spent, chart = found["round"], found["chart"]
    label = f"measuring and deciding for {ENDPOINTS} endpoints, {ENDPOINTS * REPLICAS} replicas"
    return [
        Result(f"{label}, a round's processor time", round(spent["median"], 2), "s", "", None),
        Result(
            f"{label}, of the longest round",
            round(spent["most"], 2),
            "s",
            f"<= {GOAL_ROUND_S:g}",
            spent["most"] <= GOAL_ROUND_S,
        ),
        Result(
            "a chart of 24 h there, p50",
            round(chart["wall"] * 1000),
            "ms",
            f"<= {GOAL_CHART_MS:g}",
            chart["wall"] * 1000 <= GOAL_CHART_MS,
        ),
        Result("a chart of 24 h there, processor time", round(chart["cpu"] * 1000), "ms", "", None),
        Result("/metrics of them all, processor time", round(found["scrape"]["cpu"] * 1000), "ms", "", None),
        *_weights("idle, 1 replica", found["idle"]),
        *_weights(f"busy, {REPLICAS} replicas with GPUs", found["busy"]),
    ]


def _weights(name: str, found: dict[str, float]) -> list[Result]:
    return [
        Result(f"database growth a day, endpoint {name}", round(found["day"] / 1000), "kB", "", None),
        Result(
            f"and in all, when no more is added than goes, endpoint {name}",
            round(found["whole"] / 1e6, 2),
            "MB",
            "",
            None,
        ),
    ]
