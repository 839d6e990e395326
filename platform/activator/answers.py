"""What the activator answers in its own name, in the gateway's shapes."""

from __future__ import annotations

import json
from typing import Any

from gateway import answers
from gateway.answers import (
    ENDPOINT_NOT_FOUND,
    JSON,
    REPLICA_LOST,
    WAKE_INTERRUPTED,
    Answer,
    unavailable,
    unavailable_body,
)
from gateway.refusals import CONCURRENCY_LIMIT
from gateway.targets import EndpointTarget, Serving

Reply = tuple[int, bytes, tuple[tuple[str, str], ...]]  # status, JSON body, headers

_REASONS = {403: "Forbidden", 404: "Not Found", 429: "Too Many Requests", 503: "Service Unavailable"}
FORBIDDEN: Reply = (
    403,
    answers.error_body("Only gateways are heard here.", "permission_error", "forbidden").encode(),
    (),
)
NOT_FOUND: Reply = (404, ENDPOINT_NOT_FOUND.body().encode(), ENDPOINT_NOT_FOUND.headers)
RESTARTED: Reply = (503, WAKE_INTERRUPTED.body().encode(), WAKE_INTERRUPTED.headers)
LOST: Reply = (503, REPLICA_LOST.body().encode(), REPLICA_LOST.headers)


def failed(status: str, code: str, message: str, retry_after_s: float | None) -> Reply:
    """The endpoint can't be woken: as the gateway says it of any endpoint that does not serve."""
    after = None if retry_after_s is None else max(1, int(retry_after_s))
    target = EndpointTarget("", "", True, Serving.UNAVAILABLE, status, code, message, after)
    return 503, unavailable_body(target).encode(), unavailable(target).headers


def too_many(retry_after_s: int) -> Reply:
    """No place left to wait in."""
    text = "The endpoint is waking up, and as many requests wait for it as may. Try again in a moment."
    return _later("too_many_waiting", text, retry_after_s)


def timed_out(seconds: float, reason: str, retry_after_s: int) -> Reply:
    """It has waited for as long as it may. reason: what the endpoint was doing at that moment, "" if not known."""
    text = f"The endpoint was asleep and was not ready within {seconds:.0f} s"
    return _later("wake_timeout", f"{text}: {reason}" if reason else f"{text}.", retry_after_s)


def full(endpoint_id: str, limit: int) -> Reply:
    """It has waited for as long as it may, the last of it for others to end: as the gateway says it."""
    text = f"The endpoint {endpoint_id} takes {limit} requests at once, and has them."
    headers = {
        "Retry-After": "1",
        "x-ratelimit-limit": str(limit),
        "x-ratelimit-remaining": "0",
        "x-ratelimit-reset": "1",
    }
    return (
        429,
        answers.error_body(text, "rate_limit_error", CONCURRENCY_LIMIT).encode(),
        tuple(headers.items()),
    )


def not_streamed(status: int, code: str, message: str) -> Reply:
    """The model server's answer does not fit into a stream that has begun already."""
    return status, answers.error_body(message, "server_error", code).encode(), ()


def _later(code: str, text: str, retry_after_s: int) -> Reply:
    given = Answer(503, code, "server_error", text, (("Retry-After", str(retry_after_s)),))
    return given.status, given.body().encode(), given.headers


def written(reply: Reply) -> bytes:
    """As an HTTP/1.1 answer that ends its connection."""
    status, body, headers = reply
    lines = [
        f"HTTP/1.1 {status} {_REASONS.get(status, 'Error')}",
        f"content-type: {JSON}",
        f"content-length: {len(body)}",
        "connection: close",
        *(f"{name}: {value}" for name, value in headers),
    ]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def error_of(body: bytes) -> dict[str, Any] | None:
    """The error object of an answer in OpenAI's shape, None if it has none."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return None
    error = found.get("error") if isinstance(found, dict) else None
    return error if isinstance(error, dict) else None
