"""Requests a minute, for each caller and each endpoint: a token bucket in Envoy, "burst N, refill N a minute".

A bucket lives in a filter of the listener, which never changes: nothing that is deployed refills it. All buckets are
of one size, FULL, and a request takes FULL / N out of its own; so a changed limit keeps the bucket as full as it was,
in proportion, and the limit of one caller is nobody else's business. The price comes

of a caller     from a table that is looked up by the token's subject: the second half of the access filter (ECDS),
                which leaves the name of what it found where the limiter finds it
of an endpoint  from its route

The limiters are off but for the routes that need them. The buckets are shared by Envoy's threads. Each gateway has its
own: N gateways let a caller who meets them all have N times its limit.

Sources: envoyproxy.io, "Local rate limit", "Role Based Access Control (RBAC) Filter"; tried on 1.40 by
tests/integration/test_gateway_limits.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gateway import names
from gateway.matching import header, verdict
from gateway.targets import Caller, EndpointTarget

Json = dict[str, Any]

FULL = 1_000_000_000  # also the most that Envoy takes out of a bucket at once
MOST_BUCKETS = 100_000  # of callers; the one that was used least recently gives way
# What the endpoints' limiter answers within the gateway, so that its answer is told from the callers' 429.
ENDPOINT_STATUS = 510

TABLE = "caller_"  # begins the names of what the access filter leaves
PRICE_KEY = f"{TABLE}enforced_effective_policy_id"
_FREE = "1"  # the price of who has no limit: Envoy wants one
_CALLER_LIMITER = "berth.caller_requests"
_ENDPOINT_LIMITER = "berth.endpoint_requests"
_HTTP = names.TYPE + "extensions.filters.http."
_ALWAYS = {"default_value": {"numerator": 100}}


def price(requests_per_minute: int) -> int:
    """What one request takes out of a bucket. Rounded down: the burst is N, not N - 1."""
    return max(1, FULL // requests_per_minute)


def table(callers: Iterable[Caller]) -> Json:
    """What the access filter does with a caller that is not refused: the name of what it finds is the price. Nothing
    where nobody has one."""
    prices = _prices(callers)
    if not prices:
        return {}
    entries = {subject: verdict(str(cost), "ALLOW") for subject, cost in prices.items()}
    return {
        "matcher": {
            "matcher_tree": {"input": header(names.SUBJECT_HEADER), "exact_match_map": {"map": entries}},
            "on_no_match": verdict(_FREE, "ALLOW"),
        }
    }


def _prices(callers: Iterable[Caller]) -> dict[str, int]:
    limited = [(c.subject, c.limits.requests_per_minute) for c in callers]
    return {subject: price(limit) for subject, limit in sorted(limited) if limit}


def route_metadata(target: EndpointTarget) -> Json:
    """What a route says of its endpoint's limits, for the filters and the answers; empty without any."""
    said: Json = {}
    limit = target.limits.requests_per_minute
    if limit:
        said |= {names.ENDPOINT: target.endpoint_id, names.PRICE: price(limit), names.REQUESTS: str(limit)}
    if target.max_concurrency is not None and target.is_served:
        said[names.CONCURRENCY] = str(target.max_concurrency)
    return said


def switched_on_everywhere(callers: Iterable[Caller]) -> Json:
    """Per-filter configuration of all routes: the callers' limiter, if any caller has a limit."""
    return {_CALLER_LIMITER: _ON} if _prices(callers) else {}


def switched_on(target: EndpointTarget) -> Json:
    """Per-filter configuration of an endpoint's route."""
    return {_ENDPOINT_LIMITER: _ON} if target.limits.requests_per_minute else {}


_ON = {"@type": names.TYPE + "config.route.v3.FilterConfig", "config": {}}


def limiters() -> list[Json]:
    """Of the listener, in order: who is over a limit of their own takes nothing from an endpoint's."""
    of_caller = {"request_headers": {"header_name": names.SUBJECT_HEADER, "descriptor_key": "caller"}}
    endpoint = {"key": names.ROUTE_NAMESPACE, "path": [{"key": names.ENDPOINT}]}
    of_endpoint = {
        "metadata": {"descriptor_key": "endpoint", "metadata_key": endpoint, "source": "ROUTE_ENTRY"}
    }
    caller_price = f"%DYNAMIC_METADATA({names.RBAC_FILTER}:{PRICE_KEY})%"
    endpoint_price = f"%METADATA(ROUTE:{names.ROUTE_NAMESPACE}:{names.PRICE})%"
    return [
        _limiter(_CALLER_LIMITER, "caller", of_caller, caller_price, 429),
        _limiter(_ENDPOINT_LIMITER, "endpoint", of_endpoint, endpoint_price, ENDPOINT_STATUS),
    ]


def _limiter(name: str, kind: str, action: Json, cost: str, status: int) -> Json:
    return {
        "name": name,
        "disabled": True,
        "typed_config": {
            "@type": _HTTP + "local_ratelimit.v3.LocalRateLimit",
            "stat_prefix": f"{kind}_requests",
            "status": {"code": status},
            "filter_enabled": _ALWAYS,
            "filter_enforced": _ALWAYS,
            # Of requests without a descriptor. It is required, and never asked.
            "token_bucket": _bucket(2**32 - 1, "1s"),
            "always_consume_default_token_bucket": False,
            # An entry without a value: each value that comes has a bucket of its own.
            "descriptors": [{"entries": [{"key": kind}], "token_bucket": _bucket(FULL, "60s")}],
            "max_dynamic_descriptors": MOST_BUCKETS,
            "rate_limits": [{"actions": [action], "hits_addend": {"format": cost}}],
            "rate_limited_as_resource_exhausted": True,
        },
    }


def _bucket(size: int, interval: str) -> Json:
    return {"max_tokens": size, "tokens_per_fill": size, "fill_interval": interval}
