"""Which requests may become a WebSocket: a GET without a body.

Envoy takes every request for one that asks to become one, and what follows its head for a stream without an end: such
a POST would pass the limit of bodies. What follows the head of a GET Envoy keeps until the replica has answered 101:
one that speaks no WebSocket never sees it.

They go through the filters of all requests, so that the same guards and limits count them; only the body limit is left
out, a WebSocket has no end.
"""

from __future__ import annotations

from typing import Any

from gateway import names
from gateway.matching import every, no, said

Json = dict[str, Any]

UPGRADES = [{"upgrade_type": "websocket"}]  # of the listener
_NOT_ZERO = {"safe_regex": {"google_re2": {}, "regex": ".*[^0].*"}}
_ASKS = said("upgrade", {"exact": "websocket", "ignore_case": True})
_HAS_NO_BODY = (said(":method", {"exact": "GET"}), no(said("content-length", _NOT_ZERO)))

ACCEPTED = every(_ASKS, *_HAS_NO_BODY)
REFUSED = every(_ASKS, no(every(*_HAS_NO_BODY)))


def left_out(extension: Json) -> Json:
    """A filter's configuration that is left out for WebSockets. extension: a TypedExtensionConfig."""
    skip = {"@type": names.TYPE + "extensions.filters.common.matcher.action.v3.SkipFilter"}
    on_match = {"action": {"name": "skip", "typed_config": skip}}
    inner = {"name": extension["name"], "typed_config": extension["typed_config"]}
    matching: Json = {
        "@type": names.TYPE + "extensions.common.matching.v3.ExtensionWithMatcher",
        "extension_config": inner,
        "xds_matcher": {"matcher_list": {"matchers": [{"predicate": ACCEPTED, "on_match": on_match}]}},
    }
    return {**extension, "typed_config": matching}
