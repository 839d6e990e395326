"""`make bench [ARGS="gateway tokens"]`: run groups of benchmarks, print a table, write var/bench/results.json."""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
import traceback
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(1, str(ROOT / "platform"))

from tests.bench.result import Result  # noqa: E402

# group → the module whose run() measures it
GROUPS = {
    "gateway": "tests.bench.gateway",
    "guards": "tests.bench.guards",
    "activator": "tests.bench.activator",
    "tokens": "tests.bench.tokens",
    "memory": "tests.bench.memory",
    "deploy": "tests.bench.deploy",
    "many": "tests.bench.many",
    "paint": "tests.bench.paint",
    "rollout": "tests.bench.rollout",
    "scaling": "tests.bench.scaling",
    "wake": "tests.bench.wake",
    "sweep": "tests.bench.sweep",
    "snapshot": "tests.bench.snapshot",
    "listing": "tests.bench.listing",
    "readings": "tests.bench.readings",
    "metrics": "tests.bench.metrics",
    "usage": "tests.bench.usage",
    "demo": "tests.bench.demo",
}


def measure(names: list[str]) -> tuple[list[Result], list[str]]:
    """(figures, groups that broke off). A group that breaks off is shown with its traceback; the others go on."""
    results: list[Result] = []
    broken = []
    for name in names:
        began = time.monotonic()
        print(f"  {name} …", end="", flush=True)
        try:
            found = importlib.import_module(GROUPS[name]).run()
        except Exception:  # whatever went wrong there, the other figures are still worth having
            print(" broke off", flush=True)
            traceback.print_exc()
            broken.append(name)
            continue
        print(f" {time.monotonic() - began:.0f} s", flush=True)
        results += found
    return results, broken


def table(results: list[Result]) -> str:
    """One line a figure: name, value, unit, goal, and whether the goal holds."""
    rows = [("", "value", "", "goal", "")]
    for one in results:
        verdict = {True: "holds", False: "MISSED", None: ""}[one.holds]
        rows.append((one.name, f"{one.value:g}", one.unit, one.goal, verdict))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    return "\n".join(
        f"  {name:<{widths[0]}}  {value:>{widths[1]}} {unit:<{widths[2]}}  {goal:<{widths[3]}}  {verdict}".rstrip()
        for name, value, unit, goal, verdict in rows
    )


def main(names: list[str]) -> int:
    """Exit status 2 for an unknown group, 1 if a group broke off, else 0: a missed goal is a finding, no error."""
    unknown = sorted(set(names) - set(GROUPS))
    if unknown:
        print(f"No such group: {', '.join(unknown)}. There are: {', '.join(GROUPS)}.")
        return 2
    results, broken = measure(names or list(GROUPS))
    target = ROOT / "var" / "bench" / "results.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps([asdict(one) for one in results], indent=2) + "\n")
    print(
        f"\n{table(results)}\n\n  {target.relative_to(ROOT)}; {os.cpu_count()} cores, Python {sys.version.split()[0]}"
    )
    return bool(broken)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
