"""What the pages of service accounts and API keys share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.cache import patch_cache_control
from django.views.decorators.debug import sensitive_variables

from iam.decisions import Caller, Decision, decide
from iam.directory import EndpointFacts
from iam.forms import AskForm


@dataclass(frozen=True, slots=True)
class Question:
    """ "Can it call this endpoint?", and the answer once one is chosen."""

    form: AskForm
    endpoint: EndpointFacts | None = None
    answer: Decision | None = None


def asked(
    request: HttpRequest, caller: Caller, endpoints: Sequence[EndpointFacts], now: datetime
) -> Question:
    """What `?endpoint=` asks about."""
    wanted = request.GET.get("endpoint")
    form = AskForm({"endpoint": wanted} if wanted else None, endpoints=endpoints)
    if not wanted:
        return Question(form)
    chosen = next((item for item in endpoints if item.id == wanted), None)
    return Question(form, chosen, decide(caller, chosen, now))


@sensitive_variables()
def once(request: HttpRequest, template: str, context: dict[str, Any]) -> HttpResponse:
    """A page with a secret: kept by no cache, and wiped from the browser when it is left (credentials.js)."""
    response = render(request, template, context)
    patch_cache_control(response, no_store=True, private=True)
    return response


def status_of(request: HttpRequest) -> int:
    """A form that comes back with errors is no success."""
    return 422 if request.method == "POST" else 200
