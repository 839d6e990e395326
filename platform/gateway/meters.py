"""What Envoy counts of each endpoint: the loggers that count in it, and how its statistics are read.

Statistics are named by the route, so that there are no more of them than routes that were configured: what a caller
puts into a path makes none. Those of a deleted endpoint go an hour or two after their last request. Requests in flight
each cluster counts itself, those that it has sent to a replica; what is at the activator, that tells.

Sources: envoyproxy.io, "Stats logger (proto)", "Access logging"; tried on 1.40 by
tests/integration/test_gateway_figures.py.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from gateway.figures import Bins, bin_of

Json = dict[str, Any]

LOOK_S = 1  # Envoy looks at each unfinished request that often, from its start on
_PREFIX = "endpoint"
_DURATION, _FIRST_BYTE, _WAITING = "duration", "first_byte", "waiting"
_LOGGER = "type.googleapis.com/envoy.extensions.access_loggers."

# In the bootstrap. Histograms are as old as Envoy's last flush.
BOOTSTRAP: Json = {"stats_flush_interval": "1s", "stats_eviction_interval": "3600s"}
LOG_OPTIONS: Json = {"access_log_flush_interval": f"{LOOK_S}s"}


# --- counting, in Envoy -----------------------------------------------------------------------------------


def at_the_end() -> Json:
    """The filter for loggers that want each request once, when it has ended."""
    return _log_type("DownstreamEnd")


def loggers() -> list[Json]:
    """Beside the access log. Each statistic costs every request about a microsecond: two are enough."""
    answered = [*_ENDPOINT, {"name": "status", "value_format": "%RESPONSE_CODE%"}]
    return [
        _logger(at_the_end(), histograms=[_milliseconds(_DURATION, answered, "%DURATION%")]),
        _logger(
            _all(at_the_end(), _a_replica_answered()),
            histograms=[_milliseconds(_FIRST_BYTE, _ENDPOINT, "%RESPONSE_DURATION%")],
        ),
        _logger(
            _all(_log_type("DownstreamPeriodic"), _status(0)),
            histograms=[_milliseconds(_WAITING, _ENDPOINT, "%DURATION%")],
        ),
    ]


_ENDPOINT = [{"name": "id", "value_format": "%ROUTE_NAME%"}]


def _a_replica_answered() -> Json:
    """Envoy complains in its log about a time that it has not got, hence the filter.

    The gateway's own answers are never a 200, which saves nearly all requests the dear expression. That one knows
    nothing of requests that were answered before they were complete, as a WebSocket's is.
    """
    expression = {
        "@type": _LOGGER + "filters.cel.v3.ExpressionFilter",
        "expression": "has(response.backend_latency)",
    }
    dear = {
        "extension_filter": {
            "name": "envoy.access_loggers.extension_filters.cel",
            "typed_config": expression,
        }
    }
    return {"or_filter": {"filters": [_status(200), dear, _status(101)]}}


def _logger(condition: Json, **statistics: list[Json]) -> Json:
    return {
        "name": "envoy.access_loggers.stats",
        "filter": condition,
        "typed_config": {
            "@type": _LOGGER + "stats.v3.Config",
            "stats_scope": {"prefix": _PREFIX, "enable_eviction": True, "sharing_name": _PREFIX},
            **statistics,
        },
    }


def _milliseconds(name: str, tags: list[Json], value: str) -> Json:
    return {"stat": {"name": name, "tags": tags}, "unit": "Milliseconds", "value_format": value}


def _log_type(name: str) -> Json:
    return {"log_type_filter": {"types": [name]}}


def _all(*conditions: Json) -> Json:
    return {"and_filter": {"filters": list(conditions)}}


def _status(value: int) -> Json:
    # 0: nothing was answered yet. The runtime key is required and never set: the default decides.
    comparison = {"op": "EQ", "value": {"default_value": value, "runtime_key": "berth.unused"}}
    return {"status_code_filter": {"comparison": comparison}}


# --- reading ----------------------------------------------------------------------------------------------

Answered = tuple[str, int]  # endpoint id, status; 0: no answer


@dataclass(frozen=True, slots=True)
class Totals:
    """What Envoy has counted since it started, by endpoint; bins of ms. Of an endpoint that had no request for an
    hour or two it forgets all, and begins at 0 again.

    duration    requests that ended, by endpoint and status
    first_byte  those of them that a replica answered
    waiting     requests without a byte of an answer, once for each of Envoy's looks (LOOK_S)
    in_flight   requests that a replica has, or is about to get, now
    """

    duration: Mapping[Answered, Bins]
    first_byte: Mapping[str, Bins]
    waiting: Mapping[str, Bins]
    in_flight: Mapping[str, int]


_NAME = re.compile(rf"{_PREFIX}\.(\w+)\.id\.(me-[^.]+)(?:\.status\.(\d+))?")
_FILTER = quote(rf"^{_PREFIX}\.\w+\.id\.me-", safe="")
_ACTIVE = re.compile(r"cluster\.(me-[^.]+)\.upstream_rq_(?:pending_)?active")


# For Envoy's admin interface: the two questions whose answers `parse` takes.
GAUGES = f"/stats?format=json&type=Gauges&usedonly&filter={quote(f'^{_ACTIVE.pattern}$', safe='')}"
HISTOGRAMS = f"/stats?format=json&type=Histograms&histogram_buckets=detailed&filter={_FILTER}"


def parse(gauges: Json, histograms: Json) -> Totals:
    """From Envoy's two answers. Raises KeyError, TypeError, ValueError for anything else."""
    in_flight: Counter[str] = Counter()
    for item in gauges["stats"]:
        if item.get("value") and (match := _ACTIVE.fullmatch(item["name"])):
            in_flight[match[1]] += int(item["value"])
    duration: dict[Answered, Bins] = {}
    plain: dict[str, dict[str, Bins]] = {_FIRST_BYTE: {}, _WAITING: {}}
    for group in histograms["stats"]:
        for item in group["histograms"]["details"]:
            match = _NAME.fullmatch(item["name"])
            if match is None:
                continue
            kind, endpoint_id, status = match.groups()
            if kind == _DURATION and status:
                duration[endpoint_id, int(status)] = _bins(item["totals"])
            elif kind in plain:
                plain[kind][endpoint_id] = _bins(item["totals"])
    return Totals(duration, plain[_FIRST_BYTE], plain[_WAITING], in_flight)


def _bins(buckets: list[Json]) -> dict[int, float]:
    """Envoy's buckets have two significant digits, ours are wider: each goes where its middle lies.

    Envoy counts whole milliseconds: below 100 ms a bucket holds one value.
    """
    bins: dict[int, float] = {}
    for bucket in buckets:
        number = bin_of(bucket["lower_bound"] + max(0.0, bucket["width"] - 1) / 2)
        bins[number] = bins.get(number, 0) + int(bucket["count"])
    return bins
