"""20 endpoints asked for at once on Docker, beside the same 20 containers started bare and side by side."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from tests.bench.result import Result
from tests.support_platform import place, platform
from tests.support_processes import PYTHONPATH, ROOT, python
from tests.support_runtimes import clean_up

COUNT, ROUNDS = 20, 2
GOAL = 3.0


def run() -> list[Result]:
    """Medians of ROUNDS, in turns; the platform's own image, a tiny model, image and weights present."""
    found = _measured()
    ours, bare = (statistics.median(found[name]) for name in ("ours", "bare"))
    times = ours / bare
    return [
        Result(f"{COUNT} endpoints at once, all ACTIVE", round(ours, 1), "s", "", None),
        Result(f"{COUNT} bare containers at once, all healthy", round(bare, 1), "s", "", None),
        Result("endpoints at once, times the bare ones", round(times, 2), "×", f"<= {GOAL:g}", times <= GOAL),
    ]


def _measured() -> Any:
    with tempfile.TemporaryDirectory(prefix="berth-bench-") as folder:
        where = place(Path(folder), runtime="docker")
        try:
            with platform(where) as running:
                running.line(r"Berth is up after", timeout_s=180)
                done = subprocess.run(
                    python("-m", "tests.bench.many_inside", str(COUNT), str(ROUNDS)),
                    cwd=ROOT,
                    env={**os.environ, **where.env, "PYTHONPATH": PYTHONPATH},
                    stdout=subprocess.PIPE,
                    text=True,
                    timeout=600,
                    check=True,
                )
        finally:
            clean_up(where)
    return json.loads(done.stdout.splitlines()[-1])
