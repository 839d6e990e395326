"""The overview."""

from __future__ import annotations

from dataclasses import dataclass

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from endpoints.selectors import ListQuery, counts_of, endpoint_page, recent_events
from iam.access import require
from iam.actors import current_actor
from iam.models import ServiceAccount
from iam.roles import Permission
from registry.models import ModelStatus, RegisteredModel


@dataclass(frozen=True, slots=True)
class FirstSteps:
    """What a new project has done already."""

    model: bool
    endpoint: bool
    account: bool

    @property
    def done(self) -> bool:
        """Nothing left to show."""
        return self.model and self.endpoint and self.account


@require(Permission.VIEW)
def home(request: HttpRequest) -> HttpResponse:
    """What runs, what needs attention, and the first steps of a new project."""
    actor = current_actor(request)
    counts = counts_of(actor.project)
    models = RegisteredModel.objects.filter(project=actor.project)
    accounts = ServiceAccount.objects.filter(project=actor.project).count()
    ready = models.filter(status=ModelStatus.READY).count()
    context = {
        "counts": counts,
        "models": ready,
        "accounts_count": accounts,
        "steps": FirstSteps(bool(ready), bool(counts.total), bool(accounts)),
        "page": endpoint_page(actor.project, ListQuery(sort="-updated", size=10)),
        "events": recent_events(actor.project),
        "can_edit": actor.may(Permission.EDIT),
        "can_administer": actor.may(Permission.ADMINISTER),
        "project": actor.project,
    }
    return render(request, "home.html", context)
