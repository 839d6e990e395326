"""A machine beyond the host that is ours: nothing that a test tries to reach is anybody else's."""

from __future__ import annotations

import ipaddress
import json
import os
import shutil
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.contract.drivers import REPLICA, wait_for
from tests.support import require


def can_connect(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=2).close()
    except OSError:
        return False
    return True


@contextmanager
def outside_world() -> Iterator[str]:
    """host:port of a server on a machine beyond the host: a network namespace behind a pair of interfaces."""
    ip = shutil.which("ip", path="/usr/sbin:/sbin:/usr/bin:/bin")
    require("iproute2", bool(ip) and os.geteuid() == 0, "a network namespace needs root and the program ip")
    block = free_block(str(ip))
    space, link = f"t{uuid.uuid4().hex[:8]}", f"v{uuid.uuid4().hex[:8]}"

    def run(*words: str) -> None:
        subprocess.run([str(ip), *words], check=True, capture_output=True)

    run("netns", "add", space)
    server = None
    try:
        run("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", space)
        run("addr", "add", f"{block[1]}/30", "dev", link)
        run("link", "set", link, "up")
        run("-n", space, "addr", "add", f"{block[2]}/30", "dev", "eth0")
        run("-n", space, "link", "set", "eth0", "up")
        run("-n", space, "route", "add", "default", "via", str(block[1]))
        server = subprocess.Popen(
            [str(ip), "netns", "exec", space, sys.executable, "-I", str(REPLICA), "serve", "8080"],
            stdout=subprocess.DEVNULL,
        )
        wait_for(lambda: can_connect(str(block[2]), 8080), "the world outside")
        yield f"{block[2]}:8080"
    finally:
        if server:
            server.kill()
            server.wait()
        run("netns", "delete", space)


def free_block(ip: str) -> ipaddress.IPv4Network:
    """A /30 that no address and no route of this machine touches, of the blocks for documentation (RFC 5737).

    Those are nobody's on the internet, but a machine's own network may well use one: taking that block would cut
    the machine off from its gateway. So this looks first, and gives up rather than guess.
    """

    def told(*words: str) -> list[dict[str, Any]]:
        answer = subprocess.run([ip, "-4", "-j", *words], check=True, capture_output=True, text=True).stdout
        rows: list[dict[str, Any]] = json.loads(answer or "[]")
        return rows

    used = [f"{item['local']}/{item['prefixlen']}" for row in told("addr") for item in row["addr_info"]]
    routes = told("route", "show", "table", "all")
    used += [row["dst"] for row in routes if row.get("dst") not in (None, "default")]
    used += [row["gateway"] for row in routes if row.get("gateway")]
    taken = [ipaddress.IPv4Network(item, strict=False) for item in used]
    for name in ("198.51.100.0/24", "203.0.113.0/24", "192.0.2.0/24"):
        whole = ipaddress.IPv4Network(name)
        if not any(whole.overlaps(other) for other in taken):
            return next(whole.subnets(new_prefix=30))
    require("a free address block", False, "all blocks for documentation are in use on this machine")
    raise AssertionError
