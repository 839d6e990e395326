"""Where the replicas of endpoints with a limit of requests at once listen, and that limit: told so that Envoy's count
of their requests lasts.

Envoy counts in the cluster, and a cluster whose configuration changes is another one, which counts from 0. So these
clusters never change: they read their replicas from a file of their own (EDS), which Envoy looks at every POLL_S, and
Envoy's runtime holds the limit (RTDS), whatever becomes of the replicas, for as long as the endpoint has one.

Envoy looks and counts in two steps, without a lock: of its threads, two that send a request on in the same instant
may both find the last place free.

Not watched, but looked at: Envoy 1.40 takes an inotify instance of the system for each watched file, of which there
are 128 by default, and aborts when they are used up. It reads the file anew with each look, which costs 13 µs of a
binary one (28 µs of JSON), so 1,000 such endpoints 3 % of a core. Other endpoints' clusters hold their replicas
themselves.

Sources: envoyproxy.io, "Circuit breaking", "Runtime Discovery Service (RTDS)", PathConfigSource.poll_interval; tried on
1.40 by tests/integration/test_gateway_at_once.py. protobuf.dev, "Encoding".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gateway import files, names

Json = dict[str, Any]

DIRECTORY = "assignments"  # beside the snapshot's files
POLL_S = 0.5
NAME = re.compile(r"me-[0-9A-Za-z-]{1,80}")  # of an endpoint, and so of its file


def source(endpoint_id: str) -> Json:
    """Fields of an endpoint's cluster: where it finds its replicas."""
    polled = {"path": f"{names.XDS_DIR}/{DIRECTORY}/{endpoint_id}.pb", "poll_interval": f"{POLL_S}s"}
    return {
        "eds_cluster_config": {"eds_config": {"resource_api_version": "V3", "path_config_source": polled}}
    }


def assignment(endpoint_id: str, lb_endpoints: list[Json]) -> Json:
    """Envoy's ClusterLoadAssignment."""
    found: Json = {
        "@type": names.TYPE + "config.endpoint.v3.ClusterLoadAssignment",
        "cluster_name": endpoint_id,
    }
    return {**found, "endpoints": [{"lb_endpoints": lb_endpoints}]} if lb_endpoints else found


def at_once(limits: Mapping[str, int]) -> Json:
    """Envoy's Runtime layer. limits: endpoint → requests that may run at once."""
    return {
        "@type": names.TYPE + "service.runtime.v3.Runtime",
        "name": names.AT_ONCE_LAYER,
        "layer": {f"circuit_breakers.{name}.default.max_requests": limit for name, limit in limits.items()},
    }


def layer(config_source: Json) -> Json:
    """Of the runtime in Envoy's bootstrap: filled from that source."""
    return {
        "name": names.AT_ONCE_LAYER,
        "rtds_layer": {"name": names.AT_ONCE_LAYER, "rtds_config": config_source},
    }


# --- the file of a snapshot: one document (DiscoveryResponse) for each endpoint ----------------------------


def name_of(document: Json) -> str:
    """Whose it is."""
    return str(document["resources"][0]["cluster_name"])


def versions(file: Json) -> dict[str, str]:
    """Endpoint → version of its document."""
    return {name_of(document): str(document["version_info"]) for document in file["resources"]}


def has_address(document: Json) -> bool:
    """Whether there is any replica in it."""
    return any(group["lb_endpoints"] for group in document["resources"][0].get("endpoints", ()))


def with_addresses(file: Json) -> set[str]:
    """The endpoints that have a replica."""
    return {name_of(document) for document in file["resources"] if has_address(document)}


def problems(file: Json) -> Iterator[str]:
    """What is wrong with it, one sentence each."""
    seen: set[str] = set()
    for document in file["resources"]:
        name = name_of(document)
        if not NAME.fullmatch(name):
            yield f"{name[:100]!r} is no endpoint's name"
        if name in seen or len(document["resources"]) != 1 or not document["version_info"]:
            yield f"the replicas of {name} are not told once"
        seen.add(name)


# --- as Envoy reads it --------------------------------------------------------------------------------------


def encoded(document: Json) -> bytes:
    """A DiscoveryResponse of one ClusterLoadAssignment in protobuf's binary form."""
    load = document["resources"][0]
    places = [
        place["endpoint"]["address"]["socket_address"]
        for group in load.get("endpoints", ())
        for place in group["lb_endpoints"]
    ]
    # LocalityLbEndpoints.lb_endpoints → LbEndpoint.endpoint → Endpoint.address → Address.socket_address
    addresses = b"".join(
        _field(2, _field(1, _field(1, _field(1, _socket_address(place))))) for place in places
    )
    assigned = _field(1, load["cluster_name"]) + (_field(2, addresses) if addresses else b"")
    return _field(1, document["version_info"]) + _field(2, _field(1, load["@type"]) + _field(2, assigned))


def _socket_address(place: Json) -> bytes:
    return _field(2, place["address"]) + _varint(3 << 3) + _varint(place["port_value"])


def _field(number: int, content: str | bytes) -> bytes:
    data = content.encode() if isinstance(content, str) else content
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*found, value))


# --- on the disk ------------------------------------------------------------------------------------------


def spread(file: Json, directory: Path, before: Json | None = None) -> None:
    """Each document into Envoy's file of its own, and no other file. Raises OSError.

    before: what was spread there last, None if that is not known. Nothing waits for the disk: `file` itself lies
    there, and what a power cut damages is written anew from it.
    """
    directory.mkdir(exist_ok=True, mode=0o700)
    wanted, known = _by_name(file), _by_name(before) if before is not None else {}
    for name, document in wanted.items():
        if known.get(name) == document:
            continue
        data = encoded(document)
        if _content(directory / name) != data:
            files.write(directory / name, data, durable=False)
    there = known if before is not None else [found.name for found in directory.iterdir()]
    for name in there:
        if name not in wanted:
            (directory / name).unlink(missing_ok=True)


def _by_name(file: Json) -> dict[str, Json]:
    return {f"{name_of(document)}.pb": document for document in file["resources"]}


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
