"""Envoy routes: which path leads to which endpoint, and who may pass."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

from gateway import access_claim, answers, cors, names, request_limits, websockets
from gateway.matching import every, header, said
from gateway.targets import EndpointTarget, GatewayTargets, Serving, origin_of

Json = dict[str, Any]

FOREVER = "0s"  # what Envoy calls no time limit


def configuration(targets: GatewayTargets, endpoints: list[EndpointTarget]) -> Json:
    """The one route configuration: what has nothing to do with paths, then the tree of all paths."""
    return {
        "@type": names.TYPE + "config.route.v3.RouteConfiguration",
        "name": names.ROUTE_CONFIG,
        "max_direct_response_body_size_bytes": 64 * 1024,
        "validate_clusters": False,
        "virtual_hosts": [
            {
                "name": "gateway",
                "domains": ["*"],
                "matcher": {
                    **_before_paths(targets.console_origin),
                    "on_no_match": {"matcher": _tree(targets, endpoints)},
                },
                "retry_policy": _retry_on_another(),
                # Cookies know no ports: on a shared host name the console's session would reach every replica, and a
                # replica could set it.
                "request_headers_to_remove": ["cookie"],
                "response_headers_to_remove": ["set-cookie", *cors.REMOVED],
                **cors.of_virtual_host(targets.console_origin),
                "typed_per_filter_config": request_limits.switched_on_everywhere(targets.callers),
            }
        ],
    }


def _before_paths(console_origin: str) -> Json:
    """What is answered alike for every path, without a token."""
    return {
        "matcher_list": {
            "matchers": [
                _answered(_is_preflight(console_origin), _preflight()),
                _answered(websockets.REFUSED, _direct(names.NO_UPGRADE, "/", 400)),
            ]
        }
    }


def _answered(predicate: Json, route: Json) -> Json:
    return {"predicate": predicate, "on_match": _leaf({**route, "typed_per_filter_config": _open_door()})}


def _is_preflight(console_origin: str) -> Json:
    """What a browser asks before the console's pages call an endpoint; not by Envoy's own filter (gateway.cors)."""
    return every(
        said(":method", {"exact": "OPTIONS"}),
        said("origin", {"exact": origin_of(console_origin)}),
        said("access-control-request-method", {"safe_regex": {"google_re2": {}, "regex": ".+"}}),
    )


def _preflight() -> Json:
    headers = (
        ("access-control-allow-methods", "GET, POST, PUT, PATCH, DELETE, HEAD, OPTIONS"),
        ("access-control-allow-headers", "authorization, content-type, accept"),
        ("access-control-max-age", "600"),
    )
    return {**_direct("preflight", "/", 204), "response_headers_to_add": answers.mutations(headers)}


def _tree(targets: GatewayTargets, endpoints: list[EndpointTarget]) -> Json:
    """Longest prefix wins: one look-up in a trie, however many endpoints there are.

    A path that goes on where an endpoint's id ends finds that endpoint's leaf, whose own match then refuses it: it has
    no route, and the answer is that of an unknown id.
    """
    leaves: dict[str, Json] = {
        "/": _direct("nothing-here", "/", 404),
        "/v1/": _direct(names.UNKNOWN_ENDPOINT, "/v1/", 404),
        "/accounts-api/": _to_control_plane("/accounts-api/", targets.console_origin),
        "/.well-known/": _to_control_plane("/.well-known/", targets.console_origin),
    }
    for target in endpoints:
        leaves[f"/v1/{target.endpoint_id}"] = _endpoint_route(target, targets)
    return {
        "matcher_tree": {
            "input": header(":path"),
            "prefix_match_map": {"map": {key: _leaf(route) for key, route in leaves.items()}},
        }
    }


def _leaf(route: Json) -> Json:
    action = {"@type": names.TYPE + "config.route.v3.Route", **route}
    return {"action": {"name": "route", "typed_config": action}}


def _direct(name: str, prefix: str, status: int) -> Json:
    """Answered by the gateway itself; the body comes from the listener's local replies (see `bootstrap`)."""
    return {"name": name, "match": {"prefix": prefix}, "direct_response": {"status": status}}


