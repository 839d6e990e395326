"""Envoy's static configuration: the listener, its filters and answers, and where the files of a snapshot lie.

Nothing here changes while Envoy runs. A changed listener would cut live streams; what varies (clusters, routes,
keys, limits, certificate) is read from files that the agent replaces.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gateway import (
    answers,
    assignments,
    cors,
    edge,
    log_columns,
    meters,
    names,
    refusals,
    request_limits,
    usage_reader,
    websockets,
)
from gateway.answers import Answer
from gateway.edge import Edge

Json = dict[str, Any]

XDS_DIR = names.XDS_DIR  # all paths are relative to the gateway's home, Envoy's working directory
ADMIN_SOCKET = "admin.sock"
ACCESS_LOG = "access.log"
CERTIFICATE = "certificate.json"
CERTIFICATE_NAME = "gateway"
STAT_PREFIX = "gateway"

_TYPE = "type.googleapis.com/envoy."
_HTTP = _TYPE + "extensions.filters.http."
_RBAC = _HTTP + "rbac.v3.RBAC"

# google.jwt_verify.Status, as Envoy puts it into metadata: github.com/google/jwt_verify_lib, status.h.
_JWT_MISSED = 1
_JWT_EXPIRED = 3
# %RESPONSE_FLAGS% of a request that found no replica, lost it, or waited for it too long.
_UPSTREAM_FLAGS = ["UH", "UF", "UC", "UR", "LR", "UO", "UT", "NC", "URX", "UPE"]

# Set by proxies: whatever a caller puts there is a claim, not a fact. Envoy adds its own afterwards.
_SPOOFABLE = ("forwarded", "x-real-ip", "via", "x-request-id", "x-client-trace-id")
_SPOOFABLE_PREFIXES = ("x-forwarded-", "x-envoy-", "x-berth-")
# Behind a proxy all of them but X-Forwarded-For. RE2 knows no "but".
_FORWARDED_BUT_FOR = "x-forwarded-(?:[^f].*|f|f[^o].*|fo|fo[^r].*|for.+)"


@dataclass(frozen=True, slots=True)
class BootstrapOptions:
    """host, port: where clients connect. node_id: this gateway's name. tls: serve HTTPS from certificate.json.
    edge: what clients may take of it. reader: the module that reads usage (compiled_reader), "": the script does."""

    host: str
    port: int
    node_id: str
    tls: bool = False
    edge: Edge = field(default_factory=Edge)
    reader: str = ""


def build(options: BootstrapOptions) -> Json:
    """Envoy's bootstrap document."""
    return {
        "node": {"id": options.node_id, "cluster": "gateway"},
        # A socket file of mode 0600 in the gateway's home: nothing on the network reaches the admin interface.
        "admin": {"address": {"pipe": {"path": ADMIN_SOCKET, "mode": 0o600}}},
        **meters.BOOTSTRAP,
        "layered_runtime": {"layers": [edge.runtime_layer(), assignments.layer(_file_source(names.AT_ONCE))]},
        "deferred_stat_options": {"enable_deferred_creation_stats": True},
        "dynamic_resources": {"cds_config": _file_source(names.CLUSTERS)},
        "static_resources": {"listeners": [_listener(options)]},
        "overload_manager": edge.overload_manager(options.edge),
    }


def _file_source(name: str) -> Json:
    return {"resource_api_version": "V3", "path_config_source": {"path": f"{XDS_DIR}/{name}"}}


def _listener(options: BootstrapOptions) -> Json:
    chain: Json = {
        "filters": [
            {
                "name": "envoy.filters.network.http_connection_manager",
                "typed_config": _connection_manager(options.edge, options.reader),
            }
        ]
    }
    listener: Json = {
        "name": "gateway",
        "address": {"socket_address": {"address": options.host, "port_value": options.port}},
        **edge.listener(options.edge),
        "filter_chains": [chain],
    }
    if options.tls:
        chain["transport_socket"] = _tls()
        chain |= edge.tls_filter_chain(options.edge)
        listener["listener_filters"] = [
            {
                "name": "envoy.filters.listener.tls_inspector",
                "typed_config": {
                    "@type": _TYPE + "extensions.filters.listener.tls_inspector.v3.TlsInspector"
                },
            }
        ]
    return listener


def _tls() -> Json:
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": _TYPE + "extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": {
                "alpn_protocols": ["h2", "http/1.1"],
                "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
                "tls_certificate_sds_secret_configs": [
                    {"name": CERTIFICATE_NAME, "sds_config": _file_source(CERTIFICATE)}
                ],
            },
        },
    }


