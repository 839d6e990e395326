"""What the idle platform holds in memory: every process of `manage.py up`, Envoy and Redis included, no replica."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import psutil

from tests.bench.result import Result
from tests.support_platform import place, platform
from tests.support_processes import Running, processes_of

GOAL_MB = 700
SETTLE_S = 20.0


def run() -> list[Result]:
    """Resident (RSS, which counts shared pages in every process) and proportional (PSS) megabytes, summed."""
    with tempfile.TemporaryDirectory(prefix="berth-bench-") as folder:
        where = place(Path(folder))
        with platform(where) as running:
            running.line(r"Berth is up after", timeout_s=120)
            time.sleep(SETTLE_S)  # sweeps have run, connections are open
            return _results(_sum(running, where.home))


def _sum(running: Running, home: Path) -> dict[str, tuple[float, float]]:
    """name → (RSS, PSS) in MB. The front is the command itself; everything else carries the home's mark."""
    found: dict[str, tuple[float, float]] = {}
    for process in {psutil.Process(running.pid), *processes_of(home)}:
        # Redis writes its title over its environment; Envoy has its agent's.
        name = {"envoy": "envoy", "redis-server": "redis"}.get(process.name())
        name = name or process.environ().get("SUPERVISOR_PROCESS_NAME", "front")
        memory = process.memory_full_info()
        before = found.get(name, (0.0, 0.0))
        found[name] = (before[0] + memory.rss / 1e6, before[1] + memory.pss / 1e6)
    return found


def _results(by_name: dict[str, tuple[float, float]]) -> list[Result]:
    rss = sum(one[0] for one in by_name.values())
    pss = sum(one[1] for one in by_name.values())
    each = [
        Result(f"idle platform, {name}", round(one[0]), "MB RSS", "", None)
        for name, one in sorted(by_name.items())
    ]
    return [
        Result("idle platform, all processes", round(rss), "MB RSS", f"<= {GOAL_MB}", rss <= GOAL_MB),
        Result("idle platform, shared pages counted once", round(pss), "MB PSS", "", None),
        *each,
    ]
