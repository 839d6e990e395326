"""What the running Envoy says that it serves, by its own admin interface."""

from __future__ import annotations

import http.client
import json
import re
import socket
from pathlib import Path
from typing import Any

ENDPOINT_ID = re.compile(r"me-[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")


class GatewayAway(Exception):
    """Envoy does not answer."""


def clusters(home: Path) -> dict[str, set[str]]:
    """Endpoint id → the addresses that its requests go to."""
    found: dict[str, set[str]] = {}
    for item in _dump(home, "dynamic_active_clusters"):
        cluster = item["cluster"]
        if ENDPOINT_ID.fullmatch(cluster["name"]):
            found[cluster["name"]] = set(_addresses(cluster.get("load_assignment", {})))
    return found


def routes(home: Path) -> set[str]:
    """The ids of all endpoints that any route names."""
    return set(ENDPOINT_ID.findall(json.dumps(_dump(home, "dynamic_route_configs"))))


def _addresses(assignment: dict[str, Any]) -> list[str]:
    places = [
        one["endpoint"]["address"]["socket_address"]
        for group in assignment.get("endpoints", [])
        for one in group.get("lb_endpoints", [])
    ]
    return [f"{one['address']}:{one['port_value']}" for one in places]


def _dump(home: Path, what: str) -> list[dict[str, Any]]:
    connection = http.client.HTTPConnection("envoy", timeout=5)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(5)
    try:
        connection.sock.connect(str(home / "gateway" / "admin.sock"))
        connection.request("GET", f"/config_dump?resource={what}")
        return list(json.loads(connection.getresponse().read()).get("configs", []))
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise GatewayAway(str(error)) from error
    finally:
        connection.close()