def _connection_manager(limits: Edge, reader: str) -> Json:
    return {
        "@type": _TYPE + "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": STAT_PREFIX,
        "codec_type": "AUTO",
        "server_name": "berth",
        "use_remote_address": True,
        "skip_xff_append": True,  # who calls is no model server's business; web is told by its route
        "early_header_mutation_extensions": [_drop_claims(limits.behind_proxy)],
        "always_set_request_id_in_response": True,
        # Dot segments, %2e included, are resolved before routing. `//` and %2F stay as they were sent: after the
        # endpoint id they belong to the model server, before it they match no endpoint.
        "normalize_path": True,
        "merge_slashes": False,
        "path_with_escaped_slashes_action": "KEEP_UNCHANGED",
        "http_protocol_options": {"enable_trailers": True},
        **edge.connection_manager(limits),
        "upgrade_configs": websockets.UPGRADES,
        "http_filters": _filters(reader),
        "rds": {"route_config_name": names.ROUTE_CONFIG, "config_source": _file_source(names.ROUTES)},
        "local_reply_config": {"mappers": _with_headers(_local_replies(), limits.hsts_s)},
        "access_log": [_access_log(), *meters.loggers()],
        "access_log_options": meters.LOG_OPTIONS,
    }


def _drop_claims(behind_proxy: bool) -> Json:
    removals: list[Json] = [{"remove": name} for name in _SPOOFABLE]
    matchers: list[Json] = [{"prefix": prefix, "ignore_case": True} for prefix in _SPOOFABLE_PREFIXES]
    if behind_proxy:
        matchers[0] = {"safe_regex": {"regex": _FORWARDED_BUT_FOR}}
    removals += [{"remove_on_match": {"key_matcher": matcher}} for matcher in matchers]
    return {
        "name": "envoy.http.early_header_mutation.header_mutation",
        "typed_config": {
            "@type": _TYPE + "extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
            "mutations": removals,
        },
    }


def _filters(reader: str) -> list[Json]:
    """In order."""
    router = {
        "@type": _HTTP + "router.v3.Router",
        "suppress_envoy_headers": True,
        "dynamic_stats": False,  # nobody reads them, and each request would pay 3 µs for their names
    }
    return [
        _discovered(names.TOKEN_FILTER, names.TOKENS, _HTTP + "jwt_authn.v3.JwtAuthentication"),
        _discovered(names.ACCESS_FILTER, names.ACCESS, _RBAC),
        {"name": names.RBAC_FILTER, "typed_config": {"@type": _RBAC}},
        _discovered(names.DENIALS_FILTER, names.DENIALS, _RBAC),
        *request_limits.limiters(),
        _discovered(
            names.BODY_LIMIT_FILTER,
            names.BODY_LIMIT,
            _TYPE + "extensions.common.matching.v3.ExtensionWithMatcher",
            _HTTP + "body_size_limit.v3.BodySizeLimit",  # of an older control plane
        ),
        usage_reader.usage(reader),
        {"name": "envoy.filters.http.router", "typed_config": router},
    ]


def _discovered(name: str, file: str, *kinds: str) -> Json:
    return {
        "name": name,
        "config_discovery": {"config_source": _file_source(file), "type_urls": list(kinds)},
    }


# --- answers ----------------------------------------------------------------------------------------------


