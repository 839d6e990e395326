"""Signing keys of tests, and the tokens that a gateway takes or refuses by them."""

from __future__ import annotations

import json
import time
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from gateway import access_claim

ISSUER = "http://iam.test"
AUDIENCE = "berth-gateway"


class Key:
    """One signing key."""

    def __init__(self, kid: str) -> None:
        self.kid = kid
        self.private = rsa.generate_private_key(public_exponent=65537, key_size=2048)

    @property
    def jwk(self) -> dict[str, Any]:
        return {**json.loads(RSAAlgorithm.to_jwk(self.private.public_key())), "kid": self.kid}

    def token(self, *, alg: str = "RS256", headers: dict[str, Any] | None = None, **claims: Any) -> str:
        content = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": "sa-1",
            "jti": "j-1",
            "iat": int(time.time()),
            "exp": int(time.time()) + 600,
            "project": "p1",
            "roles": ["aiplatform.user"],
            "grant": "sa-1:1",
            **claims,
        }
        content = {"access": _access(content), **content}
        content = {k: v for k, v in content.items() if v is not None}
        return jwt.encode(content, self.private, alg, headers={"kid": self.kid, **(headers or {})})


def _access(claims: dict[str, Any]) -> str | None:
    """The claim that goes with `project`, `roles` and `endpoints`; None where those are of no use."""
    parts = claims["project"], claims["roles"], claims.pop("endpoints", None)
    return access_claim.text(*parts) if isinstance(parts[0], str) and isinstance(parts[1], list) else None


def jwks(*keys: Key) -> str:
    return json.dumps({"keys": [k.jwk for k in keys]})


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}
