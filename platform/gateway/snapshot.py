"""Targets → Envoy's resources, without any I/O: what every gateway of the platform should be doing now.

`resources` maps a file name to the xDS DiscoveryResponse that the agent writes under that name. Envoy reads
clusters and routes as CDS and RDS, the filters that change as extension configurations (ECDS): a filter changed
that way is swapped in under live streams, a changed listener would cut them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import urlsplit

from gateway import answers
from gateway.targets import EndpointTarget, GatewayTargets, ReplicaTarget, Serving, TokenPolicy

Json = dict[str, Any]

CLUSTERS = "clusters.json"
ROUTES = "routes.json"
TOKENS = "tokens.json"
BODY_LIMIT = "body-limit.json"
CORS = "cors.json"
FILES = (CLUSTERS, TOKENS, BODY_LIMIT, CORS, ROUTES)

ROUTE_CONFIG = "endpoints"  # the RDS resource's name
TOKEN_FILTER = "berth.tokens"  # noqa: S105 - a filter's name
BODY_LIMIT_FILTER = "berth.body_limit"
RBAC_FILTER = "envoy.filters.http.rbac"
CORS_FILTER = "berth.cors"
CONTROL_PLANE = "control-plane"  # cluster and route; an endpoint's id starts with "me-"
UNKNOWN_ENDPOINT = "unknown-endpoint"
JWT_NAMESPACE = "envoy.filters.http.jwt_authn"
JWT_PAYLOAD = "jwt"
JWT_FAILURE = "failure"
POLICY_PROJECT = "project"
POLICY_ROLE = "role"

_TYPE = "type.googleapis.com/envoy."
_FOREVER = "0s"
CLOCK_SKEW_S = (
    5  # how far control plane and gateway clocks may differ; an expired token lives that much longer
)
KEEPALIVE_S = 4  # below the 5 s after which uvicorn-like servers close an idle connection


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The gateway's whole configuration at one moment.

    version    hash of `resources`: equal content, equal version
    resources  file name → DiscoveryResponse
    endpoints  endpoint id → digest of its target; two snapshots that treat an endpoint alike agree on it
    """

    version: str
    resources: dict[str, Json]
    endpoints: dict[str, str]

    def body(self) -> bytes:
        """What the control plane answers to an agent's poll."""
        return json.dumps(
            {"version": self.version, "resources": self.resources}, separators=(",", ":")
        ).encode()


def build(targets: GatewayTargets) -> Snapshot:
    """The snapshot of `targets`. Their order does not matter. Raises ValueError for keys that are no JWK set."""
    endpoints = sorted(targets.endpoints, key=lambda e: e.endpoint_id)
    resources = {
        CLUSTERS: _file([_control_plane(targets), *map(_cluster, filter(_is_ready, endpoints))]),
        ROUTES: _file([_routes(targets, endpoints)]),
        TOKENS: _file([_token_filter(targets.tokens)]),
        BODY_LIMIT: _file([_body_limit(targets.max_request_bytes)]),
        CORS: _file([_cors(targets.console_origin)]),
    }
    digests = {e.endpoint_id: endpoint_digest(e) for e in endpoints}
    return Snapshot(version_of(resources), resources, digests)


def version_of(resources: Mapping[str, Json]) -> str:
    """The version of a set of files; what a restarted agent computes for those it finds on its disk."""
    return _digest(" ".join(f"{name}={resources[name]['version_info']}" for name in FILES))


def endpoint_digest(target: EndpointTarget) -> str:
    """What tells two targets of one endpoint apart; the replicas' order does not matter."""
    fields = asdict(target)
    fields["replicas"] = sorted((r["replica_id"], r["host"], r["port"]) for r in fields["replicas"])
    return _digest(json.dumps(fields, sort_keys=True))


def _file(resources: list[Json]) -> Json:
    return {"version_info": _digest(json.dumps(resources, separators=(",", ":"))), "resources": resources}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _is_ready(target: EndpointTarget) -> bool:
    return target.serving is Serving.READY and bool(target.replicas)


# --- clusters ---------------------------------------------------------------------------------------------


def _cluster(target: EndpointTarget) -> Json:
    replicas = sorted(target.replicas, key=lambda r: r.replica_id)
    return _http_cluster(target.endpoint_id, [_lb_endpoint(r) for r in replicas], "STATIC")