def _local_replies() -> list[Json]:
    """First match wins. A 503 without an upstream's flag is an endpoint's own, its body stands in the route."""
    unauthorized = _status("EQ", 401)
    not_found = _status("EQ", 404)
    upstream_failed: Json = {"response_flag_filter": {"flags": _UPSTREAM_FLAGS}}
    return [
        _reply(_all(unauthorized, _jwt_failure(_JWT_MISSED)), answers.TOKEN_MISSING),
        _reply(_all(unauthorized, _jwt_failure(_JWT_EXPIRED)), answers.TOKEN_EXPIRED),
        _reply(unauthorized, answers.TOKEN_INVALID),
        *(refusal.mapper(_cel(refusal.condition)) for refusal in refusals.all_of_them()),
        _reply(_cel("response.code_details == 'overload'"), answers.OVERLOADED),
        # Envoy's token filter answers 403 to a token for another audience.
        _reply(_cel("response.code_details.startsWith('jwt_authn_access_denied')"), answers.TOKEN_INVALID),
        _reply(_cel(f"xds.route_name == '{names.NO_UPGRADE}'"), answers.NO_UPGRADE),
        _reply(_denied_by(names.POLICY_UNTOLD), answers.UNTOLD),
        _reply(_denied_by(names.REVOKED), answers.TOKEN_REVOKED),
        # To another project's token an endpoint does not exist.
        _reply(_denied_by(names.POLICY_PROJECT), answers.ENDPOINT_NOT_FOUND),
        _reply(_denied_by(names.POLICY_ROLE), answers.ROLE_REFUSED),
        _reply(_denied_by(names.POLICY_SCOPE), answers.SCOPE_REFUSED),
        _reply(_all(not_found, _path("/v1/")), answers.ENDPOINT_NOT_FOUND),
        _reply(not_found, answers.PATH_NOT_FOUND),
        _reply(_status("EQ", 413), answers.BODY_TOO_LARGE),
        # Not by path: at this point it is the rewritten one.
        _reply(
            _all(upstream_failed, _cel(f"xds.route_name == '{names.CONTROL_PLANE}'")),
            answers.CONTROL_PLANE_LOST,
        ),
        _reply(
            _all(upstream_failed, _cel(f"xds.cluster_name == '{names.ACTIVATOR}'")), answers.WAKE_INTERRUPTED
        ),
        _reply(upstream_failed, answers.REPLICA_LOST),
        _other(_all(_status("GE", 400), _status("LE", 499))),
        _other(_status("EQ", 501)),  # a transfer coding that Envoy does not know
        _reply(_all(_status("GE", 500), _status("NE", 503)), answers.INTERNAL),
    ]


def _with_headers(mappers: list[Json], hsts_s: int) -> list[Json]:
    """Those of everything that the gateway answers itself. None of it costs the requests that replicas answer."""
    told = cors.of_refusals()
    if hsts_s:
        told += answers.mutations((("Strict-Transport-Security", f"max-age={hsts_s}"),))
    others: Json = {"filter": _status("GE", 0)}
    return [{**one, "headers_to_add": [*one.get("headers_to_add", ()), *told]} for one in (*mappers, others)]


def _reply(condition: Json, answer: Answer) -> Json:
    return {
        "filter": condition,
        "status_code": answer.status,
        "body_format_override": {
            "text_format_source": {"inline_string": answer.body().replace("%", "%%")},
            "content_type": answers.JSON,
        },
        "headers_to_add": answers.mutations(answer.headers),
    }


def _other(condition: Json) -> Json:
    """Malformed requests and the like: Envoy's own words, our shape."""
    return {
        "filter": condition,
        "body_format_override": {
            "json_format": {
                "error": {
                    "message": "The gateway refused the request: %LOCAL_REPLY_BODY%",
                    "type": "invalid_request_error",
                    "code": "http_%RESPONSE_CODE%",
                }
            },
            "content_type": answers.JSON,
        },
    }


def _all(*conditions: Json) -> Json:
    return {"and_filter": {"filters": list(conditions)}}


def _status(op: str, value: int) -> Json:
    # The runtime key is required and never set: the default decides.
    return {
        "status_code_filter": {
            "comparison": {"op": op, "value": {"default_value": value, "runtime_key": "berth.unused"}}
        }
    }


def _path(prefix: str) -> Json:
    return {"header_filter": {"header": {"name": ":path", "string_match": {"prefix": prefix}}}}


def _jwt_failure(code: int) -> Json:
    path = [{"key": names.JWT_FAILURE}, {"key": "code"}]
    return _metadata(names.JWT_NAMESPACE, path, {"double_match": {"exact": code}})


def _denied_by(policy: str) -> Json:
    # RBAC's dynamic metadata is written after its answer went through these mappers; its details are there in time.
    return _cel(f"response.code_details == 'rbac_access_denied_matched_policy[{policy}]'")


def _cel(expression: str) -> Json:
    return {
        "extension_filter": {
            "name": "envoy.access_loggers.extension_filters.cel",
            "typed_config": {
                "@type": _TYPE + "extensions.access_loggers.filters.cel.v3.ExpressionFilter",
                "expression": expression,
            },
        }
    }


def _metadata(namespace: str, path: list[Json], value: Json) -> Json:
    return {
        "metadata_filter": {
            "matcher": {"filter": namespace, "path": path, "value": value},
            "match_if_key_not_found": False,
        }
    }


def _access_log() -> Json:
    return {
        "name": "envoy.access_loggers.file",
        "filter": meters.at_the_end(),
        "typed_config": {
            "@type": _TYPE + "extensions.access_loggers.file.v3.FileAccessLog",
            "path": ACCESS_LOG,
            "log_format": {"text_format_source": {"inline_string": log_columns.FORMAT}},
        },
    }
