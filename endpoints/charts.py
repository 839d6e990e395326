"""What the Metrics tab draws: which figures share a chart, and how each line looks. Data for static/js/metrics-*.js.

The figures themselves come from the API (endpoints.metrics.query); their names are its names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

_Text = str | Promise

# range in the address → its length in seconds and its name
RANGES: Mapping[str, tuple[int, _Text]] = {
    "15m": (900, _("15 min")),
    "1h": (3600, _("1 h")),
    "6h": (21_600, _("6 h")),
    "24h": (86_400, _("24 h")),
    "7d": (7 * 86_400, _("7 days")),
    "30d": (30 * 86_400, _("30 days")),
    "90d": (90 * 86_400, _("90 days")),
}
DEFAULT_RANGE = "1h"


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a chart.

    series   its name in the API's answer
    ink      number of its colour in static/css/metrics.css, 0 for the quiet one
    look     solid, dashed, dotted, area (filled to zero) or step (holds until the next); beside its colour, so that
             nobody has to tell lines apart by colour alone
    """

    series: str
    label: _Text
    ink: int
    look: str = "solid"

    def as_json(self) -> dict[str, Any]:
        """For the page."""
        return {"series": self.series, "label": str(self.label), "ink": self.ink, "look": self.look}


@dataclass(frozen=True, slots=True)
class Chart:
    """One chart.

    unit          of its axis: per_second, ms, percent, number or whole
    threshold     the threshold that is drawn as a line, by the API's name for it
    per_ready     that threshold is one replica's: all that are ready bear as many times more
    per_replica   what each replica has its own thin line of, "" for nothing
    band          the two series between which it is shaded
    decisions     whether the autoscaler's decisions are marked on it
    optional      shown once there is something in it: not every framework tells it, nor has every machine a GPU
    """

    key: str
    title: _Text
    unit: str
    lines: tuple[Line, ...]
    threshold: str = ""
    per_ready: bool = False
    per_replica: str = ""
    band: tuple[str, str] | None = None
    decisions: bool = False
    optional: bool = False

    def as_json(self) -> dict[str, Any]:
        """For the page."""
        return {
            "key": self.key,
            "title": str(self.title),
            "unit": self.unit,
            "lines": [line.as_json() for line in self.lines],
            "threshold": self.threshold,
            "perReady": self.per_ready,
            "perReplica": self.per_replica,
            "band": self.band,
            "decisions": self.decisions,
            "optional": self.optional,
        }


def _percentiles(what: str) -> tuple[Line, ...]:
    return (
        Line(f"{what}_p50_ms", _("p50"), 1),
        Line(f"{what}_p95_ms", _("p95"), 2),
        Line(f"{what}_p99_ms", _("p99"), 4, "dotted"),
    )


def _share(name: str, title: _Text, threshold: str = "", optional: bool = False) -> Chart:
    """Per cent of something that each replica has."""
    mean = (Line(name, _("Mean"), 1),)
    return Chart(name, title, "percent", mean, threshold, per_replica=name, optional=optional)


_TRAFFIC = (
    Chart("requests", _("Requests"), "per_second", (Line("requests_per_s", _("Requests"), 1, "area"),)),
    Chart(
        "replicas",
        _("Replicas"),
        "whole",
        (
            Line("wanted", _("Wanted"), 2, "step"),
            Line("ready", _("Ready"), 3, "step"),
            Line("min", _("Min"), 0, "step"),
            Line("max", _("Max"), 0, "step"),
        ),
        band=("min", "max"),
        decisions=True,
    ),
    Chart("first_byte", _("Time to first byte"), "ms", _percentiles("first_byte"), "latency_ms"),
    Chart("latency", _("Latency"), "ms", _percentiles("latency")),
    Chart(
        "in_flight",
        _("Requests in flight"),
        "number",
        (Line("in_flight", _("Mean"), 1), Line("in_flight_max", _("Most"), 4, "dotted")),
        "in_flight",
        per_ready=True,
    ),
    Chart(
        "errors",
        _("Errors"),
        "per_second",
        (
            Line("errors_5xx_per_s", _("5xx"), 2),
            Line("errors_4xx_per_s", _("4xx"), 4, "dotted"),
            Line("aborted_per_s", _("Broken off"), 1, "dashed"),
        ),
    ),
)


# What only a framework with such figures tells.
_MODEL_SERVER = (
    Chart(
        "tokens",
        _("Tokens"),
        "per_second",
        (
            Line("tokens_out_per_s", _("Generated"), 1),
            Line("tokens_in_per_s", _("Read from prompts"), 3, "dashed"),
        ),
        optional=True,
    ),
    Chart(
        "queued",
        _("Waiting in the model server"),
        "number",
        (Line("queued", _("Requests"), 1),),
        optional=True,
    ),
    Chart("kv_cache", _("KV cache in use"), "percent", (Line("kv_cache", _("Mean"), 1),), optional=True),
)


def charts(gpu: bool) -> Iterator[Chart]:
    """All of them in the page's order. Without `gpu`, those of GPUs show only if there is something in them."""
    yield from _TRAFFIC
    yield _share("cpu", _("CPU"), "cpu_percent")
    yield _share("memory", _("Memory"), "memory_percent")
    yield _share("gpu", _("GPU utilisation"), "gpu_percent", optional=not gpu)
    yield _share("gpu_memory", _("GPU memory"), optional=not gpu)
    yield from _MODEL_SERVER
