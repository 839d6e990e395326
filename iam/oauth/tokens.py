"""Access tokens of service accounts and API keys of people: RS256 JWTs (RFC 7519).

The gateway takes both, the management API access tokens alone.
"""

from __future__ import annotations

import time
import uuid
from typing import Any

import jwt
from allauth.idp.oidc.adapter import get_adapter
from allauth.idp.oidc.models import Client
from django.conf import settings
from django.utils.translation import gettext_noop as _

from gateway import access_claim
from iam.models import ApiKey
from iam.oauth import keys
from iam.roles import Role

REQUIRED_CLAIMS = ["iss", "aud", "sub", "exp", "iat", "jti", "project", "roles", "grant"]


class InvalidToken(Exception):
    """The token is no valid access token of this installation. Its text may be told to the caller: English, plain
    enough for a header, and in the catalogue."""


def lifetime_s(client: Client) -> int:
    """How long a token of this client's service account lives: no token outlives its account, whoever is down then."""
    expires_at = client.account.expires_at
    left = (
        settings.BERTH_TOKEN_LIFETIME_S if expires_at is None else int(expires_at.timestamp() - time.time())
    )
    return max(0, min(settings.BERTH_TOKEN_LIFETIME_S, left))


def issue(client: Client) -> str:
    """A signed access token for the client of a service account."""
    adapter = get_adapter()
    now = int(time.time())
    claims: dict[str, Any] = {
        "iss": adapter.get_issuer(),
        "iat": now,
        "exp": now + lifetime_s(client),
        "jti": uuid.uuid4().hex,
    }
    adapter.populate_access_token(claims, client=client, scopes=(), user=None)
    key = keys.signing_key()
    return jwt.encode(claims, key.private, algorithm="RS256", headers={"kid": key.kid})


def issue_key(key: ApiKey) -> str:
    """The API key itself. Whether its person may call endpoints is said by the list of revoked grants, which follows
    their roles; the role in its claims only tells the gateway that keys may."""
    claims: dict[str, Any] = {
        "iss": get_adapter().get_issuer(),
        "aud": settings.BERTH_TOKEN_AUDIENCE,
        "sub": key.id,
        "iat": int(time.time()),
        "exp": int(key.expires_at.timestamp()),
        "jti": uuid.uuid4().hex,
        "project": key.project_id,
        "roles": [Role.USER],
        "grant": key.token_grant,
        "access": access_claim.text(key.project_id, [Role.USER], key.endpoint_ids),
    }
    signing = keys.signing_key(ring=keys.Ring.API_KEYS)
    return jwt.encode(claims, signing.private, algorithm="RS256", headers={"kid": signing.kid})


def verify(token: str) -> dict[str, Any]:
    """The token's claims, after checking signature, issuer, audience and times. Raises InvalidToken.

    Only RS256 and only the keys of this installation count, whatever the token's header proposes.
    """
    try:
        kid = jwt.get_unverified_header(token).get("kid")
        key = keys.key_by_id(kid) if isinstance(kid, str) else None
        if key is None and isinstance(kid, str) and keys.key_by_id(kid, keys.Ring.API_KEYS):
            raise InvalidToken(
                _("API keys are for calling endpoints. Use a service account's access token here.")
            )
        if key is None:
            raise InvalidToken(_("The token is signed with a key that this server does not know."))
        claims: dict[str, Any] = jwt.decode(
            token,
            key.private.public_key(),
            algorithms=["RS256"],
            audience=settings.BERTH_TOKEN_AUDIENCE,
            issuer=settings.BERTH_PUBLIC_URL,
            options={"require": REQUIRED_CLAIMS},
        )
    except jwt.ExpiredSignatureError as error:
        raise InvalidToken(_("The token has expired.")) from error
    except jwt.PyJWTError as error:
        raise InvalidToken(_("The token is not valid here.")) from error
    return claims
