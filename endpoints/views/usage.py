"""What the project used: the page, and the file. Everybody who may see its endpoints sees it, callers' names included:
they are names and figures, no keys."""

from __future__ import annotations

from typing import Any

from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from django.views.decorators.http import require_safe

from endpoints.models import Endpoint, ReplicaTime, Status, Usage
from endpoints.usage import download
from endpoints.usage.asking import TOKENLESS, months
from endpoints.usage.figures import By, Only
from endpoints.usage.page import RANGES, ROWS, TABS, UsageQuery, chart, ordered, parse
from endpoints.usage.query import name_of, overview, usage
from iam.access import require
from iam.actors import Actor, current_actor
from iam.roles import Permission

_KINDS = {By.ENDPOINT: _("Endpoint"), By.ACCOUNT: _("Account"), By.MODEL: _("Model")}


@require_safe
@require(Permission.VIEW)
def index(request: HttpRequest) -> HttpResponse:
    """The page, or what htmx swaps of it."""
    actor = current_actor(request)
    wanted = request.headers.get("HX-Target") == "usage"
    template = "endpoints/_usage.html" if wanted else "endpoints/usage.html"
    response = render(request, template, _context(request, actor))
    response["Vary"] = "HX-Request, HX-Target"
    return response


@require_safe
@require(Permission.VIEW)
def csv_file(request: HttpRequest) -> HttpResponseBase:
    """All rows that the page would show."""
    query, span = parse(request.GET.dict(), timezone.now().date())
    return download.answer(usage(current_actor(request).project.id, span, query.by, query.only))


def _context(request: HttpRequest, actor: Actor) -> dict[str, Any]:
    today = timezone.now().date()
    query, span = parse(request.GET.dict(), today)
    project_id = actor.project.id
    if span.first == span.last == today:
        days = usage(project_id, span, By.HOUR, query.only)
        report = usage(project_id, span, query.by, query.only)
    elif query.by == By.DAY:
        days = report = usage(project_id, span, By.DAY, query.only)
    else:
        days, report = overview(project_id, span, query.by, query.only)
    rows = ordered(report.rows, query.sort, query.by)
    nothing = not days.total.requests and not days.total.seconds
    page = Paginator(rows, ROWS).get_page(query.page)
    return {
        "query": query,
        "span": span,
        "page": page,
        "total": days.total,
        "timeless": report.total.seconds is None,
        "chart": chart(days.rows),
        "hourly": days.by == By.HOUR,
        "ranges": [(key, label) for key, (_, label) in RANGES.items()],
        "months": months(today),
        "month": query.range not in RANGES,
        "tabs": TABS.items(),
        "chips": _chips(project_id, query),
        "costly": bool(report.total.costs),
        "nothing": nothing,
        "first_call": _first_call(actor) if nothing else None,
        "today": today,
    }


def _chips(project_id: str, query: UsageQuery) -> list[dict[str, str]]:
    """What the figures are narrowed to, each with the address without it."""
    found = []
    for by, name in ((By.ENDPOINT, "endpoint"), (By.ACCOUNT, "account"), (By.MODEL, "model")):
        key = getattr(query.only, name)
        if key is None:
            continue
        values = {other: getattr(query.only, other) for other in ("endpoint", "account", "model")}
        without = query.url_query(only=Only(**{**values, name: None}), page=1)
        chip = {"kind": name, "key": key or TOKENLESS, "label": str(_KINDS[by]), "without": without}
        found.append({**chip, "name": name_of(project_id, by, key)})
    return found


def _first_call(actor: Actor) -> dict[str, Any]:
    """Whether anything was ever used, and the endpoint that one could call."""
    mine = {"project_id": actor.project.id}
    ever = Usage.objects.filter(**mine).exists() or ReplicaTime.objects.filter(**mine).exists()
    endpoints = Endpoint.objects.filter(project=actor.project, deleting_at=None)
    ready = endpoints.filter(status=Status.ACTIVE).first() or endpoints.first()
    return {"ever": ever, "endpoint": ready, "can_edit": actor.may(Permission.EDIT)}
