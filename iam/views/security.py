"""A person's own security: password, second factors, passkeys, sessions. Everybody signed in sees only their own."""

from __future__ import annotations

from typing import Any

from allauth.account.internal.flows.logout import logout
from allauth.mfa.models import Authenticator
from allauth.mfa.recovery_codes.views import ViewRecoveryCodesView
from allauth.socialaccount.models import SocialAccount
from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST, require_safe

from iam.models import User
from iam.sign_in import recording, sessions
from iam.sso.adapter import provider_id


@require_safe
@login_required
def overview(request: HttpRequest) -> HttpResponse:
    """What protects the account, and where to change it."""
    user = _user(request)
    factors = list(Authenticator.objects.filter(user=user).order_by("created_at"))
    codes = _first(factors, Authenticator.Type.RECOVERY_CODES)
    context = {
        "has_password": user.has_usable_password(),
        "app": _first(factors, Authenticator.Type.TOTP),
        "passkeys": [f for f in factors if f.type == Authenticator.Type.WEBAUTHN],
        "protected": any(f.type != Authenticator.Type.RECOVERY_CODES for f in factors),
        "codes": codes,
        "codes_left": len(codes.wrap().get_unused_codes()) if codes else 0,
        "sessions": sessions.sessions_of(user, request.session.session_key),
        "sso_name": settings.BERTH_OIDC_NAME if settings.BERTH_OIDC_ISSUER else "",
        "sso": SocialAccount.objects.filter(user=user, provider=provider_id()).first()
        if settings.BERTH_OIDC_ISSUER
        else None,
    }
    return render(request, "account/security.html", context)


@require_safe
@login_required
def to_overview(request: HttpRequest) -> HttpResponse:
    """Pages of allauth's that ours stands in for."""
    return redirect("account_security")


@never_cache
@login_required
def recovery_codes(request: HttpRequest) -> HttpResponse:
    """The new codes, once. Without codes there is nothing to see, which is no error."""
    try:
        response: HttpResponse = ViewRecoveryCodesView.as_view()(request)
    except Http404:
        return redirect("account_security")
    response["Cache-Control"] = "no-store, private"
    return response


@require_safe
@login_required
def session_list(request: HttpRequest) -> HttpResponse:
    """Where the person is signed in."""
    rows = sessions.sessions_of(_user(request), request.session.session_key)
    return render(request, "usersessions/usersession_list.html", {"sessions": rows})


@require_POST
@login_required
def end_one(request: HttpRequest, session_id: int) -> HttpResponse:
    """Sign out one other session. Of this one that is signing out."""
    user = _user(request)
    row = next(
        (r for r in sessions.sessions_of(user, request.session.session_key) if r.id == session_id), None
    )
    if row is None:
        raise Http404
    if row.this:
        return _sign_out(request)
    sessions.end(user, session_id)
    recording.sessions_ended(user, 1)
    messages.success(request, _("That session is signed out."))
    return redirect("usersessions_list")


@require_POST
@login_required
def end_others(request: HttpRequest) -> HttpResponse:
    """Sign out everywhere but here."""
    user = _user(request)
    count = sessions.end_all(user, but=request.session.session_key)
    recording.sessions_ended(user, count)
    words = ngettext("%(n)s other session is signed out.", "%(n)s other sessions are signed out.", count)
    messages.success(request, words % {"n": count})
    return redirect("usersessions_list")


@require_POST
@login_required
def end_all(request: HttpRequest) -> HttpResponse:
    """Sign out everywhere, here too."""
    user = _user(request)
    recording.sessions_ended(user, sessions.end_all(user, but=request.session.session_key))
    return _sign_out(request)


@require_safe
def sso_cancelled(request: HttpRequest) -> HttpResponse:
    """The person, or the provider, broke off."""
    return render(request, "socialaccount/login_cancelled.html", {"provider": settings.BERTH_OIDC_NAME})


def _sign_out(request: HttpRequest) -> HttpResponse:
    logout(request)
    return redirect("account_login")


def _user(request: HttpRequest) -> User:
    assert isinstance(request.user, User)
    return request.user


def _first(factors: list[Any], kind: str) -> Any:
    return next((factor for factor in factors if factor.type == kind), None)