def _to_control_plane(prefix: str, console_origin: str) -> Json:
    return {
        "name": names.CONTROL_PLANE,
        "match": {"prefix": prefix},
        "route": {
            "cluster": names.CONTROL_PLANE,
            "timeout": "30s",
            # The control plane knows itself by its configured name only, never by what a caller puts into Host.
            "host_rewrite_literal": urlsplit(console_origin).netloc,
        },
        # The caller alone. Of a proxy on this machine Envoy would tell the machine's own address.
        "request_headers_to_add": [
            {
                "header": {"key": "x-forwarded-for", "value": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"},
                "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
            }
        ],
    }


def _endpoint_route(target: EndpointTarget, targets: GatewayTargets) -> Json:
    route: Json = {
        "name": target.endpoint_id,
        "match": {"path_separated_prefix": f"/v1/{target.endpoint_id}"},
        "typed_per_filter_config": {
            **(_guard(target, targets.tokens.invoke_roles) if target.private else _open_door()),
            **request_limits.switched_on(target),
        },
    }
    said = request_limits.route_metadata(target)
    if said:
        route["metadata"] = {"filter_metadata": {names.ROUTE_NAMESPACE: said}}
    if target.is_served:
        route |= _to_cluster(target.endpoint_id)
        if len(target.replicas) == 1:
            route["route"]["retry_policy"] = _retry()
    elif target.serving is Serving.HOLD and targets.activator:
        route |= _to_cluster(names.ACTIVATOR)
        route["route"]["retry_policy"] = _patience()
        told = ((names.ENDPOINT_HEADER, target.endpoint_id), (names.SECRET_HEADER, targets.activator_secret))
        route["request_headers_to_add"] = answers.mutations(told)
    else:
        answer = answers.unavailable(target)
        route["direct_response"] = {
            "status": answer.status,
            "body": {"inline_string": answers.unavailable_body(target)},
        }
        route["response_headers_to_add"] = answers.mutations(
            (("content-type", answers.JSON), *answer.headers)
        )
    return route


def _to_cluster(name: str) -> Json:
    """To a model server, at once or by way of the activator. What is below the endpoint's id stays as it was sent."""
    below = {"pattern": {"regex": "^/v1/[^/]*/?"}, "substitution": "/"}
    return {
        "route": {"cluster": name, "regex_rewrite": below, "timeout": FOREVER, "idle_timeout": FOREVER},
        # Credentials for the gateway are not the model server's business, nor is where the caller is.
        "request_headers_to_remove": ["authorization", "x-forwarded-for", "x-envoy-external-address"],
    }


def _patience() -> Json:
    """Of a request that is held: it outlives a restart of the activator, about a second, and one of some seconds.

    The activator ends a connection without an answer only when it ends itself, or for a replica's sake once a
    request. Envoy draws each pause from zero to its interval, which doubles up to the longest.
    """
    return {
        "retry_on": "connect-failure,refused-stream,reset",
        "num_retries": 12,
        "retry_back_off": {"base_interval": "0.1s", "max_interval": "2s"},
    }


def _guard(target: EndpointTarget, invoke_roles: Iterable[str]) -> Json:
    """Refuses every request that is not positively the project's, then those of accounts that are narrowed to other
    endpoints, then those without a role: another project's token learns nothing from the last two."""
    here = (access_claim.ALL, target.endpoint_id)
    required = {
        names.POLICY_PROJECT: _access({"prefix": access_claim.beginning(target.project)}),
        names.POLICY_SCOPE: _any(_access({"contains": access_claim.piece(item)}) for item in here),
        names.POLICY_ROLE: _any(_access({"contains": access_claim.piece(role)}) for role in invoke_roles),
    }
    policies = {
        name: {"permissions": [{"any": True}], "principals": [{"not_id": principal}]}
        for name, principal in required.items()
    }
    return {
        names.RBAC_FILTER: {
            "@type": names.TYPE + "extensions.filters.http.rbac.v3.RBACPerRoute",
            "rbac": {"rules": {"action": "DENY", "policies": policies}},
        }
    }


def _access(match: Json) -> Json:
    """A principal: of a token whose claim matches."""
    return {"header": {"name": names.ACCESS_HEADER, "string_match": match}}


def _any(principals: Iterable[Json]) -> Json:
    return {"or_ids": {"ids": list(principals)}}


def _open_door() -> Json:
    return {
        names.TOKEN_FILTER: {
            "@type": names.TYPE + "extensions.filters.http.jwt_authn.v3.PerRouteConfig",
            "disabled": True,
        }
    }


def _retry() -> Json:
    """Once more, as long as no byte of an answer has come back.

    That includes a replica that dies with a POST in its hands (`reset`): inference computes an answer and changes
    nothing, so that doing it again is what the caller wants. One more try only: a request that kills its replica
    must not kill them all. Envoy itself never retries once response headers were passed on, nor a body larger than
    its buffer.
    """
    return {
        "retry_on": "connect-failure,refused-stream,reset",
        "num_retries": 1,
        "retry_back_off": {"base_interval": "0.005s", "max_interval": "0.05s"},
    }


def _retry_on_another() -> Json:
    """On another replica. Where there is none, remembering which one it was costs each request a microsecond."""
    return {
        **_retry(),
        "retry_host_predicate": [
            {
                "name": "envoy.retry_host_predicates.previous_hosts",
                "typed_config": {
                    "@type": names.TYPE + "extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
                },
            }
        ],
        # The choice is drawn again while it falls on the replica that just failed. With two replicas each draw is a
        # toss of a coin, and running out of draws is an answer of 503 beside a healthy replica: 1 in 2^20, not 2^6.
        "host_selection_retry_max_attempts": 20,
    }
