"""What the audit log is told of signing in. Actions: session.sign_in, session.sign_in_failed, session.sign_out,
session.end, mfa.add, mfa.change, mfa.remove, mfa.reset, mfa.failed, password.change, password.set, sso.link,
sso.create.

Methods are named in `with`: "password", "totp", "recovery_codes", "webauthn", "sso".
"""

from __future__ import annotations

from typing import Any

from allauth.account import signals as account_signals
from allauth.account.internal.flows.login import get_authentication_records
from allauth.mfa import signals as mfa_signals
from allauth.mfa.models import Authenticator
from allauth.usersessions.models import UserSession
from django.contrib.auth.signals import user_logged_out
from django.http import HttpRequest

from iam import audit
from iam.models import User
from iam.sign_in import sessions


def connect() -> None:
    """Listen to allauth. Called once, when the apps are ready."""
    account_signals.user_logged_in.connect(_signed_in, dispatch_uid="iam.signed_in")
    user_logged_out.connect(_signed_out, dispatch_uid="iam.signed_out")
    account_signals.password_changed.connect(_password_changed, dispatch_uid="iam.password_changed")
    account_signals.password_set.connect(_password_set, dispatch_uid="iam.password_set")
    mfa_signals.authenticator_added.connect(_added, dispatch_uid="iam.mfa_added")
    mfa_signals.authenticator_removed.connect(_removed, dispatch_uid="iam.mfa_removed")
    mfa_signals.authenticator_reset.connect(_reset, dispatch_uid="iam.mfa_reset")
    mfa_signals.authentication_failed.connect(_code_failed, dispatch_uid="iam.mfa_failed")


def failed(email: str, method: str = "password") -> None:
    """A wrong password or a name that nobody has: the log doesn't say which either. People also type passwords where
    the name belongs: what is no address isn't kept."""
    audit.record(
        None,
        "session.sign_in_failed",
        kind="session",
        name=email.strip() if "@" in email else "",
        after={"with": [method]},
    )


def sessions_ended(user: User, count: int) -> None:
    """Somebody ended sessions of their own, other than by signing out."""
    if count:
        audit.record(user, "session.end", user, kind="session", after={"sessions": count})


def passkey_renamed(passkey: Authenticator, before: str) -> None:
    """A person gave one of their own another name. The library tells nobody."""
    user, after = passkey.user, passkey.wrap().name
    if after != before:
        audit.record(user, "mfa.change", user, kind="mfa", before={"name": before}, after={"name": after})


def _signed_in(request: HttpRequest, user: User, **kwargs: Any) -> None:
    after = {
        "with": _methods(request, user),
        "device": sessions.device_of(request.META.get("HTTP_USER_AGENT", "")),
    }
    audit.record(user, "session.sign_in", user, kind="session", after=after)


def _methods(request: HttpRequest, user: User) -> list[str]:
    found: list[str] = []
    for record in get_authentication_records(request, user):
        method = str(record.get("type") or record.get("method"))
        name = {"socialaccount": "sso"}.get(method, method)
        if not record.get("reauthenticated") and name not in found:
            found.append(name)
    return found


def _signed_out(request: HttpRequest, user: User | None, **kwargs: Any) -> None:
    if user is None:
        return
    # Django empties the session right after this.
    UserSession.objects.filter(session_key=request.session.session_key or "").delete()
    audit.record(user, "session.sign_out", user, kind="session")


def _password_changed(request: HttpRequest, user: User, **kwargs: Any) -> None:
    audit.record(user, "password.change", user)
    sessions_ended(user, sessions.end_all(user, but=request.session.session_key))


def _password_set(request: HttpRequest, user: User, **kwargs: Any) -> None:
    audit.record(user, "password.set", user)
    sessions_ended(user, sessions.end_all(user, but=request.session.session_key))


def _added(user: User, authenticator: Authenticator, **kwargs: Any) -> None:
    _factor(user, "mfa.add", authenticator)


def _removed(user: User, authenticator: Authenticator, **kwargs: Any) -> None:
    _factor(user, "mfa.remove", authenticator)


def _reset(user: User, authenticator: Authenticator, **kwargs: Any) -> None:
    _factor(user, "mfa.reset", authenticator)


def _code_failed(user: User, authenticator: Authenticator, **kwargs: Any) -> None:
    audit.record(None, "mfa.failed", user, kind="mfa")


def _factor(user: User, action: str, authenticator: Authenticator) -> None:
    after = {"type": authenticator.type}
    if authenticator.type == Authenticator.Type.WEBAUTHN:
        after["name"] = authenticator.wrap().name
    audit.record(user, action, user, kind="mfa", after=after)
