"""Envoy clusters: where the replicas of each endpoint listen, and how they are chosen and spared."""

from __future__ import annotations

from typing import Any

from gateway import assignments, names
from gateway.targets import EndpointTarget, GatewayTargets, address_text

Json = dict[str, Any]

_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
KEEPALIVE_S = 4  # below the 5 s after which uvicorn-like servers close an idle connection


def of_endpoint(target: EndpointTarget) -> Json:
    """The cluster of an endpoint with its replicas; of one with a limit of requests at once, without (`assignment`)."""
    if target.max_concurrency is None:
        return _http_cluster(target.endpoint_id, _lb_endpoints(target), "STATIC")
    cluster = _http_cluster(target.endpoint_id, [], "EDS")
    del cluster["load_assignment"]
    return cluster | assignments.source(target.endpoint_id)


def assignment(target: EndpointTarget) -> Json:
    """The replicas of one with such a limit. It has a cluster at all times, so that what is still being answered goes
    on being counted."""
    return assignments.assignment(target.endpoint_id, _lb_endpoints(target))


def control_plane(targets: GatewayTargets) -> Json:
    """The cluster of web, for tokens and discovery on the gateway's own address."""
    host, port = targets.control_plane
    # A name is allowed for the control plane: it is configured by people, replicas come from the engine.
    cluster = _http_cluster(
        names.CONTROL_PLANE, [{"endpoint": {"address": _address(host, port)}}], "STRICT_DNS"
    )
    if targets.control_plane_tls:
        cluster["transport_socket"] = {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {"@type": names.TYPE + "extensions.transport_sockets.tls.v3.UpstreamTlsContext"},
        }
    return cluster


def activator(targets: GatewayTargets) -> Json:
    """The cluster of the activator. A connection carries one request and ends with it, so that the activator may pass
    on bytes without looking for the end of an answer."""
    # The name stands in the access log: what never got further costs nothing (gateway.request_line).
    place = {"address": _place(targets.activator), "hostname": names.ACTIVATOR}
    cluster = _http_cluster(names.ACTIVATOR, [{"endpoint": place}], "STATIC")
    # There is one, and a restart takes it a second: that is waited for by trying again, all who wait at the same time.
    del cluster["outlier_detection"]
    cluster["circuit_breakers"]["thresholds"][0]["max_retries"] = 65536
    options = cluster["typed_extension_protocol_options"][_HTTP_OPTIONS]
    options["common_http_protocol_options"]["max_requests_per_connection"] = 1
    return cluster


def addresses(file: Json, assigned: Json) -> frozenset[str]:
    """Where the clusters of these files lead to, "host:port" each; what listens on a socket file has none."""
    found_in = [cluster["load_assignment"] for cluster in file["resources"] if "load_assignment" in cluster]
    found_in += [document["resources"][0] for document in assigned["resources"]]
    return frozenset(
        address_text(found["address"], found["port_value"])
        for load in found_in
        for group in load.get("endpoints", ())
        for item in group["lb_endpoints"]
        if (found := item["endpoint"]["address"].get("socket_address"))
    )


def _http_cluster(name: str, lb_endpoints: list[Json], discovery: str) -> Json:
    return {
        "@type": names.TYPE + "config.cluster.v3.Cluster",
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
            _HTTP_OPTIONS: {
                "@type": names.TYPE + "extensions.upstreams.http.v3.HttpProtocolOptions",
                "common_http_protocol_options": {"idle_timeout": f"{KEEPALIVE_S}s"},
                "explicit_http_config": {"http_protocol_options": {"enable_trailers": True}},
            }
        },
    }


def _lb_endpoints(target: EndpointTarget) -> list[Json]:
    """In an order of their own. Requests go to none of an endpoint that is not served."""
    replicas = sorted(target.replicas, key=lambda r: r.replica_id) if target.is_served else []
    return [{"endpoint": {"address": _address(replica.host, replica.port)}} for replica in replicas]


def _place(written: str) -> Json:
    """From "host:port" or "unix:/path"."""
    if written.startswith("unix:"):
        return {"pipe": {"path": written.removeprefix("unix:")}}
    host, _, port = written.rpartition(":")
    return _address(host.strip("[]"), int(port))


def _address(host: str, port: int) -> Json:
    return {"socket_address": {"address": host, "port_value": port}}
