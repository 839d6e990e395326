"""What a run covered and how it ended, as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tests.faults.acts import Outcome
from tests.faults.plan import FAULTS, STEPS

_SHORT = {"kill transfers": "transf", "two workers": "2work", "changed again": "again", "full volume": "full"}


def table(outcomes: Sequence[Outcome]) -> str:
    """Steps down, faults across; how often each point was hit, with ! where one of them failed."""
    hit = Counter((one.scenario.step, one.scenario.fault) for one in outcomes if one.reached)
    failed = {(one.scenario.step, one.scenario.fault) for one in outcomes if not one.passed}
    names = [_SHORT.get(fault, fault.removeprefix("kill "))[:7] for fault in FAULTS]
    width = max(map(len, STEPS))
    lines = [" " * width + " " + " ".join(f"{name:>7}" for name in names)]
    for step in STEPS:
        cells = [_cell(hit[step, fault], (step, fault) in failed) for fault in FAULTS]
        lines.append(f"{step:<{width}} " + " ".join(f"{cell:>7}" for cell in cells))
    return "\n".join(lines)


def _cell(count: int, failed: bool) -> str:
    return (str(count) if count else "-" if failed else "·") + ("!" if failed else "")


def figures(outcomes: Sequence[Outcome], wall_s: float) -> str:
    """The closing line."""
    failed = [one for one in outcomes if not one.passed]
    reached = [one for one in outcomes if one.reached]
    steps = {one.scenario.step for one in reached}
    points = {(one.scenario.step, one.scenario.fault) for one in reached}
    took = sorted(one.took_s for one in outcomes) or [0.0]
    converged = sorted(one.converged_s for one in outcomes if one.passed) or [0.0]
    return (
        f"faults: {len(outcomes)} seeds, {len(outcomes) - len(failed)} passed, {len(failed)} failed; "
        f"{len(steps)} of {len(STEPS)} steps, {len(points)} points (step × fault); "
        f"as wanted again after {converged[len(converged) // 2]:.1f} s (median), {converged[-1]:.1f} s at most; "
        f"scenario {took[len(took) // 2]:.1f} s (median), {took[-1]:.1f} s at most; {wall_s / 60:.1f} min"
    )


def line(outcome: Outcome) -> str:
    """One scenario."""
    end = "ok" if outcome.passed else "FAILED"
    times = f"{outcome.converged_s:.1f} s, {outcome.took_s:.1f} s in all"
    notes = f" [{'; '.join(outcome.notes)}]" if outcome.notes else ""
    said = [f"{outcome.scenario}: {end}, {times}{notes}"]
    said += [f"    {problem}" for problem in outcome.problems]
    return "\n".join(said)
