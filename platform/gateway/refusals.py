"""The 429 answers: which limit it was, whose, how much, and how long to wait.

The numbers are put in by Envoy while it answers: `%…%` as in its access log, CEL expressions where they must be
computed. Each answer belongs to one condition, a CEL expression over the gateway's own refusal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gateway import answers, names, request_limits

Json = dict[str, Any]

RATE_LIMIT = "rate_limit_exceeded"
CONCURRENCY_LIMIT = "concurrency_limit_exceeded"

_CALLER = f"%REQ({names.SUBJECT_HEADER})%"
_ENDPOINT = "%ROUTE_NAME%"
_IN_ROUTE = f"xds.route_metadata.filter_metadata['{names.ROUTE_NAMESPACE}']"

# --- time -------------------------------------------------------------------------------------------------

_NEXT_MINUTE = "60 - request.time.getSeconds()"
_THIRTY = "request.time.getMonth() in [3, 5, 8, 10]"  # counted from 0
_LEAP = "request.time.getFullYear() % 4 == 0"  # until 2099
_DAYS = f"({_THIRTY} ? 30 : request.time.getMonth() != 1 ? 31 : {_LEAP} ? 29 : 28)"
_NEXT_MONTH = (
    f"(({_DAYS} - request.time.getDate()) * 24 + 23 - request.time.getHours()) * 3600"
    f" + (59 - request.time.getMinutes()) * 60 + {_NEXT_MINUTE}"
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """One answer of 429.

    condition  CEL
    limit      how much, as Envoy writes it
    wait_s     until it is worth trying again, likewise
    """

    condition: str
    code: str
    message: str
    limit: str
    wait_s: str

    def mapper(self, condition: Json) -> Json:
        """As Envoy's local replies have it; `condition` in the words of its access log's filters."""
        told = {"message": self.message, "type": "rate_limit_error", "code": self.code}
        headers = {
            "Retry-After": self.wait_s,
            "x-ratelimit-limit": self.limit,
            "x-ratelimit-remaining": "0",
            "x-ratelimit-reset": self.wait_s,
        }
        return {
            "filter": condition,
            "status_code": 429,
            "body_format_override": {"json_format": {"error": told}, "content_type": answers.JSON},
            "headers_to_add": [
                {"header": {"key": key, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
                for key, value in headers.items()
            ],
        }


def _cel(expression: str) -> str:
    return f"%CEL({expression})%"


def all_of_them() -> list[Refusal]:
    """For the listener's local replies, before those that go by status."""
    return [*_requests(), *_tokens(), _concurrency()]


def _requests() -> list[Refusal]:
    """A bucket's next request is there at the latest when a whole price has flowed in."""
    price = f"int(metadata.filter_metadata['{names.RBAC_FILTER}']['{request_limits.PRICE_KEY}'])"
    of_caller = _cel(f"({request_limits.FULL} + {price} / 2) / {price}")
    of_endpoint = f"%METADATA(ROUTE:{names.ROUTE_NAMESPACE}:{names.REQUESTS})%"
    limited = "response.code_details == 'local_rate_limited' && response.code == "
    return [
        _of_requests(f"{limited}429", f"The service account or API key {_CALLER}", of_caller, price),
        _of_requests(
            f"{limited}{request_limits.ENDPOINT_STATUS}",
            f"The endpoint {_ENDPOINT}, by all its callers together,",
            of_endpoint,
            f"int({_IN_ROUTE}['{names.PRICE}'])",
        ),
    ]


def _of_requests(condition: str, who: str, limit: str, price: str) -> Refusal:
    return Refusal(
        condition,
        RATE_LIMIT,
        f"{who} may be used for {limit} requests a minute, and has been.",
        limit,
        _cel(f"({price} * 60 + {request_limits.FULL - 1}) / {request_limits.FULL}"),
    )


def _tokens() -> list[Refusal]:
    """Denials (gateway.denials) are called kind:window:limit."""
    whose = {
        names.CALLER: f"The service account or API key {_CALLER}",
        names.ENDPOINT: f"The endpoint {_ENDPOINT}, by all its callers together,",
    }
    windows = {
        names.MINUTE: ("a minute", "for this minute (UTC)", _NEXT_MINUTE),
        names.MONTH: ("a month", "for this calendar month (UTC)", _NEXT_MONTH),
    }
    limit = _cel("re.extract(response.code_details, ':([0-9]+)', '\\\\1')")
    return [
        Refusal(
            f"response.code_details.startsWith('rbac_access_denied_matched_policy[{kind}:{window}:')",
            RATE_LIMIT,
            f"{who} may be used for {limit} tokens {words}, and has been {until}.",
            limit,
            _cel(wait),
        )
        for kind, who in whose.items()
        for window, (words, until, wait) in windows.items()
    ]


def _concurrency() -> Refusal:
    limit = f"%METADATA(ROUTE:{names.ROUTE_NAMESPACE}:{names.CONCURRENCY})%"
    return Refusal(
        f"response.code_details.startsWith('upstream_reset_before_response_started{{overflow') && "
        f"has({_IN_ROUTE}.{names.CONCURRENCY})",
        CONCURRENCY_LIMIT,
        f"The endpoint {_ENDPOINT} takes {limit} requests at once, and has them.",
        limit,
        "1",
    )
