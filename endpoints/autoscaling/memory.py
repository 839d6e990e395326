"""What the policy keeps between two looks: bounded, and safe to read back from anywhere. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple, Self, TypeVar

KEPT_S = 3600.0  # the longest stabilisation window
ENTRIES = 64  # of one kind: a window of any length fits, see `pushed`
LESSONS = 16
VERSION = 1

_T = TypeVar("_T")


class Entry(NamedTuple):
    """A number of replicas, and when it was recommended or added."""

    at: float
    replicas: int


class Lesson(NamedTuple):
    """With so many replicas a threshold was broken under `load` requests per second."""

    replicas: int
    load: float
    at: float


@dataclass(frozen=True, slots=True)
class Memory:
    """What is kept between two looks.

    at         the last look, None before the first
    wanted     what was decided then
    noted_at   the last look that led to a recommendation: a silent source leads to none
    lows       recommendations, thinned out to those that are the smallest since; the last one is the newest
    highs      the same for the largest
    steps      how many replicas were added or taken, of the last seconds
    idle_s     for how long no request has been seen: observed time, whatever a clock says
    load       requests per second, smoothed over a minute
    shrunk_to  the number that the last change shrank to, None if it was none
    lessons    see Lesson
    trend      1: the last recommendation asks for more, -1: for fewer, 0: neither
    since      when that began
    """

    at: float | None = None
    wanted: int | None = None
    noted_at: float | None = None
    lows: tuple[Entry, ...] = ()
    highs: tuple[Entry, ...] = ()
    steps: tuple[Entry, ...] = ()
    idle_s: float = 0.0
    load: float | None = None
    shrunk_to: int | None = None
    lessons: tuple[Lesson, ...] = ()
    trend: int = 0
    since: float = 0.0

    def pack(self) -> dict[str, Any]:
        """For the database."""
        return {
            "version": VERSION,
            "at": self.at,
            "wanted": self.wanted,
            "noted_at": self.noted_at,
            "lows": [list(item) for item in self.lows],
            "highs": [list(item) for item in self.highs],
            "steps": [list(item) for item in self.steps],
            "idle_s": self.idle_s,
            "load": self.load,
            "shrunk_to": self.shrunk_to,
            "lessons": [list(item) for item in self.lessons],
            "trend": self.trend,
            "since": self.since,
        }

    @classmethod
    def unpack(cls, data: Any) -> Self:
        """From `pack`'s. An empty memory for {} and anything older, broken or made up: it holds for a while."""
        try:
            return cls._unpacked(data)
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError):
            return cls()

    @classmethod
    def _unpacked(cls, data: Mapping[str, Any]) -> Self:
        if data["version"] != VERSION:
            raise ValueError("another version")
        lessons = [Lesson(_count(n), _positive(load), _number(at)) for n, load, at in data["lessons"]]
        trend = _count(data["trend"])
        if trend not in (-1, 0, 1):
            raise ValueError(f"trend {trend}")
        return cls(
            at=_optional(_number, data["at"]),
            wanted=_optional(_count, data["wanted"]),
            noted_at=_optional(_number, data["noted_at"]),
            lows=_entries(data["lows"], lambda old, new: old < new),
            highs=_entries(data["highs"], lambda old, new: old > new),
            steps=_entries(data["steps"], lambda old, new: True),
            idle_s=_positive(data["idle_s"]),
            load=_optional(_positive, data["load"]),
            shrunk_to=_optional(_count, data["shrunk_to"]),
            lessons=tuple(lessons[-LESSONS:]),
            trend=trend,
            since=_number(data["since"]),
        )


def pushed(entries: Sequence[Entry], new: Entry, beats: Callable[[int, int], bool]) -> tuple[Entry, ...]:
    """A window's extremes with one more recommendation. `beats(old, new)`: whether an old count still matters.

    Only counts that no later one has passed are kept, so that the extreme of the last s seconds is the first entry in
    them, for every s. They differ from each other; where there are too many all the same, two neighbours become one
    that has the older's count and the newer's time: it holds longer rather than shorter.
    """
    kept = [item for item in entries if new.at - KEPT_S < item.at < new.at]
    while kept and not beats(kept[-1].replicas, new.replicas):
        kept.pop()
    kept.append(new)
    while len(kept) > ENTRIES:
        middle = len(kept) // 2
        kept[middle - 1 : middle + 1] = [Entry(kept[middle].at, kept[middle - 1].replicas)]
    return tuple(kept)


def extreme(entries: Sequence[Entry], at: float, seconds: float) -> int:
    """Of the recommendations of the last `seconds`; the newest belongs to them whatever they are."""
    after = at - seconds + 1e-6
    return next((item.replicas for item in entries if item.at > after), entries[-1].replicas)


def not_after(entries: Iterable[Entry], at: float) -> tuple[Entry, ...]:
    """Without what a clock that was set back has left in the future."""
    return tuple(item for item in entries if item.at <= at)


def _entries(data: Any, beats: Callable[[int, int], bool]) -> tuple[Entry, ...]:
    found = [Entry(_number(at), _count(count)) for at, count in data]
    for old, new in pairwise(found):
        if old.at > new.at or not beats(old.replicas, new.replicas):
            raise ValueError("out of order")
    return tuple(found[-ENTRIES:])


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"no number: {value!r}")
    return float(value)


def _positive(value: Any) -> float:
    number = _number(value)
    if number < 0:
        raise ValueError(f"negative: {value!r}")
    return number


def _count(value: Any) -> int:
    number = _number(value)
    if number != int(number) or abs(number) > 1e6:
        raise ValueError(f"no count: {value!r}")
    return int(number)


def _optional(read: Callable[[Any], _T], value: Any) -> _T | None:
    return None if value is None else read(value)
