"""What a benchmark reports."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Result:
    """One figure beside its goal. `holds` is None where there is no goal, or no peer to compare with."""

    name: str
    value: float
    unit: str
    goal: str
    holds: bool | None
