"""Running the part of a benchmark that needs a platform's own settings, beside a platform on Docker."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from tests.support_platform import place, platform
from tests.support_processes import PYTHONPATH, ROOT, python
from tests.support_runtimes import clean_up


def answer(module: str, *arguments: object) -> Any:
    """What `module` prints last, as JSON. The platform and all that it started are gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="berth-bench-") as folder:
        where = place(Path(folder), runtime="docker")
        take_weights(where.home / "models")
        try:
            with platform(where) as running:
                running.line(r"Berth is up after", timeout_s=180)
                done = subprocess.run(
                    python("-m", module, *map(str, arguments)),
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


def take_weights(models: Path) -> None:
    """The file that an earlier demo made, if there is one: converting it again is not what is measured."""
    made = ROOT / "var" / "models" / "all-MiniLM-L6-v2.gguf"
    if made.is_file():
        models.mkdir(parents=True)
        shutil.copy(made, models)
