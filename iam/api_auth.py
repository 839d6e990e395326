"""Bearer tokens in the management API."""

from __future__ import annotations

from typing import Any

from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import AuthenticationFailed, NotFound
from rest_framework.request import Request

from iam.actors import actor_for_account
from iam.models import ServiceAccount
from iam.oauth import tokens

# Set on the request while its token is not accepted: what is wrong with it, in English, for the header of the 401.
_FAILED = "bearer_failed"
_DISABLED = gettext_noop("The service account of this token is disabled or gone.")
_REVOKED = gettext_noop("This token was revoked when its service account changed.")


class AccountPrincipal:
    """`request.user` where a service account calls: authenticated, and no person."""

    is_authenticated = True
    is_anonymous = False
    is_active = True
    is_staff = False
    pk = None
    id = None

    def __init__(self, account: ServiceAccount) -> None:
        self.account = account

    def __str__(self) -> str:
        return self.account.name


class ServiceAccountAuthentication(BaseAuthentication):
    """`Authorization: Bearer <access token>` → `request.actor` is the account in its own project.

    The token proves who calls. What the account may do is read from the database: a disabled or deleted account
    and a role that was taken away count at once.
    """

    def authenticate(self, request: Request) -> tuple[AccountPrincipal, dict[str, Any]] | None:
        """(principal, claims), or None without a bearer token. Raises AuthenticationFailed."""
        scheme, _space, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            return None
        try:
            claims = tokens.verify(token.strip())
        except tokens.InvalidToken as error:
            raise _failed(request, str(error)) from error
        account = ServiceAccount.objects.select_related("project").filter(id=claims["sub"]).first()
        if account is None or not account.is_active:
            raise _failed(request, _DISABLED)
        if claims["grant"] != account.token_grant:
            raise _failed(request, _REVOKED)
        asked = request.query_params.get("project")
        if asked and asked != account.project_id:
            raise NotFound(_("There is no such project, or you don't belong to it."))
        request._request.actor = actor_for_account(account)  # type: ignore[attr-defined]
        return AccountPrincipal(account), claims

    def authenticate_header(self, request: Request) -> str:
        """RFC 6750 §3: an error code only where a token was sent."""
        wrong = getattr(request._request, _FAILED, "")
        error = f', error="invalid_token", error_description="{wrong}"' if wrong else ""
        return f'Bearer realm="Berth"{error}'


def _failed(request: Request, wrong: str) -> AuthenticationFailed:
    setattr(request._request, _FAILED, wrong)
    return AuthenticationFailed(_(wrong))