def _control_plane(targets: GatewayTargets) -> Json:
    host, port = targets.control_plane
    # A name is allowed for the control plane: it is configured by people, replicas come from the engine.
    return _http_cluster(CONTROL_PLANE, [{"endpoint": {"address": _address(host, port)}}], "STRICT_DNS")


def _http_cluster(name: str, lb_endpoints: list[Json], discovery: str) -> Json:
    return {
        "@type": _TYPE + "config.cluster.v3.Cluster",
        "name": name,
        "type": discovery,
        "connect_timeout": "2s",
        "lb_policy": "LEAST_REQUEST",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": lb_endpoints}]},
        # Streams are long and many; limits per endpoint are the control plane's business, not a proxy default.
        "circuit_breakers": {
            "thresholds": [
                {
                    "max_connections": 65536,
                    "max_pending_requests": 65536,
                    "max_requests": 65536,
                    "max_retries": 1024,
                }
            ]
        },
        # A replica that refuses connections is left alone for a while, long before the control plane's next probe.
        # Its own 5xx answers are the model's business and never eject it.
        "outlier_detection": {
            "split_external_local_origin_errors": True,
            "consecutive_local_origin_failure": 2,
            "interval": "1s",
            "base_ejection_time": "2s",
            "max_ejection_time": "10s",
            "max_ejection_percent": 100,
            "enforcing_consecutive_5xx": 0,
            "enforcing_consecutive_gateway_failure": 0,
            "enforcing_success_rate": 0,
            "enforcing_local_origin_success_rate": 0,
        },
        "upstream_connection_options": {
            "tcp_keepalive": {"keepalive_time": 60, "keepalive_interval": 15, "keepalive_probes": 4}
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": _TYPE + "extensions.upstreams.http.v3.HttpProtocolOptions",
                "common_http_protocol_options": {"idle_timeout": f"{KEEPALIVE_S}s"},
                "explicit_http_config": {"http_protocol_options": {"enable_trailers": True}},
            }
        },
    }


def _lb_endpoint(replica: ReplicaTarget) -> Json:
    return {"endpoint": {"address": _address(replica.host, replica.port)}}


def _address(host: str, port: int) -> Json:
    return {"socket_address": {"address": host, "port_value": port}}


# --- routes -----------------------------------------------------------------------------------------------


def _routes(targets: GatewayTargets, endpoints: list[EndpointTarget]) -> Json:
    return {
        "@type": _TYPE + "config.route.v3.RouteConfiguration",
        "name": ROUTE_CONFIG,
        "max_direct_response_body_size_bytes": 64 * 1024,
        "validate_clusters": False,
        "virtual_hosts": [
            {
                "name": "gateway",
                "domains": ["*"],
                "matcher": {
                    **_preflights(targets.console_origin),
                    "on_no_match": {"matcher": _tree(targets, endpoints)},
                },
                "retry_policy": _retry_policy(),
            }
        ],
    }


def _preflights(console_origin: str) -> Json:
    """What a browser asks before the console's pages call an endpoint: answered alike for every path, without token.

    Envoy's own CORS filter leaves out routes that answer directly: those of unknown ids and of endpoints that are
    not ready. It would tell them from the others.
    """
    wanted = {
        ":method": {"exact": "OPTIONS"},
        "origin": {"exact": _origin(console_origin)},
        "access-control-request-method": {"safe_regex": {"google_re2": {}, "regex": ".+"}},
    }
    predicates = [
        {"single_predicate": {"input": _header(n), "value_match": value}} for n, value in wanted.items()
    ]
    headers = (
        ("access-control-allow-methods", "GET, POST, PUT, PATCH, DELETE, HEAD, OPTIONS"),
        ("access-control-allow-headers", "authorization, content-type, accept"),
        ("access-control-max-age", "600"),
    )
    route = {
        "name": "preflight",
        "match": {"prefix": "/"},
        "direct_response": {"status": 204},
        "typed_per_filter_config": _open_door(),
        "response_headers_to_add": answers.mutations(headers),
    }
    return {
        "matcher_list": {
            "matchers": [{"predicate": {"and_matcher": {"predicate": predicates}}, "on_match": _leaf(route)}]
        }
    }


