"""Bearer tokens in the management API."""

from __future__ import annotations

from typing import Any

from django.utils.translation import gettext as _
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import AuthenticationFailed, NotFound
from rest_framework.request import Request

from iam.actors import actor_for_account
from iam.models import ServiceAccount
from iam.oauth import tokens

# Set on the request while its token is not accepted yet, for the header of the 401.
_FAILED = "bearer_failed"


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
        setattr(request._request, _FAILED, True)
        try:
            claims = tokens.verify(token.strip())
        except tokens.InvalidToken as error:
            raise AuthenticationFailed(str(error)) from error
        account = ServiceAccount.objects.select_related("project").filter(id=claims["sub"]).first()
        if account is None or not account.is_active:
            raise AuthenticationFailed(_("The service account of this token is disabled or gone."))
        if claims["grant"] != account.token_grant:
            raise AuthenticationFailed(
                _("This token was revoked when its service account changed. Get a new one.")
            )
        asked = request.query_params.get("project")
        if asked and asked != account.project_id:
            raise NotFound(_("There is no such project, or you don't belong to it."))
        setattr(request._request, _FAILED, False)
        request._request.actor = actor_for_account(account)  # type: ignore[attr-defined]
        return AccountPrincipal(account), claims

    def authenticate_header(self, request: Request) -> str:
        """RFC 6750 §3: an error code only where a token was sent."""
        failed = getattr(request._request, _FAILED, False)
        return 'Bearer realm="Berth", error="invalid_token"' if failed else 'Bearer realm="Berth"'
