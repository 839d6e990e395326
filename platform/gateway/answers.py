"""Every answer that the gateway gives in its own name, in the shape that OpenAI's clients understand.

The body is `{"error": {"message", "type", "code"}}`; `code` is stable, `message` is for people.
Wording and codes live here; `bootstrap` and `snapshot` say when each one is given.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from gateway.targets import EndpointTarget

JSON = "application/json"
MESSAGE_LIMIT = 1000  # characters of a reason that a 503 repeats


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer. `headers` are (name, value) pairs beside content-type and content-length."""

    status: int
    code: str
    type: str
    message: str
    headers: tuple[tuple[str, str], ...] = ()

    def body(self) -> str:
        return error_body(self.message, self.type, self.code)


def error_body(message: str, kind: str, code: str, **more: str) -> str:
    """The JSON text of an error; `more` are further members of the error object."""
    return json.dumps({"error": {"message": message, "type": kind, "code": code, **more}}, ensure_ascii=True)


def _challenge(error: str, description: str) -> tuple[tuple[str, str], ...]:
    """RFC 6750 §3: what is wrong with the token, for programs."""
    return (("WWW-Authenticate", f'Bearer error="{error}", error_description="{description}"'),)


TOKEN_MISSING = Answer(
    401,
    "missing_token",
    "authentication_error",
    "No access token was sent. Get one from /accounts-api/v2/auth/token and send it as "
    "'Authorization: Bearer <token>'.",
    # RFC 6750 §3.1: invalid_request is "missing a required parameter"; the contract wants an error in every 401.
    _challenge("invalid_request", "No access token was sent"),
)
TOKEN_EXPIRED = Answer(
    401,
    "expired_token",
    "authentication_error",
    "The access token has expired. Get a new one from /accounts-api/v2/auth/token.",
    _challenge("invalid_token", "The access token has expired"),
)
TOKEN_INVALID = Answer(
    401,
    "invalid_token",
    "authentication_error",
    "The access token is not valid here: it is malformed, not signed by this platform's keys, or meant for "
    "another audience.",
    _challenge("invalid_token", "The access token is not valid"),
)
TOKEN_REVOKED = Answer(
    401,
    "revoked_token",
    "authentication_error",
    "This token was revoked: its account or key was disabled, deleted or changed. Get a new one from "
    "/accounts-api/v2/auth/token; if that is refused too, ask an administrator of the project.",
    _challenge("invalid_token", "The token was revoked"),
)
ROLE_REFUSED = Answer(
    403,
    "permission_denied",
    "permission_error",
    "This account's roles do not allow calls to endpoints. Ask an administrator of the project for the role "
    "aiplatform.user.",
)
SCOPE_REFUSED = Answer(
    403,
    "endpoint_not_allowed",
    "permission_error",
    "This account is narrowed to named endpoints, and this one is not among them. Ask an administrator of the project.",
)
ENDPOINT_NOT_FOUND = Answer(
    404,
    "endpoint_not_found",
    "invalid_request_error",
    "There is no such endpoint in the token's project. Check the endpoint id in the URL.",
)
PATH_NOT_FOUND = Answer(
    404,
    "not_found",
    "invalid_request_error",
    "Nothing lives at this path. Endpoints are at /v1/{endpoint-id}/…, tokens at /accounts-api/v2/auth/token.",
)
NO_UPGRADE = Answer(
    400,
    "invalid_upgrade",
    "invalid_request_error",
    "A request that asks to become a WebSocket has to be a GET without a body.",
)
BODY_TOO_LARGE = Answer(
    413,
    "request_too_large",
    "invalid_request_error",
    "The request body is larger than this gateway accepts.",
)
UNTOLD = Answer(
    503,
    "gateway_not_informed",
    "server_error",
    "This gateway has not been told yet whom it has to refuse, so nobody passes to private endpoints. It asks the "
    "control plane again and again; its own log says what is missing. Try again in a few seconds.",
    (("Retry-After", "5"),),
)
OVERLOADED = Answer(
    503,
    "gateway_overloaded",
    "server_error",
    "The gateway has no memory left for new requests; those that have begun go on. Try again in a few seconds.",
    (("Retry-After", "5"),),
)
REPLICA_LOST = Answer(
    503,
    "replica_unavailable",
    "server_error",
    "No replica of this endpoint could answer: the connection failed or broke before the answer began. Try again.",
    (("Retry-After", "1"),),
)
WAKE_INTERRUPTED = Answer(
    503,
    "wake_interrupted",
    "server_error",
    "The endpoint was asleep, and this request could not be held until it woke: the connection on which it waited "
    "failed or broke. Try again.",
    (("Retry-After", "2"),),
)
CONTROL_PLANE_LOST = Answer(
    503,
    "control_plane_unavailable",
    "server_error",
    "The control plane does not answer at the moment. Tokens that are still valid go on working.",
    (("Retry-After", "2"),),
)
INTERNAL = Answer(
    500,
    "gateway_error",
    "server_error",
    "The gateway could not handle this request. The x-request-id header of this answer finds it in the log.",
)

# Statuses whose passing is a matter of waiting, in words; any other is named as it is.
_STATE = {
    "PENDING": "is waiting to be deployed",
    "DEPLOYING": "is still being deployed",
    "UPDATING": "is being updated",
    "ASLEEP": "is asleep",
    "INACTIVE": "is paused",
    "FAILED": "has failed",
    "DELETING": "is being deleted",
}


def unavailable(target: EndpointTarget) -> Answer:
    """The 503 of an endpoint that has no replica to serve it: its status and the reason."""
    state = _STATE.get(target.status, f"is {target.status}")
    reason = _printable(target.reason)[:MESSAGE_LIMIT]
    message = f"The endpoint {state}: {reason}" if reason else f"The endpoint {state}."
    headers = () if target.retry_after_s is None else (("Retry-After", str(int(target.retry_after_s))),)
    code = target.reason_code or f"endpoint_{target.status.lower()}"
    return Answer(503, code, "server_error", message, headers)


def unavailable_body(target: EndpointTarget) -> str:
    """`unavailable`'s body, with the endpoint's status word as a member of its own for programs."""
    answer = unavailable(target)
    return error_body(answer.message, answer.type, answer.code, status=target.status)


def mutations(headers: tuple[tuple[str, str], ...]) -> list[dict[str, Any]]:
    """Envoy's HeaderValueOption list that sets each header, whatever was there before."""
    return [
        {
            "header": {"key": name, "value": value.replace("%", "%%")},
            "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
        }
        for name, value in headers
    ]


def _printable(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
