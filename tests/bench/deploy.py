"""Create → ACTIVE on Docker, beside the same container started bare and polled until it is healthy, in turns."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import tempfile
from pathlib import Path

from tests.bench.result import Result
from tests.support_platform import place, platform
from tests.support_processes import PYTHONPATH, ROOT, python

ROUNDS = 5
GOAL_ABOVE_S = 1.5


def run() -> list[Result]:
    """Medians of ROUNDS deployments of all-MiniLM-L6-v2, image and weights present."""
    with tempfile.TemporaryDirectory(prefix="berth-bench-") as folder:
        where = place(Path(folder), runtime="docker")
        take_weights(where.home / "models")
        with platform(where) as running:
            running.line(r"Berth is up after", timeout_s=180)
            env = {**os.environ, **where.env, "PYTHONPATH": PYTHONPATH}
            done = subprocess.run(
                python("-m", "tests.bench.deploy_inside", str(ROUNDS)),
                cwd=ROOT,
                env=env,
                stdout=subprocess.PIPE,
                text=True,
                timeout=300,
                check=True,
            )
    times = json.loads(done.stdout.splitlines()[-1])
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


def take_weights(models: Path) -> None:
    """The file that an earlier demo made, if there is one: converting it again is not what is measured."""
    made = ROOT / "var" / "models" / "all-MiniLM-L6-v2.gguf"
    if made.is_file():
        models.mkdir(parents=True)
        shutil.copy(made, models)
