"""Service accounts: the list, one account, and what may be done to it. All of it needs the role admin.

A secret is in exactly one answer, that of the POST which made it: never in a session, a message or a redirect.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

from django.conf import settings
from django.contrib import messages
from django.core.exceptions import ValidationError
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.debug import sensitive_variables
from django.views.decorators.http import require_POST, require_safe

from iam import decisions, selectors, services
from iam.access import require
from iam.activity import activity
from iam.actors import current_actor
from iam.directory import directory
from iam.forms import SecretForm, ServiceAccountForm
from iam.models import ServiceAccount
from iam.roles import Permission
from iam.rotation import rotation
from iam.views.common import asked, once, status_of

admins = require(Permission.ADMINISTER)
PAGE = 50


@require_safe
@admins
def index(request: HttpRequest) -> HttpResponse:
    """The project's accounts, a page at a time, or those whose name, description or id holds `?search=`."""
    search = request.GET.get("search", "").strip().replace("\x00", "")[:200]
    found = selectors.service_accounts(current_actor(request), search)
    page = Paginator(found, PAGE).get_page(request.GET.get("page"))
    accounts = list(page)
    now = timezone.now()
    known = activity(accounts, now)
    rows = [
        {"account": item, "status": selectors.account_status(item, now), "activity": known[item.id]}
        for item in accounts
    ]
    context = {
        "rows": rows,
        "page": page,
        "search": search,
        "query": urlencode({"search": search}) if search else "",
    }
    return render(request, "iam/service_accounts.html", context)


@admins
@sensitive_variables("secret")
def create(request: HttpRequest) -> HttpResponse:
    """The form; when it is accepted, the credentials, once."""
    actor = current_actor(request)
    form = ServiceAccountForm(request.POST or None, endpoints=directory().of_project(actor.project.id))
    if request.method == "POST" and form.is_valid():
        try:
            account, secret = services.create_service_account(actor, **form.changes())
        except ValidationError as error:
            form.add_error(None, error)
        else:
            return show_once(request, account, secret)
    return render(request, "iam/service_account_create.html", {"form": form}, status=status_of(request))


@admins
def detail(request: HttpRequest, account_id: str) -> HttpResponse:
    """One account: its facts, its secrets, what it may call and called, and the form that changes it."""
    actor = current_actor(request)
    account = _get(request, account_id)
    endpoints = directory().of_project(actor.project.id)
    form = ServiceAccountForm.of(account, endpoints, request.POST or None)
    if request.method == "POST" and form.is_valid():
        try:
            services.update_service_account(actor, account, **form.changes(account))
        except ValidationError as error:
            form.add_error(None, error)
        else:
            messages.success(request, _("Saved."))
            return redirect("iam:service_account", account.id)
    stored = _get(request, account_id)  # a refused change has left its input in `account`
    now = timezone.now()
    secrets = sorted(stored.secrets.all(), key=lambda secret: (secret.created_at, secret.pk))
    context = {
        "account": stored,
        "status": selectors.account_status(stored, now),
        "activity": activity([stored], now)[stored.id],
        "form": form,
        "secrets": secrets,
        "rotation": rotation(secrets, now, timedelta(seconds=settings.BERTH_TOKEN_LIFETIME_S)),
        "secret_form": SecretForm(),
        "now": now,
        "narrowed": selectors.narrowed(stored.endpoint_ids, endpoints),
        "uses": directory().uses(actor.project.id, stored.id),
        "question": asked(request, decisions.of_account(stored), endpoints, now),
    }
    return render(request, "iam/service_account.html", context, status=status_of(request))


@require_POST
@admins
@sensitive_variables("secret")
def add_secret(request: HttpRequest, account_id: str) -> HttpResponse:
    """A second secret, shown once."""
    account = _get(request, account_id)
    form = SecretForm(request.POST)
    try:
        if not form.is_valid():
            raise ValidationError(list(form.errors["expires_at"]))
        _row, secret = services.add_secret(current_actor(request), account, form.moment())
    except ValidationError as error:
        return _refused(request, error, account)
    return show_once(request, account, secret)


@require_POST
@admins
def delete_secret(request: HttpRequest, account_id: str, secret_id: int) -> HttpResponse:
    """One secret less."""
    account = _get(request, account_id)
    services.delete_secret(current_actor(request), get_object_or_404(account.secrets, id=secret_id))
    messages.success(request, _("The secret is deleted. It gets no more tokens."))
    return redirect("iam:service_account", account.id)


@require_POST
@admins
def disable(request: HttpRequest, account_id: str) -> HttpResponse:
    """No new tokens, and those that are out are refused."""
    account = _get(request, account_id)
    services.disable_service_account(current_actor(request), account)
    messages.success(request, _("%(name)s is disabled.") % {"name": account.name})
    return redirect("iam:service_accounts")


@require_POST
@admins
def enable(request: HttpRequest, account_id: str) -> HttpResponse:
    """Undo a disable."""
    account = _get(request, account_id)
    try:
        services.enable_service_account(current_actor(request), account)
    except ValidationError as error:
        return _refused(request, error, account)
    messages.success(request, _("%(name)s is enabled.") % {"name": account.name})
    return redirect("iam:service_accounts")


@require_POST
@admins
def delete(request: HttpRequest, account_id: str) -> HttpResponse:
    """Gone for good."""
    account = _get(request, account_id)
    services.delete_service_account(current_actor(request), account)
    messages.success(request, _("%(name)s is deleted.") % {"name": account.name})
    return redirect("iam:service_accounts")


@sensitive_variables()
def show_once(request: HttpRequest, account: ServiceAccount, secret: str) -> HttpResponse:
    """The credentials, in this answer alone."""
    context: dict[str, Any] = {
        "account": account,
        "credentials": selectors.Credentials(account.id, secret),
        "leave_to": reverse("iam:service_accounts"),
    }
    return once(request, "iam/credentials.html", context)


def _get(request: HttpRequest, account_id: str) -> ServiceAccount:
    return get_object_or_404(selectors.service_accounts(current_actor(request)), id=account_id)


def _refused(request: HttpRequest, error: ValidationError, account: ServiceAccount) -> HttpResponse:
    for text in error.messages:
        messages.error(request, text)
    return redirect("iam:service_account", account.id)
