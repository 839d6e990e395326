"""The audit log of a project: looking through it, and taking it along."""

from __future__ import annotations

from django.core.exceptions import ValidationError
from django.http import Http404, HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.http import require_POST, require_safe

from iam import audit, audit_export, audit_log, audit_words
from iam.access import require
from iam.actors import current_actor
from iam.roles import Permission

admins = require(Permission.ADMINISTER)


@require_safe
@admins
def index(request: HttpRequest) -> HttpResponse:
    """A page of it, newest first."""
    actor = current_actor(request)
    query, errors = audit_log.AuditQuery(), {}
    try:
        query = audit_log.parse(request.GET.dict())
    except ValidationError as error:
        errors = error.message_dict
    rows, older = audit_log.page(actor.project, query)
    context = {
        "events": rows,
        "query": query,
        "errors": [text for texts in errors.values() for text in texts],
        "newest": query.address(),
        "older": query.address(before=older) if older else "",
        "actions": audit_words.choices(),
        "kinds": audit_words.kinds(),
        # As typed: what the parser made of a day is a moment.
        "dates": {name: request.GET.get(name, "")[:40] for name in ("from", "to")},
    }
    return render(request, "iam/audit.html", context, status=422 if errors else 200)


@require_POST
@admins
def export(request: HttpRequest, form: str) -> HttpResponseBase:
    """What the page would show, all of it, as a file. That somebody took it is on record itself."""
    if form not in audit_export.FORMATS:
        raise Http404
    actor = current_actor(request)
    try:
        query = audit_log.parse(request.POST.dict())
    except ValidationError as error:
        return HttpResponse("\n".join(error.messages), status=422, content_type="text/plain; charset=utf-8")
    audit.record(actor, "audit.export", kind="audit", after={"format": form, **query.filters()})
    response = StreamingHttpResponse(
        audit_export.lines(audit_log.events(actor.project, query), form),
        content_type=audit_export.FORMATS[form][0],
    )
    name = f"berth-audit-{actor.project.id}-{timezone.now():%Y%m%d-%H%M%S}.{form}"
    response["Content-Disposition"] = f'attachment; filename="{name}"'
    response["Cache-Control"] = "no-store"
    return response
