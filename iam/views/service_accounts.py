"""Service accounts: the list, one account, and what may be done to it. All of it needs the role admin.

A secret is in exactly one answer, that of the POST which made it: never in a session, a message or a redirect.
"""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.cache import patch_cache_control
from django.utils.translation import gettext as _
from django.views.decorators.debug import sensitive_variables
from django.views.decorators.http import require_POST, require_safe

from iam import selectors, services
from iam.access import require
from iam.actors import current_actor
from iam.forms import ServiceAccountForm
from iam.models import MAX_SECRETS, ServiceAccount
from iam.roles import Permission

admins = require(Permission.ADMINISTER)


@require_safe
@admins
def index(request: HttpRequest) -> HttpResponse:
    """The project's accounts."""
    accounts = selectors.service_accounts(current_actor(request))
    return render(request, "iam/service_accounts.html", {"accounts": accounts})


@admins
@sensitive_variables("secret")
def create(request: HttpRequest) -> HttpResponse:
    """The form; when it is accepted, the credentials, once."""
    form = ServiceAccountForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        try:
            account, secret = services.create_service_account(current_actor(request), **form.cleaned_data)
        except ValidationError as error:
            form.add_error(None, error)
        else:
            return show_once(request, account, secret)
    return render(request, "iam/service_account_create.html", {"form": form}, status=_status(request))


@admins
def detail(request: HttpRequest, account_id: str) -> HttpResponse:
    """One account: its facts, its secrets, and the form that changes it."""
    account = _get(request, account_id)
    present = {"name": account.name, "description": account.description, "roles": account.roles}
    form = ServiceAccountForm(request.POST or None, initial=present)
    if request.method == "POST" and form.is_valid():
        try:
            services.update_service_account(current_actor(request), account, **form.cleaned_data)
        except ValidationError as error:
            form.add_error(None, error)
        else:
            messages.success(request, _("Saved. Tokens issued from now on carry these roles."))
            return redirect("iam:service_account", account.id)
    stored = _get(request, account_id)  # a refused change has left its input in `account`
    secrets = stored.secrets.order_by("created_at")
    context = {
        "account": stored,
        "form": form,
        "secrets": secrets,
        "may_add_secret": len(secrets) < MAX_SECRETS,
    }
    return render(request, "iam/service_account.html", context, status=_status(request))


@require_POST
@admins
@sensitive_variables("secret")
def add_secret(request: HttpRequest, account_id: str) -> HttpResponse:
    """A second secret, shown once."""
    account = _get(request, account_id)
    try:
        _row, secret = services.add_secret(current_actor(request), account)
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
    """No new tokens."""
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
    """The credentials, in this answer alone: kept by no cache, and wiped from the page when it is left."""
    context: dict[str, Any] = {
        "account": account,
        "credentials": selectors.Credentials(account.id, secret),
        "leave_to": reverse("iam:service_accounts"),
    }
    response = render(request, "iam/credentials.html", context)
    patch_cache_control(response, no_store=True, private=True)
    return response


def _get(request: HttpRequest, account_id: str) -> ServiceAccount:
    return get_object_or_404(selectors.service_accounts(current_actor(request)), id=account_id)


def _refused(request: HttpRequest, error: ValidationError, account: ServiceAccount) -> HttpResponse:
    for text in error.messages:
        messages.error(request, text)
    return redirect("iam:service_account", account.id)


def _status(request: HttpRequest) -> int:
    """A form that comes back with errors is no success."""
    return 422 if request.method == "POST" else 200
