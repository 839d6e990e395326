"""Is this id_token the provider's answer to our question? (OpenID Connect Core 1.0 §3.1.3.7)

allauth leaves out the signature of a token that came straight from the token call, the nonce and the authorised
party; here nothing is left out.
"""

from __future__ import annotations

import hmac
from typing import Any

import jwt

# No `none`, and no HMAC: whoever can read our configuration must not be able to sign in as anybody.
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
LEEWAY_S = 60


class InvalidToken(Exception):
    """Not to be believed; the text says why, for the log."""


def verify(token: str, keys: dict[str, Any], *, issuer: str, client_id: str, nonce: str) -> dict[str, Any]:
    """The claims. keys: the provider's JWK set. Raises InvalidToken."""
    try:
        key = _key_for(token, keys)
        claims: dict[str, Any] = jwt.decode(
            token,
            key=key.key,
            algorithms=list(ALGORITHMS),
            issuer=issuer,
            audience=client_id,
            leeway=LEEWAY_S,
            options={"require": ["iss", "sub", "aud", "exp", "iat"]},
        )
    except (jwt.PyJWTError, KeyError, TypeError, ValueError) as error:
        raise InvalidToken(f"{type(error).__name__}: {error}") from error
    audience = claims["aud"]
    if isinstance(audience, list) and len(audience) > 1 and claims.get("azp") != client_id:
        raise InvalidToken("made for several clients, and another one asked for it")
    if "azp" in claims and claims["azp"] != client_id:
        raise InvalidToken("another client asked for it")
    if not nonce or not hmac.compare_digest(str(claims.get("nonce", "")), nonce):
        raise InvalidToken("its nonce is not the one we sent")
    return claims


def _key_for(token: str, keys: dict[str, Any]) -> jwt.PyJWK:
    """By its id; a provider with one key need not name it."""
    header = jwt.get_unverified_header(token)
    known = [key for key in jwt.PyJWKSet.from_dict(keys).keys if key.public_key_use in (None, "sig")]
    wanted = header.get("kid")
    fitting = [key for key in known if wanted is None or key.key_id == wanted]
    if len(fitting) != 1:
        raise InvalidToken(f"no key {wanted!r} among the provider's")
    return fitting[0]
