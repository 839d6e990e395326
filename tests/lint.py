"""`make lint`: every static check, each in one line; what fails is shown whole. Exit status 1 if anything failed."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
MANAGE = (sys.executable, "manage.py")
CHECKS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("format", (str(BIN / "ruff"), "format", "--check", ".")),
    ("lint", (str(BIN / "ruff"), "check", ".")),
    ("guards", (sys.executable, "-m", "tests.guards")),
    ("imports", (str(BIN / "lint-imports"), "--no-cache")),
    ("types", (str(BIN / "mypy"), "manage.py", "platform", "endpoints", "iam", "registry")),
    ("django", (*MANAGE, "check", "--fail-level", "WARNING")),
    ("migrations", (*MANAGE, "makemigrations", "--check", "--dry-run")),
)


def run(command: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    """One check, with a home of its own so that nothing of a running platform is touched."""
    path = os.pathsep.join([str(ROOT / "platform"), str(ROOT)])
    with tempfile.TemporaryDirectory(prefix="berth-lint-") as home:
        env = {
            **os.environ,
            "PYTHONPATH": path,
            "DJANGO_SETTINGS_MODULE": "config.settings.test",
            "BERTH_HOME": home,
        }
        return subprocess.run(
            command,
            cwd=ROOT,
            env=env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )


def main(names: list[str]) -> int:
    """Run the checks called `names`, or all of them."""
    failed = []
    for name, command in CHECKS:
        if names and name not in names:
            continue
        began = time.monotonic()
        done = run(command)
        verdict = "ok" if done.returncode == 0 else "FAILED"
        print(f"  {name:<11} {verdict:<7} {time.monotonic() - began:5.1f} s", flush=True)
        if done.returncode:
            failed.append(name)
            print(done.stdout.rstrip() + "\n", flush=True)
    print(f"lint: {', '.join(failed)} failed" if failed else "lint: all clean")
    return bool(failed)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
