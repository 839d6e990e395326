"""Envoy's generic matchers: questions about a request's headers, and verdicts of the access filters.

Source: envoyproxy.io, "Matching API".
"""

from __future__ import annotations

from typing import Any

from gateway import names

Json = dict[str, Any]


def header(name: str) -> Json:
    """The input of a matcher: a request header, or one of what begins with a colon."""
    config = {"@type": names.TYPE + "type.matcher.v3.HttpRequestHeaderMatchInput", "header_name": name}
    return {"name": name, "typed_config": config}


def said(name: str, value: Json) -> Json:
    """A predicate: the header is there, and its value matches (a StringMatcher)."""
    return {"single_predicate": {"input": header(name), "value_match": value}}


def every(*predicates: Json) -> Json:
    """A predicate: all of these; asked in order, up to the first that is not true."""
    return {"and_matcher": {"predicate": list(predicates)}}


def no(predicate: Json) -> Json:
    """A predicate: not this one."""
    return {"not_matcher": predicate}


def verdict(name: str, action: str) -> Json:
    """What an access filter does with a request, "ALLOW" or "DENY", and what that is called in what it leaves."""
    found = {"@type": names.TYPE + "config.rbac.v3.Action", "name": name, "action": action}
    return {"action": {"name": "verdict", "typed_config": found}}
