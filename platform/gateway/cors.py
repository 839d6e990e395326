"""Every answer names the one origin whose pages may read it, also errors and those of a model server that allows all.

Envoy has a filter for this, which leaves out routes that answer directly: those of unknown ids and of endpoints that
are not ready. It would tell them from the others. So the virtual host sets the headers of all answers that come by way
of a route, and Envoy's own refusals take the origin from what the virtual host says of itself.
"""

from __future__ import annotations

from typing import Any

from gateway import answers, names
from gateway.targets import origin_of

Json = dict[str, Any]

_ALLOW = "access-control-allow-origin"
_EXPOSED = ("access-control-expose-headers", "x-request-id, retry-after, www-authenticate")
_ORIGIN = "console_origin"  # in the virtual host's metadata
_OF_THE_HOST = f"%METADATA(VIRTUAL_HOST:{names.ROUTE_NAMESPACE}:{_ORIGIN})%"

# What a model server may not say of its answers.
REMOVED = ("access-control-allow-credentials",)


def of_virtual_host(console_origin: str) -> Json:
    """Its fields but `response_headers_to_remove`, which takes REMOVED in. Raises ValueError for what is no URL."""
    origin = origin_of(console_origin)
    return {
        "metadata": {"filter_metadata": {names.ROUTE_NAMESPACE: {_ORIGIN: origin}}},
        "response_headers_to_add": answers.mutations(((_ALLOW, origin), _EXPOSED)),
    }


def of_refusals() -> list[Json]:
    """The headers of what Envoy answers before a route does. Without a route, none."""
    allow = {"header": {"key": _ALLOW, "value": _OF_THE_HOST}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
    return [allow, *answers.mutations((_EXPOSED,))]
