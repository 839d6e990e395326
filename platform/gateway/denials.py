"""Token limits as a snapshot has them, and who has reached one as the filter that refuses them.

The filter is written by the agent alone, at once (ECDS). Two look-ups for each request, however many are refused: of
the token's subject in a hash table, of the path in a trie. A denial's name, kind:window:limit, is what the answer is
made of (gateway.refusals).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from gateway import names
from gateway.matching import header, said, verdict
from gateway.targets import Caller, EndpointTarget

Json = dict[str, Any]


def limits(callers: Iterable[Caller], endpoints: Iterable[EndpointTarget]) -> list[Json]:
    """What a snapshot says of token limits: an entry for each subject that has one. The agent's, not Envoy's."""
    limited = [(c.subject, names.CALLER, c.limits) for c in callers]
    limited += [(e.endpoint_id, names.ENDPOINT, e.limits) for e in endpoints]
    return [
        {
            "subject": subject,
            "kind": kind,
            names.MINUTE: limits.tokens_per_minute,
            names.MONTH: limits.tokens_per_month,
        }
        for subject, kind, limits in sorted(limited, key=lambda item: item[0])
        if limits.tokens_per_minute or limits.tokens_per_month
    ]


@dataclass(frozen=True, slots=True, order=True)
class Denial:
    """kind: names.CALLER or names.ENDPOINT. window: names.MINUTE or names.MONTH. limit: tokens."""

    subject: str
    kind: str
    window: str
    limit: int

    @property
    def name(self) -> str:
        return f"{self.kind}:{self.window}:{self.limit}"


def extension(denied: Iterable[Denial]) -> Json:
    """The filter's configuration. Of two denials of one subject the one whose window is longer is told."""
    found = {item.subject: item for item in sorted(denied, key=lambda d: (d.window == names.MONTH, d))}
    config: Json = {"@type": names.TYPE + "extensions.filters.http.rbac.v3.RBAC"}
    if found:
        callers = {d.subject: verdict(d.name, "DENY") for d in found.values() if d.kind == names.CALLER}
        paths: Json = {}
        for item in found.values():
            if item.kind == names.ENDPOINT:
                paths |= _paths(item)
        passed = verdict("within", "ALLOW")
        if paths:
            passed = {"matcher": _tree(":path", "prefix_match_map", paths, passed)}
        if callers:
            passed = {"matcher": _tree(names.SUBJECT_HEADER, "exact_match_map", callers, passed)}
        config["matcher"] = passed["matcher"]
    return {
        "@type": names.TYPE + "config.core.v3.TypedExtensionConfig",
        "name": names.DENIALS_FILTER,
        "typed_config": config,
    }


def _paths(item: Denial) -> Json:
    """Exactly those that its route takes: a path that only begins with its id is an unknown endpoint's."""
    base, refused = f"/v1/{item.subject}", verdict(item.name, "DENY")
    alone = said(":path", {"exact": base})
    bare = {
        "matcher": {
            "matcher_list": {"matchers": [{"predicate": alone, "on_match": refused}]},
            "on_no_match": verdict("within", "ALLOW"),
        }
    }
    return {base: bare, base + "/": refused, base + "?": refused}


def _tree(name: str, kind: str, table: Json, otherwise: Json) -> Json:
    return {
        "matcher_tree": {"input": header(name), kind: {"map": dict(sorted(table.items()))}},
        "on_no_match": otherwise,
    }
