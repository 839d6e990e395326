"""The management API's metrics of one endpoint, and `/metrics` for Prometheus."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from typing import Any

from django.http import HttpResponse
from django.utils import timezone
from django.utils.dateparse import parse_datetime
from django.utils.decorators import method_decorator
from django.utils.translation import gettext as _
from django.views.decorators.gzip import gzip_page
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from config.api import ProjectViewSet
from endpoints.charts import DEFAULT_RANGE, RANGES
from endpoints.metrics import prometheus, query, text_format
from endpoints.metrics.sample import FINEST, RESOLUTIONS
from endpoints.models import Endpoint
from iam.actors import current_actor

STEP_MOST_S = 86_400
# Of a range's length, beside the age at which samples go: nobody counts the days of three months.
LONGEST_S = max(RESOLUTIONS.values()) + 3 * 86_400
_NUMBER = re.compile(r"\d{1,12}(\.\d{1,9})?", re.ASCII)
# Of an ISO time's offset, which a client has not encoded: "+" stands for a blank in an address.
_BLANK_OFFSET = re.compile(r" (?=\d\d:?\d\d$)")
_DAYS_90 = RESOLUTIONS[max(RESOLUTIONS)] // 86_400

_NUMBERS = {"type": "array", "items": {"type": "number", "nullable": True}}
_CHART: dict[str, Any] = {
    "type": "object",
    "required": ["from", "to", "step", "at", "series", "replicas", "thresholds", "decisions"],
    "properties": {
        "from": {"type": "number", "description": "seconds since 1970, as `to`, `at` and a decision's `at`"},
        "to": {"type": "number"},
        "step": {"type": "integer", "description": "seconds between two points"},
        "at": {"type": "array", "items": {"type": "integer"}, "description": "the beginning of each point"},
        "series": {
            "type": "object",
            "description": "a value for each point; null: nobody measured, 0: measured, and nothing happened. "
            "`cpu`, `memory`, `gpu`, `gpu_memory` and `kv_cache` are per cent, means over the replicas; `queued` and "
            "the tokens are sums. `first_byte` counts requests that still wait with their age.",
            "properties": dict.fromkeys(query.SERIES, _NUMBERS),
        },
        "replicas": {
            "type": "object",
            "description": f"by replica, the newest {query.REPLICAS_SHOWN}; per cent",
            "additionalProperties": {
                "type": "object",
                "properties": dict.fromkeys(query.REPLICA_LINES, _NUMBERS),
            },
        },
        "thresholds": {
            "type": "object",
            "description": "those that are set",
            "additionalProperties": {"type": "integer"},
        },
        "decisions": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "id": {"type": "integer", "description": "in `decisions/`"},
                    "at": {"type": "number"},
                    "before": {"type": "integer", "description": "wanted replicas"},
                    "after": {"type": "integer"},
                    "rule": {"type": "string"},
                    "blocker": {
                        "type": "string",
                        "nullable": True,
                        "description": "what holds it up or back, null if nothing does",
                    },
                    "text": {"type": "string", "description": "in the reader's language"},
                },
            },
        },
    },
}
_MOMENT = "ISO 8601 (without an offset: UTC) or seconds since 1970"


class Metrics(ProjectViewSet[Endpoint]):
    """What an endpoint's viewset gains."""

    @extend_schema(
        parameters=[
            OpenApiParameter(
                "range",
                str,
                enum=list(RANGES),
                description=f"Until now, instead of `from` and `to`; {DEFAULT_RANGE} if nothing is given.",
            ),
            OpenApiParameter("from", str, description=f"{_MOMENT}; an hour before `to` if left out."),
            OpenApiParameter("to", str, description=f"{_MOMENT}; now if left out."),
            OpenApiParameter(
                "step",
                int,
                description=f"Seconds between two points, {FINEST} to {STEP_MOST_S}; as few as give no more than "
                f"{query.POINTS} points if left out. Made longer where samples of that age are coarser; the answer "
                "names the one that was taken.",
            ),
        ],
        responses={200: _CHART},
    )
    @action(detail=True, methods=["get"], filter_backends=[], pagination_class=None)
    def metrics(self, request: Request, pk: str) -> Response:
        """What it did over a span of time, as lines, and what the autoscaler decided in it. The newest seconds are
        in it."""
        now = time.time()
        start, end, step = asked(request.query_params, now)
        return Response(query.chart(self.get_object(), start, end, step, now))


