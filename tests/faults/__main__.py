"""`make faults SEEDS=n`: n scenarios in a row on the real stack, from a random seed on unless one is named.

python -m tests.faults [n] [--first SEED] [--seed SEED …]
"""

from __future__ import annotations

import argparse
import secrets
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(1, str(ROOT / "platform"))

from launcher import assets  # noqa: E402
from tests.faults import report  # noqa: E402
from tests.faults.acts import Outcome  # noqa: E402
from tests.faults.plan import scenario  # noqa: E402
from tests.faults.run import run  # noqa: E402
from tests.faults.world import KEPT, Worlds  # noqa: E402

LARGEST = 1_000_000


def play(seeds: Sequence[int], *, keep: bool = False) -> Iterator[Outcome]:
    """Each seed's scenario, one after the other."""
    with Worlds() as worlds:
        for seed in seeds:
            outcome = run(worlds.get(), scenario(seed))
            if keep or not outcome.passed:
                worlds.get().keep(KEPT / f"seed-{seed}")
            if not outcome.passed:
                worlds.throw_away()
            yield outcome


def main(arguments: Sequence[str]) -> int:
    """Run, and say what came of it."""
    options = _options(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # with all the tidying up that an exit does
    first = secrets.randbelow(LARGEST) if options.first is None else options.first
    seeds = options.seed or range(first, first + options.seeds)
    assets.build(ROOT)
    began, outcomes = time.monotonic(), []
    for outcome in play(seeds, keep=options.keep):
        outcomes.append(outcome)
        print(f"{len(outcomes):>4}  {report.line(outcome)}", flush=True)
    print(f"\n{report.table(outcomes)}\n")
    failed = [str(one.scenario.seed) for one in outcomes if not one.passed]
    if failed:
        seeds_again = " ".join(f"--seed {seed}" for seed in failed)
        print(f"logs in var/faults/seed-*; again: make faults ARGS='{seeds_again}'")
    print(report.figures(outcomes, time.monotonic() - began))
    return bool(failed)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="faults", description="Fault injection on the real stack.")
    parser.add_argument("seeds", nargs="?", type=int, default=5, help="how many scenarios")
    parser.add_argument("--first", type=int, default=None, help="the first seed; random if left out")
    parser.add_argument("--seed", type=int, action="append", help="this one (may be repeated)")
    parser.add_argument(
        "--keep", action="store_true", help="logs and rows of every seed, not only of failed ones"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
