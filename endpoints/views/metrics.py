"""The Metrics tab: the frame of the charts. Their figures are fetched from the API by the page."""

from __future__ import annotations

import time

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import NoReverseMatch, reverse
from django.utils import timezone

from endpoints.charts import DEFAULT_RANGE, RANGES, charts
from endpoints.usage.page import this_month
from endpoints.views.common import get_endpoint
from iam.access import require
from iam.actors import current_actor
from iam.roles import Permission

# In the order in which they build on each other.
SCRIPTS = (
    *("js/metrics-words.js", "js/metrics-merge.js", "js/metrics-axes.js"),
    *("js/metrics-legend.js", "js/metrics-marks.js", "js/metrics-table.js", "js/metrics-chart.js"),
    *("js/metrics-range.js", "js/metrics-feed.js", "js/metrics.js"),
)


@require(Permission.VIEW)
def metrics_tab(request: HttpRequest, endpoint_id: str) -> HttpResponse:
    """What it did: charts over one span of time. `?range=6h`, or `?from=&to=` in seconds since 1970."""
    actor = current_actor(request)
    endpoint = get_endpoint(actor, endpoint_id)
    gpu = bool(endpoint.revision and endpoint.revision.instance_type.gpu_count)
    shown = list(charts(gpu))
    chosen = "" if request.GET.get("from") else request.GET.get("range", "")
    context = {
        "endpoint": endpoint,
        "tab": "metrics",
        "can_edit": actor.may(Permission.EDIT),
        "charts": shown,
        "plan": {
            "charts": [chart.as_json() for chart in shown],
            "ranges": {name: seconds for name, (seconds, _) in RANGES.items()},
            "default": DEFAULT_RANGE,
            "now": round(time.time(), 3),
        },
        "ranges": [(name, label) for name, (_, label) in RANGES.items()],
        "chosen": chosen if chosen in RANGES else "" if request.GET.get("from") else DEFAULT_RANGE,
        "scripts": SCRIPTS,
        "decisions": _decisions(endpoint.id),
        "month": this_month(endpoint, timezone.now().date()),
    }
    return render(request, "endpoints/metrics.html", context)


def _decisions(endpoint_id: str) -> str:
    """Where the decisions are told in full, "" if there is no such page."""
    try:
        return reverse("endpoints:decisions", args=[endpoint_id])
    except NoReverseMatch:
        return ""
