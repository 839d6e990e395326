"""`make demo` from a clean clone to the printed answer, and again in the same place."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from tests.bench.result import Result
from tests.support_platform import Place, place
from tests.support_processes import started

ROOT = Path(__file__).resolve().parents[2]
GOALS = {"first": 180.0, "second": 25.0}


def run() -> list[Result]:
    """Seconds of the first and the second run, set-up included. Clones what is committed."""
    with tempfile.TemporaryDirectory(prefix="berth-bench-") as folder:
        clone = Path(folder) / "clone"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        where = place(Path(folder), runtime="auto")
        results = []
        for name, goal in GOALS.items():
            took = _seconds_to_the_answer(clone, where)
            results.append(
                Result(f"make demo, {name} time", round(took, 1), "s", f"<= {goal:g}", took <= goal)
            )
        return results


def _seconds_to_the_answer(clone: Path, where: Place) -> float:
    make = shutil.which("make") or "make"
    # The set-up must be its own: not in this environment.
    path = os.pathsep.join(part for part in os.environ["PATH"].split(os.pathsep) if ".venv" not in part)
    env = {**where.env, "PATH": path, "PYTHONPATH": "", "VIRTUAL_ENV": ""}
    began = time.monotonic()
    with started([make, "demo", "ARGS=--once"], where.home, env, cwd=clone) as running:
        running.line(r"^ +0\.\d+ +\"", timeout_s=300)
        took = time.monotonic() - began
        assert running.process.wait(60) == 0, running.text
        assert re.search("account, endpoint, model removed", running.text), running.text
    return took
