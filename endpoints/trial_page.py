"""A dry run as the settings page shows it: figures side by side, the replicas as a picture, the decisions in words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from endpoints.autoscaling import trial, words
from endpoints.autoscaling.policy import Metric
from endpoints.autoscaling.simulate import Simulation
from endpoints.autoscaling.trial import Trial
from endpoints.numbers import decimal
from endpoints.steps_chart import StepsChart, steps_chart

DECISIONS_SHOWN = 40


@dataclass(frozen=True, slots=True)
class Figure:
    """One row of the comparison. tone: "good" where the trial did better, "bad" where worse, "" otherwise."""

    name: str
    real: str
    simulated: str
    tone: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """A simulated decision."""

    at: datetime
    said: str
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class Shown:
    """Everything that the page shows of a dry run; `figures` is empty where nothing was measured.

    summary   the picture in words
    hidden    how many decisions more there were
    late      whether times above the latency threshold are marked in the picture
    """

    figures: tuple[Figure, ...] = ()
    chart: StepsChart | None = None
    summary: str = ""
    start: datetime | None = None
    end: datetime | None = None
    lines: tuple[Line, ...] = ()
    hidden: int = 0
    late: bool = False
    assumptions: tuple[str, ...] = ()


def shown(tried: Trial) -> Shown:
    """Of a dry run."""
    found = tried.simulation
    if not found.points:
        return Shown()
    decided = found.decisions[-DECISIONS_SHOWN:]
    lines = tuple(
        Line(_moment(item.at), trial.sentence(item), item.before, item.after) for item in reversed(decided)
    )
    late = [_is_late(point.latency_ms, tried.latency_ms) for point in found.points]
    return Shown(
        _figures(tried),
        _chart(found, late),
        _summary(found),
        _moment(found.points[0].at),
        _moment(found.points[-1].at + found.resolution),
        lines,
        len(found.decisions) - len(lines),
        any(late),
        tried.assumptions,
    )


def _chart(found: Simulation, late: list[bool]) -> StepsChart:
    at = [float(point.at) for point in found.points]
    counts = [
        ("steps-real", [point.real for point in found.points]),
        ("steps-trial", [point.simulated for point in found.points]),
    ]
    return steps_chart(at, counts, seconds=found.resolution, shaded=late)


def _summary(found: Simulation) -> str:
    real = [point.real for point in found.points]
    simulated = [point.simulated for point in found.points]
    return _(
        "Replicas over time: really from %(real_low)s to %(real_high)s, under these limits from %(low)s to %(high)s."
    ) % {
        "real_low": min(real),
        "real_high": max(real),
        "low": min(simulated),
        "high": max(simulated),
    }


def _figures(tried: Trial) -> tuple[Figure, ...]:
    found = tried.simulation
    figures = [
        _figure(
            _("Replica-hours"),
            found.real.replica_hours,
            found.simulated.replica_hours,
            lambda value: decimal(value, 1),
        )
    ]
    if found.real.cost is not None and found.simulated.cost is not None:
        figures.append(
            _figure(
                _("Cost"),
                found.real.cost,
                found.simulated.cost,
                lambda value: _money(value, tried.currency),
            )
        )
    if tried.latency_ms is not None and found.real.late_s is not None and found.simulated.late_s is not None:
        limit = words.quantity(Metric.LATENCY, tried.latency_ms)
        figures.append(
            _figure(
                _("Time with latency p95 above %(limit)s") % {"limit": limit},
                found.real.late_s,
                found.simulated.late_s,
                words.span,
            )
        )
    if found.wakes or tried.real_wakes:
        figures.append(Figure(_("Woken by a request"), _times(tried.real_wakes), _times(found.wakes)))
    if found.held_slots:
        figures.append(Figure(_("Time in which requests would have been held"), "", words.span(found.held_s)))
    return tuple(figures)


def _figure(name: str, real: float, simulated: float, said: Callable[[float], str]) -> Figure:
    before, after = said(real), said(simulated)
    tone = "" if before == after else "good" if simulated < real else "bad"
    return Figure(name, before, after, tone)


def _times(count: int) -> str:
    return ngettext("once", "%(count)s times", count) % {"count": count} if count else _("never")


def _money(value: float, currency: str) -> str:
    amount = decimal(value, 0 if value >= 1000 else 2, grouped=True)
    return f"{currency} {amount}".replace(" ", "\u00a0")


def _is_late(latency_ms: float | None, limit_ms: float | None) -> bool:
    return latency_ms is not None and limit_ms is not None and latency_ms > limit_ms


def _moment(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)