def _tree(targets: GatewayTargets, endpoints: list[EndpointTarget]) -> Json:
    """Longest prefix wins: one look-up in a trie, however many endpoints there are.

    An endpoint has two keys, its bare base URL and everything below it; the second ends in the slash that keeps
    an id from matching as the beginning of another one.
    """
    leaves: dict[str, Json] = {
        "/": _direct("nothing-here", "/", 404),
        "/v1/": _direct(UNKNOWN_ENDPOINT, "/v1/", 404),
        "/accounts-api/": _to_control_plane("/accounts-api/", targets.console_origin),
        "/.well-known/": _to_control_plane("/.well-known/", targets.console_origin),
    }
    for target in endpoints:
        base = f"/v1/{target.endpoint_id}"
        leaves[base] = _endpoint_route(target, {"path": base}, targets.tokens)
        leaves[base + "/"] = _endpoint_route(target, {"prefix": base + "/"}, targets.tokens)
    return {
        "matcher_tree": {
            "input": _header(":path"),
            "prefix_match_map": {"map": {key: _leaf(route) for key, route in leaves.items()}},
        }
    }


def _header(name: str) -> Json:
    config = {"@type": _TYPE + "type.matcher.v3.HttpRequestHeaderMatchInput", "header_name": name}
    return {"name": name, "typed_config": config}


def _leaf(route: Json) -> Json:
    action = {"@type": _TYPE + "config.route.v3.Route", **route}
    return {"action": {"name": "route", "typed_config": action}}


def _direct(name: str, prefix: str, status: int) -> Json:
    """Answered by the gateway itself; the body comes from the listener's local replies (see `bootstrap`)."""
    return {"name": name, "match": {"prefix": prefix}, "direct_response": {"status": status}}


def _to_control_plane(prefix: str, console_origin: str) -> Json:
    return {
        "name": CONTROL_PLANE,
        "match": {"prefix": prefix},
        "route": {
            "cluster": CONTROL_PLANE,
            "timeout": "30s",
            # The control plane knows itself by its configured name only, never by what a caller puts into Host.
            "host_rewrite_literal": urlsplit(console_origin).netloc,
        },
        "request_headers_to_remove": ["cookie"],
        "response_headers_to_remove": ["set-cookie"],
    }


def _endpoint_route(target: EndpointTarget, match: Json, tokens: TokenPolicy) -> Json:
    route: Json = {"name": target.endpoint_id, "match": match}
    route["typed_per_filter_config"] = _guard(target, tokens) if target.private else _open_door()
    if _is_ready(target):
        route["route"] = {
            "cluster": target.endpoint_id,
            "prefix_rewrite": "/",
            "timeout": _FOREVER,
            "idle_timeout": _FOREVER,
        }
        # Credentials for the gateway are not the model server's business. Cookies know no ports: on a shared host
        # name the console's session would reach every replica, and a replica could set it.
        route["request_headers_to_remove"] = ["authorization", "cookie"]
        route["response_headers_to_remove"] = ["set-cookie"]
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


def _guard(target: EndpointTarget, tokens: TokenPolicy) -> Json:
    """Refuses every request that is not positively the project's, and then every one without a role.

    The two policies never match together, so that another project's token learns nothing from a role.
    """
    same_project = _claim("project", {"string_match": {"exact": target.project}})
    may_invoke = {"or_ids": {"ids": [_role(role) for role in tokens.invoke_roles]}}
    policies = {
        POLICY_PROJECT: {"not_id": same_project},
        POLICY_ROLE: {"and_ids": {"ids": [same_project, {"not_id": may_invoke}]}},
    }
    return {
        RBAC_FILTER: {
            "@type": _TYPE + "extensions.filters.http.rbac.v3.RBACPerRoute",
            "rbac": {
                "rules": {
                    "action": "DENY",
                    "policies": {
                        name: {"permissions": [{"any": True}], "principals": [principal]}
                        for name, principal in policies.items()
                    },
                }
            },
        }
    }


def _open_door() -> Json:
    return {
        TOKEN_FILTER: {
            "@type": _TYPE + "extensions.filters.http.jwt_authn.v3.PerRouteConfig",
            "disabled": True,
        }
    }


