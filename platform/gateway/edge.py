"""What a slow, greedy or hostile client may take of the gateway. Nothing here ends an answer that is being read.

Envoy's defaults are for a mesh of friends; its own "best practices for edge proxies" are what this follows. Of each
phase of a request only the one that a client can drag out has a clock:

headers     until the last of them has come
body        until the last byte of it has come, or the answer has begun (so a stream in both directions may go on)
reading     while the client is so far behind that the replica has to wait for it
silence     between requests

While a replica is silent no clock runs: a model may think for an hour.
"""

from __future__ import annotations

import argparse
import os
import resource
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Json = dict[str, Any]

_TYPE = "type.googleapis.com/envoy."
_MONITORS = "extensions.resource_monitors."
_HEAP = "envoy.resource_monitors.fixed_heap"

# All headers of a request together; more is 431. A token is 1 KB.
HEADERS_KB = 60
HEADERS_COUNT = 100
# Of one client and replica, before the faster side has to wait.
BUFFER_BYTES = 1024 * 1024

_MIB = 1024 * 1024
_MANY_FILES = 1_048_576
_FILES_OF_ITS_OWN = 512
_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


@dataclass(frozen=True, slots=True)
class Edge:
    """The limits of one gateway, times in seconds.

    body_s        100 MB within it are 1.4 Mbit/s
    reader_s      for a client that has fallen 1 MB behind to catch up; one that takes 2 MB in it always does, half of
                  the kernel's buffer and of Envoy's
    connections   of all clients together; one more is closed at once
    heap_bytes    near it Envoy frees what it can, then refuses new requests, and last new connections
    behind_proxy  every connection comes from a proxy, which is believed who the client is: the last address in its
                  X-Forwarded-For. Whoever reaches the gateway past it could name any address as theirs
    hsts_s        for so long browsers shall use nothing but TLS here; 0: nothing is said
    """

    headers_s: float = 15.0
    body_s: float = 600.0
    reader_s: float = 600.0
    idle_s: float = 600.0
    handshake_s: float = 15.0
    connections: int = 50_000
    heap_bytes: int = 1024 * _MIB
    behind_proxy: bool = False
    hsts_s: int = 0


