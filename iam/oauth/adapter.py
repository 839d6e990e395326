"""How allauth's OpenID Connect provider behaves here: who issues, what a token says, which keys sign."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from allauth.idp.oidc.adapter import DefaultOIDCAdapter
from allauth.idp.oidc.internal.private_keys import filter_keys
from allauth.idp.oidc.models import Client, PrivateKey
from django.conf import settings
from django.contrib.auth.base_user import AbstractBaseUser

from gateway import access_claim
from iam.oauth import keys


class OIDCAdapter(DefaultOIDCAdapter):  # type: ignore[misc]
    """Tokens for service accounts."""

    def get_issuer(self) -> str:
        """The configured address: whatever Host header a request carries, it gets the same issuer."""
        return str(settings.BERTH_PUBLIC_URL)

    def populate_access_token(
        self,
        access_token: dict[str, Any],
        *,
        client: Client,
        scopes: Iterable[str],
        user: AbstractBaseUser | None,
        **kwargs: Any,
    ) -> None:
        """Add what gateway and API decide by: audience, subject, project and roles (contract §2)."""
        account = client.account
        access_token["aud"] = settings.BERTH_TOKEN_AUDIENCE
        access_token["sub"] = account.id
        access_token["project"] = account.project_id
        access_token["roles"] = list(account.roles)
        access_token["grant"] = account.token_grant
        access_token["access"] = access_claim.text(account.project_id, account.roles, account.endpoint_ids)

    def populate_server_metadata(self, data: dict[str, Any]) -> None:
        """What this server offers (RFC 8414): one grant, with addresses that no request can change."""
        issuer = self.get_issuer()
        data.update(
            {
                "issuer": issuer,
                "token_endpoint": f"{issuer}/accounts-api/v2/auth/token",
                "jwks_uri": f"{issuer}/.well-known/jwks.json",
                "grant_types_supported": ["client_credentials"],
                "response_types_supported": [],
                "scopes_supported": list(SCOPES),
                "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["RS256"],
            }
        )

    def list_private_keys(
        self, *, did_activate: Literal[True] | None = None, is_active: Literal[True] | None = None
    ) -> list[PrivateKey]:
        """The keys of `iam.oauth.keys`, for allauth's own code: one place holds them."""
        found = [
            PrivateKey(pem=key.pem, not_before=key.signs_from, issued_at=key.signs_from, expires_at=None)
            for key in keys.published_keys()
        ]
        return filter_keys(found, did_activate=did_activate, is_active=is_active)  # type: ignore[no-any-return]


# Accepted for every account; they change nothing.
SCOPES = ("openid", "email", "profile")