def _role(role: str) -> Json:
    return _claim("roles", {"list_match": {"one_of": {"string_match": {"exact": role}}}})


def _claim(name: str, value: Json) -> Json:
    return {
        "sourced_metadata": {
            "metadata_matcher": {
                "filter": JWT_NAMESPACE,
                "path": [{"key": JWT_PAYLOAD}, {"key": name}],
                "value": value,
            }
        }
    }


def _retry_policy() -> Json:
    """Again on another replica, as long as no byte of an answer has come back.

    That includes a replica that dies with a POST in its hands (`reset`): inference computes an answer and changes
    nothing, so that doing it again is what the caller wants. One more try only: a request that kills its replica
    must not kill them all. Envoy itself never retries once response headers were passed on, nor a body larger than
    its buffer.
    """
    return {
        "retry_on": "connect-failure,refused-stream,reset",
        "num_retries": 1,
        "retry_back_off": {"base_interval": "0.005s", "max_interval": "0.05s"},
        "retry_host_predicate": [
            {
                "name": "envoy.retry_host_predicates.previous_hosts",
                "typed_config": {
                    "@type": _TYPE + "extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
                },
            }
        ],
        "host_selection_retry_max_attempts": 5,
    }


def _origin(url: str) -> str:
    """Scheme, host and port of a URL, as a browser sends them in Origin."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


# --- filters that change at run time ----------------------------------------------------------------------


def _extension(name: str, config: Json) -> Json:
    return {"@type": _TYPE + "config.core.v3.TypedExtensionConfig", "name": name, "typed_config": config}


def _token_filter(policy: TokenPolicy) -> Json:
    provider = {
        "issuer": policy.issuer,
        "audiences": [policy.audience],
        "require_expiration": True,
        "clock_skew_seconds": CLOCK_SKEW_S,
        "local_jwks": {"inline_string": public_keys(policy.jwks)},
        "forward": False,
        # Header only: a token in a URL ends up in logs. The scheme's case is free (RFC 9110 §11.1).
        "from_headers": [
            {"name": "Authorization", "value_prefix": "Bearer "},
            {"name": "Authorization", "value_prefix": "bearer "},
        ],
        "payload_in_metadata": JWT_PAYLOAD,
        "failed_status_in_metadata": JWT_FAILURE,
        "jwt_cache_config": {"jwt_cache_size": 1000},
    }
    return _extension(
        TOKEN_FILTER,
        {
            "@type": _TYPE + "extensions.filters.http.jwt_authn.v3.JwtAuthentication",
            "providers": {"iam": provider},
            "rules": [{"match": {"prefix": "/v1/"}, "requires": {"provider_name": "iam"}}],
            "strip_failure_response": True,
        },
    )


def public_keys(jwks: str) -> str:
    """The RSA public keys of a JWK set, each bound to RS256; nothing else of it reaches a gateway.

    Without `alg` Envoy would accept any RSA algorithm, and a private member must never leave the control plane.
    Raises ValueError if `jwks` is no JWK set.
    """
    try:
        keys = json.loads(jwks)["keys"]
        public = [
            {"kty": "RSA", "use": "sig", "alg": "RS256", **{m: k[m] for m in ("kid", "n", "e") if m in k}}
            for k in keys
            if k.get("kty") == "RSA"
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError("TokenPolicy.jwks is not a JWK set") from error
    return json.dumps({"keys": public})


def _body_limit(max_bytes: int) -> Json:
    return _extension(
        BODY_LIMIT_FILTER,
        {
            "@type": _TYPE + "extensions.filters.http.body_size_limit.v3.BodySizeLimit",
            "max_request_bytes": max_bytes,
        },
    )


def _cors(console_origin: str) -> Json:
    """Every answer names the one origin that may read it, also errors and those of a model server that allows all."""
    headers = (
        ("access-control-allow-origin", _origin(console_origin)),
        ("access-control-expose-headers", "x-request-id, retry-after, www-authenticate"),
    )
    return _extension(
        CORS_FILTER,
        {
            "@type": _TYPE + "extensions.filters.http.header_mutation.v3.HeaderMutation",
            "mutations": {
                "response_mutations": [
                    {"remove": "access-control-allow-credentials"},
                    *({"append": header} for header in answers.mutations(headers)),
                ]
            },
        },
    )
