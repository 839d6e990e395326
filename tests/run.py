"""`make test`: front-end assets, then pytest. Arguments are pytest's; the default is every test, two at a time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def command(arguments: list[str]) -> list[str]:
    """What to call. Files stay whole on one worker: their servers and containers are started once a file."""
    chosen = any(argument.startswith("-n") for argument in arguments)
    # One worker each core, and no more than four: the tests start real servers.
    workers = min(os.cpu_count() or 1, 4)
    parallel = [] if chosen or workers == 1 else ["-n", str(workers), "--dist", "loadfile"]
    return [sys.executable, "-m", "pytest", *parallel, *arguments]


def main(arguments: list[str]) -> int:
    """Prepare, run, and pass on pytest's exit status."""
    prepared = subprocess.run([sys.executable, "platform/launcher/assets.py"], cwd=ROOT, check=False)
    if prepared.returncode:
        return prepared.returncode
    return subprocess.run(command(arguments), cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