def asked(params: Mapping[str, str], now: float) -> tuple[float, float, int | None]:
    """(from, to, step or None) of a call, seconds. Raises serializers.ValidationError, by field."""
    errors: dict[str, list[str]] = {}
    start, end, step = None, now, None
    try:
        step = _step(params.get("step", ""))
    except ValueError as error:
        errors["step"] = [str(error)]
    for name in ("from", "to"):
        try:
            moment = _moment(params[name]) if params.get(name) else None
        except ValueError as error:
            errors[name] = [str(error)]
            continue
        if moment is not None and name == "from":
            start = moment
        elif moment is not None:
            end = min(moment, now)
    if chosen := params.get("range"):
        start, end = _range(chosen, params, now, errors), now
    begin = end - RANGES[DEFAULT_RANGE][0] if start is None else start
    if not errors:
        errors = _span_errors(begin, end, now)
    if errors:
        raise serializers.ValidationError(errors)
    return begin, end, step


def _range(chosen: str, params: Mapping[str, str], now: float, errors: dict[str, list[str]]) -> float:
    if chosen not in RANGES:
        errors["range"] = [_("There is no such range. There are: %(names)s.") % {"names": ", ".join(RANGES)}]
        return now
    if params.get("from") or params.get("to"):
        errors["range"] = [_("Give either a range, or from and to.")]
    return now - RANGES[chosen][0]


def _span_errors(start: float, end: float, now: float) -> dict[str, list[str]]:
    if start >= now:
        return {"from": [_("This lies in the future.")]}
    if start >= end:
        return {"from": [_("The beginning must be before the end.")]}
    if end - start > LONGEST_S:
        return {
            "from": [_("At most %(days)s days at once: metrics are kept no longer.") % {"days": _DAYS_90}]
        }
    return {}


def _step(text: str) -> int | None:
    if not text:
        return None
    if not re.fullmatch(r"\d{1,6}", text, re.ASCII) or not FINEST <= int(text) <= STEP_MOST_S:
        raise ValueError(
            _("A whole number of seconds, %(least)s to %(most)s.") % {"least": FINEST, "most": STEP_MOST_S}
        )
    return int(text)


def _moment(text: str) -> float:
    """Seconds since 1970. Raises ValueError with words for the caller."""
    if _NUMBER.fullmatch(text):
        return float(text)
    try:
        moment = parse_datetime(_BLANK_OFFSET.sub("+", text.strip()))
    except ValueError:  # well formed, and no such day
        moment = None
    if moment is None:
        raise ValueError(
            _("Neither a time in ISO 8601, such as 2026-11-22T20:00:00Z, nor seconds since 1970.")
        )
    if timezone.is_naive(moment):
        moment = moment.replace(tzinfo=timezone.get_default_timezone())
    found = moment.timestamp()
    return found if math.isfinite(found) else 0.0


class AnyAccept(BaseContentNegotiation):
    """The answer has one format, whatever the client would like best."""

    def select_parser(self, request: Request, parsers: Any) -> Any:
        """There is no body."""
        return parsers[0]

    def select_renderer(self, request: Request, renderers: Any, format_suffix: str | None = None) -> Any:
        """JSON, for errors."""
        return renderers[0], renderers[0].media_type


@method_decorator(gzip_page, name="dispatch")
class PrometheusView(APIView):
    """`GET /metrics`: the latest figures of the caller's project, in Prometheus' text format.

    With `Authorization: Bearer` and a service account's access token, which Prometheus fetches itself (`oauth2` in its
    configuration), or a console session; the role must allow VIEW. Compressed if the client takes it: labels repeat.
    """

    content_negotiation_class = AnyAccept

    @extend_schema(exclude=True)
    def get(self, request: Request) -> HttpResponse:
        """Everything, once."""
        families = prometheus.families(current_actor(request).project)
        return HttpResponse(text_format.text(families), content_type=text_format.CONTENT_TYPE)
