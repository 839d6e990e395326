"""The connections that Envoy holds to replicas outside its present clusters: requests that a replica which was taken
out still has to finish.

Envoy's own figures cannot tell: its counters for a host go when the host does. The kernel can: Envoy closes an idle
connection to a host that has left its cluster, and a busy one when its request has ended; one HTTP/1.1 connection
carries one request. (Seen with 1.40: streams, WebSockets and uploads; see test_gateway_draining.)

Linux only. Sources: proc(5) on /proc/pid/net/tcp, its columns and its byte order; include/net/tcp_states.h.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Set
from pathlib import Path

from gateway.targets import address_text

_LISTEN = "0A"
# Two counts that close together would say the same thing twice.
SPACING_S = 0.15
_COST = 20  # a count that took t seconds is not repeated within 20 t


def count(pid: int, own_port: int, inside: Set[str]) -> dict[str, int] | None:
    """Connections of process `pid` by the other side's "host:port", those to `inside` and its clients' left out.

    own_port: where its clients connect. None where this machine does not tell.
    """
    try:
        # Connections first: one that is opened in between is missed this time, and not taken for somebody else's.
        found = [*_connections(pid, "tcp", own_port), *_connections(pid, "tcp6", own_port)]
        outside = [(inode, address) for inode, address in found if address not in inside]
        mine = _sockets(pid) if outside else set()
    except (FileNotFoundError, ProcessLookupError):
        return {} if sys.platform == "linux" else None  # on Linux: the process has ended, and they with it
    except OSError:
        return None
    return dict(Counter(address for inode, address in outside if inode in mine))


def _connections(pid: int, table: str, own_port: int) -> Iterator[tuple[str, str]]:
    """(inode, other side) of each connection in the process's network namespace that is not one of its clients'."""
    own = f":{own_port:04X}"
    for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] != _LISTEN and not fields[1].endswith(own):
            yield fields[9], _address(fields[2])


def _sockets(pid: int) -> set[str]:
    """Inodes of the process's open sockets."""
    found = set()
    for entry in os.scandir(f"/proc/{pid}/fd"):
        try:
            target = str(Path(entry.path).readlink())
        except FileNotFoundError:  # closed since
            continue
        if target.startswith("socket:["):
            found.add(target[8:-1])
    return found


def _address(text: str) -> str:
    """The kernel writes each 32-bit word of an address in the machine's own byte order."""
    host, _, port = text.partition(":")
    raw = b"".join(int(host[i : i + 8], 16).to_bytes(4, sys.byteorder) for i in range(0, len(host), 8))
    if len(raw) == 4:
        return address_text(socket.inet_ntoa(raw), int(port, 16))
    wide = ipaddress.IPv6Address(raw)
    return address_text(str(wide.ipv4_mapped or wide), int(port, 16))


class Counts:
    """When to count. Not thread-safe."""

    def __init__(self, own_port: int) -> None:
        self._own_port = own_port
        self._next = 0.0

    def due(self, pid: int | None, inside: Set[str]) -> tuple[bool, Mapping[str, int] | None]:
        """(whether it was counted this time, what). pid: Envoy's; None while none runs, which holds nothing."""
        began = time.monotonic()
        if began < self._next:
            return False, None
        found = count(pid, self._own_port, inside) if pid is not None else {}
        ended = time.monotonic()
        self._next = ended + max(SPACING_S, _COST * (ended - began))
        return True, found
