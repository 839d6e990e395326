"""The answer to whoever tries too often: 429, and how long to wait."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

DEFAULT_WAIT_S = 60


def too_many(request: HttpRequest, wait_s: int = DEFAULT_WAIT_S) -> HttpResponse:
    """The page. It is the same for every name, known here or not."""
    context = {"seconds": wait_s, "minutes": -(-wait_s // 60)}
    response = render(request, "429.html", context, status=429)
    response["Retry-After"] = str(wait_s)
    response["Cache-Control"] = "no-store"
    return response
