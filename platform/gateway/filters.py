"""The HTTP filters whose configuration changes at run time (ECDS): tokens, revocations, body limit."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from gateway import names, request_limits, websockets
from gateway.matching import header, verdict
from gateway.targets import Caller, TokenPolicy

Json = dict[str, Any]

CLOCK_SKEW_S = 5  # how far two clocks may differ; an expired token lives that much longer


def _extension(name: str, config: Json) -> Json:
    return {"@type": names.TYPE + "config.core.v3.TypedExtensionConfig", "name": name, "typed_config": config}


def tokens(policy: TokenPolicy) -> Json:
    """Who is calling: RS256 tokens of one issuer for one audience, required below /v1/.

    Raises ValueError for keys that are no JWK set.
    """
    provider = {
        "issuer": policy.issuer,
        "audiences": [policy.audience],
        "require_expiration": True,
        "clock_skew_seconds": CLOCK_SKEW_S,
        "local_jwks": {"inline_string": public_keys(policy.jwks)},
        "forward": False,
        # Header only: a token in a URL ends up in logs. The scheme's case is free (RFC 9110 §11.1).
        "from_headers": [
            {"name": "Authorization", "value_prefix": "Bearer "},
            {"name": "Authorization", "value_prefix": "bearer "},
        ],
        "failed_status_in_metadata": names.JWT_FAILURE,
        # For the filters behind this one. `payload_in_metadata` would give them all claims, and copy each of them for
        # each request.
        "claim_to_headers": [
            {"header_name": names.SUBJECT_HEADER, "claim_name": "sub"},
            {"header_name": names.GRANT_HEADER, "claim_name": "grant"},
            {"header_name": names.ACCESS_HEADER, "claim_name": "access"},
        ],
        "jwt_cache_config": {"jwt_cache_size": 5000},
    }
    return _extension(
        names.TOKEN_FILTER,
        {
            "@type": names.TYPE + "extensions.filters.http.jwt_authn.v3.JwtAuthentication",
            "providers": {"iam": provider},
            "rules": [{"match": {"prefix": "/v1/"}, "requires": {"provider_name": "iam"}}],
            "strip_failure_response": True,
        },
    )


def public_keys(jwks: str) -> str:
    """The RSA public keys of a JWK set, each bound to RS256; nothing else of it reaches a gateway.

    Without `alg` Envoy would accept any RSA algorithm, and a private member must never leave the control plane.
    Raises ValueError if `jwks` is no JWK set.
    """
    try:
        keys = json.loads(jwks)["keys"]
        public = [
            {"kty": "RSA", "use": "sig", "alg": "RS256", **{m: k[m] for m in ("kid", "n", "e") if m in k}}
            for k in keys
            if k.get("kty") == "RSA"
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError("TokenPolicy.jwks is not a JWK set") from error
    return json.dumps({"keys": public})


def access(revoked: Iterable[str], callers: Iterable[Caller] = ()) -> Json:
    """Refuses the tokens of these grants, however many there are: one look-up for each request. And a second one for
    what a request of these callers costs (gateway.request_limits)."""
    # A table can't be empty; no grant is called "-".
    table = {grant: verdict(names.REVOKED, "DENY") for grant in ("-", *sorted(revoked))}
    return _extension(
        names.ACCESS_FILTER,
        {
            "@type": names.TYPE + "extensions.filters.http.rbac.v3.RBAC",
            "matcher": {
                "matcher_tree": {"input": header(names.GRANT_HEADER), "exact_match_map": {"map": table}},
                "on_no_match": request_limits.table(callers) or verdict("not-revoked", "ALLOW"),
            },
            "rules_stat_prefix": request_limits.TABLE,
        },
    )


def body_limit(max_bytes: int) -> Json:
    """413 by Content-Length; a longer body without one is cut off where it passes the limit."""
    limit = {
        "@type": names.TYPE + "extensions.filters.http.body_size_limit.v3.BodySizeLimit",
        "max_request_bytes": max_bytes,
    }
    return websockets.left_out(_extension(names.BODY_LIMIT_FILTER, limit))
