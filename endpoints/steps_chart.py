"""Counts over time as step lines, for an inline SVG without scripts or styles of its own. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 1000, 100  # of the view box; the page stretches it


@dataclass(frozen=True, slots=True)
class Line:
    """One line. css: its class. path: SVG path data, "" if it has no point."""

    css: str
    path: str


@dataclass(frozen=True, slots=True)
class StepsChart:
    """Everything that the template draws.

    top      the count at the upper edge; the lower edge is 0
    ticks    counts that get a label, from the top down
    grid     heights of the lines at whole counts
    bands    (x, width) of the stretches of time that are shaded
    """

    lines: tuple[Line, ...]
    top: int
    ticks: tuple[int, ...]
    grid: tuple[float, ...]
    bands: tuple[tuple[float, float], ...] = ()


def steps_chart(
    at: Sequence[float],
    counts: Sequence[tuple[str, Sequence[float | None]]],
    *,
    seconds: float,
    shaded: Sequence[bool] = (),
) -> StepsChart:
    """at: the beginnings of slots that are `seconds` long, ascending. counts: (CSS class, a count or None a slot).
    shaded: for each slot whether it is to be marked. A gap between slots is a gap in the lines."""
    known = [value for _, values in counts for value in values if value is not None]
    top = max(1, math.ceil(max(known, default=1)))
    start, end = (at[0], at[-1] + seconds) if at else (0.0, 1.0)
    span = (end - start) or 1.0

    def x(moment: float) -> float:
        return round((moment - start) / span * WIDTH, 1)

    def y(count: float) -> float:
        return round((1 - count / top) * HEIGHT, 1)

    lines = tuple(Line(css, _path(at, values, seconds, x, y)) for css, values in counts)
    step = max(1, math.ceil(top / 10))
    grid = tuple(y(count) for count in range(0, top + 1, step))
    ticks = (top, top // 2, 0) if top >= 4 and top % 2 == 0 else (top, 0)
    return StepsChart(lines, top, ticks, grid, _bands(at, shaded, seconds, x))


_Scale = Callable[[float], float]


def _path(at: Sequence[float], values: Sequence[float | None], seconds: float, x: _Scale, y: _Scale) -> str:
    parts: list[str] = []
    last: float | None = None  # the count that the pen stands at, None: it is lifted
    until = 0.0
    for moment, value in zip(at, values, strict=True):
        if last is not None and (value is None or moment > until + seconds / 2):
            parts.append(f"H{x(until):g}")
            last = None
        if value is not None:
            if last is None:
                parts.append(f"M{x(moment):g} {y(value):g}")
            elif value != last:
                parts.append(f"H{x(moment):g}V{y(value):g}")
            last = value
        until = moment + seconds
    if last is not None:
        parts.append(f"H{x(until):g}")
    return "".join(parts)


def _bands(
    at: Sequence[float], shaded: Sequence[bool], seconds: float, x: _Scale
) -> tuple[tuple[float, float], ...]:
    found: list[tuple[float, float]] = []
    for moment, is_shaded in zip(at, shaded, strict=False):
        if not is_shaded:
            continue
        left, right = moment, moment + seconds
        if found and abs(found[-1][1] - left) < seconds / 2:
            left = found.pop()[0]
        found.append((left, right))
    return tuple((x(left), max(round(x(right) - x(left), 1), 1.0)) for left, right in found)
