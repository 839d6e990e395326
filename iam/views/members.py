"""The people of a project."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from iam import selectors
from iam.access import require
from iam.actors import current_actor
from iam.roles import Permission


@require_safe
@require(Permission.ADMINISTER)
def index(request: HttpRequest) -> HttpResponse:
    """Who belongs to the project, with which role."""
    return render(request, "iam/members.html", {"members": selectors.members(current_actor(request))})
