"""Machines and GPUs: what is promised and what is there; and what the gateways before them serve. For the platform's
admins, over all projects."""

from __future__ import annotations

import time

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from endpoints import gateway_states
from endpoints.placement import ledger
from iam.access import require_staff


@require_staff
def machines(request: HttpRequest) -> HttpResponse:
    """The page, or only its machines when htmx asks."""
    partial = request.headers.get("HX-Target") == "machines"
    context = {"nodes": ledger.nodes(), "gateways": gateway_states.overview(time.time())}
    response = render(request, "endpoints/_machines.html" if partial else "endpoints/machines.html", context)
    response["Vary"] = "HX-Request"
    return response
