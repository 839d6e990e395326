"""Access tokens: RS256 JWTs (RFC 7519) for a service account, made here and checked here and in the gateway."""

from __future__ import annotations

import time
import uuid
from typing import Any

import jwt
from allauth.idp.oidc.adapter import get_adapter
from allauth.idp.oidc.models import Client
from django.conf import settings

from iam.oauth import keys

REQUIRED_CLAIMS = ["iss", "aud", "sub", "exp", "iat", "jti", "project", "roles"]


class InvalidToken(Exception):
    """The token is no valid access token of this installation. Its text may be told to the caller."""


def issue(client: Client) -> str:
    """A signed access token for the client of a service account."""
    adapter = get_adapter()
    now = int(time.time())
    claims: dict[str, Any] = {
        "iss": adapter.get_issuer(),
        "iat": now,
        "exp": now + settings.BERTH_TOKEN_LIFETIME_S,
        "jti": uuid.uuid4().hex,
    }
    adapter.populate_access_token(claims, client=client, scopes=(), user=None)
    key = keys.signing_key()
    return jwt.encode(claims, key.private, algorithm="RS256", headers={"kid": key.kid})


def verify(token: str) -> dict[str, Any]:
    """The token's claims, after checking signature, issuer, audience and times. Raises InvalidToken.

    Only RS256 and only the keys of this installation count, whatever the token's header proposes.
    """
    try:
        kid = jwt.get_unverified_header(token).get("kid")
        key = keys.key_by_id(kid) if isinstance(kid, str) else None
        if key is None:
            raise InvalidToken("The token is signed with a key that this server does not know.")
        claims: dict[str, Any] = jwt.decode(
            token,
            key.private.public_key(),
            algorithms=["RS256"],
            audience=settings.BERTH_TOKEN_AUDIENCE,
            issuer=settings.BERTH_PUBLIC_URL,
            options={"require": REQUIRED_CLAIMS},
        )
    except jwt.ExpiredSignatureError as error:
        raise InvalidToken("The token has expired. Get a new one.") from error
    except jwt.PyJWTError as error:
        raise InvalidToken("The token is not valid here.") from error
    return claims