def fitting(memory_bytes: int, files: int) -> tuple[int, int]:
    """(connections, heap bytes) for a machine with this memory and so many open files a process.

    A quarter of the memory, between 512 MiB and 8 GiB, in steps: a small change of the machine is no other Envoy. A
    client's request takes a second file, its replica's.
    """
    heap = min(max(memory_bytes // 4, 512 * _MIB), 8192 * _MIB)
    connections = min(max((files - _FILES_OF_ITS_OWN) // 2, 100), 50_000)
    return connections, heap // (256 * _MIB) * 256 * _MIB


def memory_bytes() -> int:
    """What this process may use: the machine's memory, or the container's limit."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in _CGROUP_LIMITS:
        try:
            text = Path(path).read_text().strip()
        except OSError:
            continue
        if text.isdigit():
            found.append(int(text))
    return min(found)


def raise_file_limit() -> int:
    """As many open files as the system lets this process and its children have. That number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MANY_FILES if hard == resource.RLIM_INFINITY else min(hard, _MANY_FILES)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return _MANY_FILES if soft == resource.RLIM_INFINITY else soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):  # macOS names no limit and has one
        return soft
    return wanted


# --- the agent's command line -----------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options for machines and clients that the defaults do not fit."""
    group = parser.add_argument_group("limits for clients")
    group.add_argument(
        "--max-connections", type=int, metavar="N", help="of all clients; by the open file limit"
    )
    group.add_argument(
        "--max-heap-mb", type=int, metavar="MB", help="Envoy's memory; a quarter of the machine's"
    )
    group.add_argument(
        "--behind-proxy", action="store_true", help="clients come by a proxy alone, which says who they are"
    )
    group.add_argument(
        "--hsts", type=int, metavar="S", default=0, help="for so long browsers shall use nothing but TLS here"
    )
    for name, what in _TIMES.items():
        default = getattr(Edge(), f"{name}_s")
        text = f"seconds for {what} (default {default:g})"
        group.add_argument(f"--{name}-timeout", type=float, metavar="S", default=default, help=text)


_TIMES = {
    "headers": "all headers of a request to come",
    "body": "all of its body to come, unless the answer has begun",
    "reader": "a client that holds its replica up to catch up",
    "idle": "a connection without a request",
}


def chosen(given: argparse.Namespace) -> Edge:
    """The limits of this machine, and what the command line says instead."""
    connections, heap = fitting(memory_bytes(), raise_file_limit())
    return Edge(
        headers_s=given.headers_timeout,
        body_s=given.body_timeout,
        reader_s=given.reader_timeout,
        idle_s=given.idle_timeout,
        connections=given.max_connections or connections,
        heap_bytes=given.max_heap_mb * _MIB if given.max_heap_mb else heap,
        behind_proxy=given.behind_proxy,
        hsts_s=max(0, given.hsts),
    )


# --- Envoy's configuration --------------------------------------------------------------------------------


def listener(edge: Edge) -> Json:
    """Fields of the listener."""
    return {
        "per_connection_buffer_limit_bytes": BUFFER_BYTES,
        "per_connection_buffer_high_watermark_timeout": _seconds(edge.reader_s),
        # Streams have no time limit, so dead peers are found by the kernel.
        "tcp_keepalive": {"keepalive_time": 60, "keepalive_interval": 15, "keepalive_probes": 4},
    }


def tls_filter_chain(edge: Edge) -> Json:
    """Fields of its filter chain with TLS."""
    return {"transport_socket_connect_timeout": _seconds(edge.handshake_s)}


def connection_manager(edge: Edge) -> Json:
    """Fields of the HTTP connection manager."""
    return {
        **({"xff_num_trusted_hops": 1} if edge.behind_proxy else {}),
        "request_headers_timeout": _seconds(edge.headers_s),
        "request_timeout": _seconds(edge.body_s),
        # Of an answer nobody can say how long its next piece takes. What a client may drag out has a clock above, web's
        # answers have one in their route.
        "stream_idle_timeout": "0s",
        "max_request_headers_kb": HEADERS_KB,
        "common_http_protocol_options": {
            "idle_timeout": _seconds(edge.idle_s),
            "max_headers_count": HEADERS_COUNT,
            # WSGI-like servers read x_forwarded_for as x-forwarded-for.
            "headers_with_underscores_action": "DROP_HEADER",
        },
        "http2_protocol_options": {
            "max_concurrent_streams": 256,
            "initial_stream_window_size": 1024 * 1024,
            "initial_connection_window_size": 4 * 1024 * 1024,
            # Floods of frames that cost the sender nothing: CVE-2019-9511 to 9518.
            "max_outbound_frames": 10_000,
            "max_outbound_control_frames": 1000,
            "max_consecutive_inbound_frames_with_empty_payload": 1,
            "max_inbound_priority_frames_per_stream": 100,
            "max_inbound_window_update_frames_per_data_frame_sent": 10,
        },
    }


def runtime_layer() -> Json:
    """Of the bootstrap: HTTP/2 connections that open streams only to reset them (CVE-2023-44487)."""
    return {
        "name": "edge",
        "static_layer": {
            "overload.premature_reset_total_stream_count": 200,
            "overload.premature_reset_min_stream_lifetime_seconds": 1,
            # The rest of a burst waits for the other connections' turn.
            "http.max_requests_per_io_cycle": 4,
        },
    }


def overload_manager(edge: Edge) -> Json:
    """What happens when memory or connections run out. No action ends a request that has begun."""
    return {
        "refresh_interval": "0.25s",
        "resource_monitors": [
            _monitor(
                "envoy.resource_monitors.global_downstream_max_connections",
                "downstream_connections.v3.DownstreamConnectionsConfig",
                max_active_downstream_connections=edge.connections,
            ),
            _monitor(_HEAP, "fixed_heap.v3.FixedHeapConfig", max_heap_size_bytes=edge.heap_bytes),
        ],
        "actions": [
            _action("shrink_heap", threshold={"value": 0.9}),
            {
                **_action("reduce_timeouts", scaled={"scaling_threshold": 0.8, "saturation_threshold": 0.95}),
                "typed_config": {
                    "@type": _TYPE + "config.overload.v3.ScaleTimersOverloadActionConfig",
                    "timer_scale_factors": [
                        {"timer": "HTTP_DOWNSTREAM_CONNECTION_IDLE", "min_timeout": "5s"},
                        {"timer": "TRANSPORT_SOCKET_CONNECT", "min_timeout": "2s"},
                    ],
                },
            },
            _action("stop_accepting_requests", threshold={"value": 0.95}),
            _action("reject_incoming_connections", threshold={"value": 0.98}),
        ],
    }


def _monitor(name: str, kind: str, **settings: int) -> Json:
    return {"name": name, "typed_config": {"@type": _TYPE + _MONITORS + kind, **settings}}


def _action(name: str, **trigger: Json) -> Json:
    return {"name": f"envoy.overload_actions.{name}", "triggers": [{"name": _HEAP, **trigger}]}


def _seconds(value: float) -> str:
    return f"{value:g}s"
