"""Machines and GPUs: what is promised and what is there. For the platform's admins, over all projects."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from endpoints.placement import ledger
from iam.access import require_staff


@require_staff
def machines(request: HttpRequest) -> HttpResponse:
    """The page, or only its machines when htmx asks."""
    partial = request.headers.get("HX-Target") == "machines"
    context = {"nodes": ledger.nodes()}
    response = render(request, "endpoints/_machines.html" if partial else "endpoints/machines.html", context)
    response["Vary"] = "HX-Request"
    return response
