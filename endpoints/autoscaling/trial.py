"""Trying other limits on what was measured, before they are saved: reads the metrics, replays them, says what it
assumed. The replay itself is endpoints.autoscaling.simulate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from endpoints.autoscaling import simulate, words
from endpoints.autoscaling.observing import limits_of
from endpoints.autoscaling.policy import Limits, Metric, Rule
from endpoints.autoscaling.simulate import Decided, Simulation
from endpoints.metrics import query
from endpoints.metrics.sample import RESOLUTIONS, Sample
from endpoints.models import Endpoint, InstanceType, PhaseName
from endpoints.phase_times import usual_of
from endpoints.validation import clean_scaling

FIELDS = (
    *(
        "min_replicas",
        "max_replicas",
        "cpu_percent",
        "memory_percent",
        "gpu_percent",
        "latency_ms",
        "in_flight",
    ),
    *("idle_timeout_s", "scale_up_after_s", "scale_down_after_s"),
)


@dataclass(frozen=True, slots=True)
class Range:
    """How far back, in slots of which length: both in seconds. The finest that are kept for so long."""

    seconds: int
    resolution: int
    name: Promise


RANGES = {
    "1h": Range(3600, 5, gettext_lazy("Last hour")),
    "24h": Range(86_400, 60, gettext_lazy("Last day")),
    "7d": Range(7 * 86_400, 900, gettext_lazy("Last week")),
}
DEFAULT_RANGE = "24h"


@dataclass(frozen=True, slots=True)
class Trial:
    """What the limits would have done.

    span          a key of RANGES
    simulation    without points where nothing was measured
    real_wakes    how often a request really woke it in that time
    currency      of the costs, "" where there are none
    assumptions   what the figures take for granted, a sentence each
    """

    span: str
    limits: Limits
    simulation: Simulation
    real_wakes: int
    currency: str
    assumptions: tuple[str, ...] = field(default=())

    @property
    def latency_ms(self) -> float | None:
        """The threshold that times above it refer to."""
        return self.limits.thresholds.get(Metric.LATENCY)


def checked_limits(values: Mapping[str, Any], instance_type: InstanceType | None) -> Limits:
    """From EndpointSpec's fields, FIELDS of them. Raises ValidationError with the words that saving them would get."""
    cleaned = clean_scaling({name: values[name] for name in FIELDS}, instance_type)
    return limits_of(Endpoint(**{name: cleaned[name] for name in FIELDS}))


def run(endpoint: Endpoint, limits: Limits, span: str, now: float) -> Trial:
    """Replay the endpoint's last RANGES[span] under `limits`. now: seconds since 1970.

    At most 1,440 slots, whatever is asked. The endpoint with revision, its model's framework and its instance type.
    """
    wanted = RANGES[span]
    samples, resolution = _samples(endpoint, wanted, now)
    size = endpoint.revision.instance_type if endpoint.revision else None
    price = size.price_month if size else None
    start_s, is_learned = _start_s(endpoint)
    simulation = simulate.simulate(limits, samples, resolution, price_month=price, start_s=start_s)
    return Trial(
        span,
        limits,
        simulation,
        _real_wakes(endpoint, simulation),
        size.currency if size and price is not None else "",
        _assumptions(wanted, simulation, start_s, is_learned, size),
    )


def _samples(endpoint: Endpoint, wanted: Range, now: float) -> tuple[list[Sample], int]:
    """Complete slots and their length: finer than the range's where those reach as far back as there is anything."""
    resolution = wanted.resolution
    found = query.samples(endpoint.id, now - wanted.seconds, now // resolution * resolution, resolution, now)
    for finer in sorted((length for length in RESOLUTIONS if length < resolution), reverse=True):
        if found and found[0].at < now - RESOLUTIONS[finer]:
            break
        begin = max(now - wanted.seconds, now - RESOLUTIONS[finer])
        found, resolution = query.samples(endpoint.id, begin, now // finer * finer, finer, now), finer
    return found, resolution


def _real_wakes(endpoint: Endpoint, found: Simulation) -> int:
    if not found.points:
        return 0
    begin, end = (datetime.fromtimestamp(one.at, UTC) for one in (found.points[0], found.points[-1]))
    within = (begin, end + timedelta(seconds=found.resolution))
    return endpoint.decisions.filter(rule=Rule.WOKEN, at__range=within).count()


def sentence(decided: Decided) -> str:
    """The simulated decision in one line."""
    return words.sentence(decided.rule, decided.blocker or "", decided.before, decided.after, decided.params)


def _start_s(endpoint: Endpoint) -> tuple[float, bool]:
    """How long a replica takes until it serves, the image being there; and whether that was learned."""
    usual = usual_of(endpoint.revision) if endpoint.revision else {}
    known = sum(seconds for name, seconds in usual.items() if name != PhaseName.PULLING)
    return (known, True) if known else (simulate.START_S, False)


def _assumptions(
    wanted: Range, simulation: Simulation, start_s: float, is_learned: bool, size: InstanceType | None
) -> tuple[str, ...]:
    said = [
        _(
            "The load stays as it was and spreads over the replicas: with twice as many, each has half of it, and "
            "answers in half the time. Near its limit a replica gets slower than that, far from it hardly faster, so "
            "times above a latency threshold are an estimate."
        ),
        (
            _("A new replica serves %(time)s after it is asked for, as this endpoint's usually do.")
            if is_learned
            else _("A new replica serves %(time)s after it is asked for.")
        )
        % {"time": words.span(start_s)},
        _("There is always room for another replica."),
    ]
    if simulation.resolution >= 60:
        said.append(
            _("The figures are means of %(time)s: shorter peaks and silences are not seen.")
            % {"time": words.span(simulation.resolution)}
        )
    if simulation.seconds < wanted.seconds - 2 * wanted.resolution:
        said.append(
            _("%(known)s of the %(asked)s were measured; the rest counts for neither side.")
            % {"known": words.span(simulation.seconds), "asked": words.span(wanted.seconds)}
        )
    if simulation.simulated.cost is not None and size is not None:
        said.append(_("Costs are at today's price of %(type)s.") % {"type": size.name})
    return tuple(said)
