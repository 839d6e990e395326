"""The overview."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from iam.access import require
from iam.roles import Permission


@require(Permission.VIEW)
def home(request: HttpRequest) -> HttpResponse:
    """What runs, what needs attention, and the first steps of a new project."""
    return render(request, "home.html")
