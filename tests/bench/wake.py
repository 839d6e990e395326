"""The first request to an endpoint that sleeps, beside the same container started bare and polled until healthy."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import tempfile
from pathlib import Path

from tests.bench.deploy import take_weights
from tests.bench.result import Result
from tests.support_platform import place, platform
from tests.support_processes import PYTHONPATH, ROOT, python

ROUNDS = 5
CROWD = 200
GOAL_ABOVE_S = 1.5


def run() -> list[Result]:
    """Medians of ROUNDS wakes of all-MiniLM-L6-v2, then a crowd that comes while it wakes."""
    with tempfile.TemporaryDirectory(prefix="berth-bench-") as folder:
        where = place(Path(folder), runtime="docker")
        take_weights(where.home / "models")
        with platform(where) as running:
            running.line(r"Berth is up after", timeout_s=180)
            done = subprocess.run(
                python("-m", "tests.bench.wake_inside", str(ROUNDS), str(CROWD)),
                cwd=ROOT,
                env={**os.environ, **where.env, "PYTHONPATH": PYTHONPATH},
                stdout=subprocess.PIPE,
                text=True,
                timeout=420,
                check=True,
            )
    found = json.loads(done.stdout.splitlines()[-1])
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
