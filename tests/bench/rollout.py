"""Zero lost requests: rolling updates, scaling and killed processes under a load of requests and long streams."""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path

from tests.bench.result import Result
from tests.support_rollouts import Size
from tests.support_rollouts import run as roll

FULL = Size(rollouts=10, requests=20_000, streams=850, stream_s=30, shorts=30, pause_s=0.4)
SHARE = 25  # per cent of the requests that have to be streams


def run() -> list[Result]:
    """One run of the full size."""
    with tempfile.TemporaryDirectory(prefix="berth-bench-") as folder:
        outcome = roll(Path(folder), FULL)
    print(f"\n  {outcome.words()}", file=sys.stderr)
    tally = outcome.load.tally
    for moment, what, wrong in tally.failures[:20]:
        print(f"  failed: {moment:.2f} {what} {wrong}", file=sys.stderr)
    share = 100 * tally.answered["stream"] / max(1, tally.total)
    longest = max(outcome.steps_s)
    return [
        Result("rolling updates under load", outcome.rollouts, "", ">= 10", outcome.rollouts >= 10),
        Result("requests, each compared byte for byte", tally.total, "", ">= 20000", tally.total >= 20_000),
        Result("of them streams", round(share), "%", f">= {SHARE}", share >= SHARE),
        Result("failed", len(tally.failures), "", "0", not tally.failures),
        Result(
            "a stream's length over the longest rollout step",
            round(outcome.load.stream_s / longest, 1),
            "×",
            "> 1",
            outcome.load.stream_s > longest,
        ),
        Result("rollout step, median", round(statistics.median(outcome.steps_s), 1), "s", "", None),
    ]
