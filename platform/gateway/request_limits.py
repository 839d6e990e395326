"""Requests a minute, for each caller and each endpoint: a token bucket in Envoy, "burst N, refill N a minute".

A bucket lives in a filter of the listener, which never changes: nothing that is deployed refills it. All buckets are
of one size, FULL, and a request takes FULL / N out of its own; so a changed limit keeps the bucket as full as it was,
in proportion, and the limit of one caller is nobody else's business. The price comes

of a caller     from a table that is looked up by the token's subject (ECDS): an RBAC filter that lets everybody pass
                and leaves the names of what it found, price and subject, where the limiter finds them
of an endpoint  from its route

A request without a limit has no price and meets no bucket. The buckets are shared by Envoy's threads, and each gateway
has its own.

Sources: envoyproxy.io, "Local rate limit", "Role Based Access Control (RBAC) Filter"; tried on 1.40 by
tests/integration/test_gateway_limits.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gateway import names
from gateway.targets import Caller, EndpointTarget

Json = dict[str, Any]

FULL = 1_000_000_000  # also the most that Envoy takes out of a bucket at once
MOST_BUCKETS = 100_000  # of callers; the one that was used least recently gives way
# What the endpoints' limiter answers within the gateway, so that its answer is told from the callers' 429.
ENDPOINT_STATUS = 510

_TABLE = "caller"  # of the metadata that the table leaves
PRICE_KEY = f"{_TABLE}_enforced_effective_policy_id"
SUBJECT_KEY = f"{_TABLE}_shadow_effective_policy_id"
_HTTP = names.TYPE + "extensions.filters.http."
_ALWAYS = {"default_value": {"numerator": 100}}


def price(requests_per_minute: int) -> int:
    """What one request takes out of a bucket. Rounded down: the burst is N, not N - 1."""
    return max(1, FULL // requests_per_minute)


def table(callers: Iterable[Caller]) -> Json:
    """The filter that knows what a caller's requests cost. Nobody is refused by it."""
    limited = sorted(
        (c.subject, price(c.limits.requests_per_minute)) for c in callers if c.limits.requests_per_minute
    )
    config: Json = {"@type": _HTTP + "rbac.v3.RBAC"}
    if limited:
        found = {subject: _named(str(cost), "ALLOW") for subject, cost in limited}
        who = {subject: _named(subject, "LOG") for subject, _ in limited}
        config |= {
            "rules_stat_prefix": f"{_TABLE}_",
            "matcher": {**_by_subject(found), "on_no_match": _named("-", "ALLOW")},
            "shadow_rules_stat_prefix": f"{_TABLE}_",
            "shadow_matcher": _by_subject(who),
        }
    return {
        "@type": names.TYPE + "config.core.v3.TypedExtensionConfig",
        "name": names.CALLERS_FILTER,
        "typed_config": config,
    }


def _by_subject(table: Json) -> Json:
    header = {
        "name": "subject",
        "typed_config": {
            "@type": names.TYPE + "type.matcher.v3.HttpRequestHeaderMatchInput",
            "header_name": names.SUBJECT_HEADER,
        },
    }
    return {"matcher_tree": {"input": header, "exact_match_map": {"map": table}}}


def _named(name: str, action: str) -> Json:
    verdict = {"@type": names.TYPE + "config.rbac.v3.Action", "name": name, "action": action}
    return {"action": {"name": "entry", "typed_config": verdict}}


def route_metadata(target: EndpointTarget) -> Json:
    """What a route says of its endpoint's limits, for the filters and the answers; empty without any."""
    said: Json = {}
    limit = target.limits.requests_per_minute
    if limit:
        said |= {names.ENDPOINT: target.endpoint_id, names.PRICE: price(limit), names.REQUESTS: str(limit)}
    if target.max_concurrency is not None and target.is_served:
        said[names.CONCURRENCY] = str(target.max_concurrency)
    return said


def limiters() -> list[Json]:
    """Of the listener, in order: who is over a limit of their own takes nothing from an endpoint's."""
    of_caller = _metadata("caller", names.RBAC_FILTER, SUBJECT_KEY, "DYNAMIC")
    of_endpoint = _metadata("endpoint", names.ROUTE_NAMESPACE, names.ENDPOINT, "ROUTE_ENTRY")
    caller_price = f"%DYNAMIC_METADATA({names.RBAC_FILTER}:{PRICE_KEY})%"
    endpoint_price = f"%METADATA(ROUTE:{names.ROUTE_NAMESPACE}:{names.PRICE})%"
    return [
        _limiter("caller", of_caller, caller_price, 429),
        _limiter("endpoint", of_endpoint, endpoint_price, ENDPOINT_STATUS),
    ]


def _limiter(kind: str, action: Json, cost: str, status: int) -> Json:
    return {
        "name": f"berth.{kind}_requests",
        "typed_config": {
            "@type": _HTTP + "local_ratelimit.v3.LocalRateLimit",
            "stat_prefix": f"{kind}_requests",
            "status": {"code": status},
            "filter_enabled": _ALWAYS,
            "filter_enforced": _ALWAYS,
            # Of requests that have no price. It is required, and never asked.
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


def _metadata(descriptor: str, namespace: str, key: str, source: str) -> Json:
    """Without that value a request has no descriptor, and so no bucket."""
    found = {"key": namespace, "path": [{"key": key}]}
    return {"metadata": {"descriptor_key": descriptor, "metadata_key": found, "source": source}}
