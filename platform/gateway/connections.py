"""The connections that Envoy holds to replicas outside its present clusters: requests that a replica which was taken
out still has to finish.

Envoy's own figures cannot tell: its counters for a host go when the host does. The kernel can: Envoy closes an idle
connection to a host that has left its cluster, and a busy one when its request has ended; one HTTP/1.1 connection
carries one request. (Seen with 1.40: streams, WebSockets and uploads; tests/integration/test_gateway_draining.py.)

Linux only: the kernel is asked for the live connections alone, as a machine has thousands that only wait for their
number to be free again. Sources: sock_diag(7); the structures are those of linux/inet_diag.h.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path

from gateway.targets import address_text

# Two counts that close together would say the same thing twice.
SPACING_S = 0.15
# After so long without any, there will be none: what was about to connect when a replica left has done so.
_SETTLED_S = 2.0
_TRUSTED_S = 5.0  # that is looked at now and then all the same
_COST = 20  # a count that took t seconds is not repeated within 20 t

_NETLINK_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY = 4, 20
_NLM_F_REQUEST_DUMP = 0x301
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
# Neither SYN_RECV, TIME_WAIT, LISTEN nor NEW_SYN_RECV (net/tcp_states.h): those are nobody's open connection.
_STATES = 0xFFF & ~(1 << 3 | 1 << 6 | 1 << 10)
_HEADER = struct.Struct("=IHHII")
_REQUEST = struct.Struct("=BBBxI48x")


@dataclass(frozen=True, slots=True)
class _Connection:
    """own_port: this side's. other: "host:port". inode: of this side's socket, 0 if no process has it open."""

    own_port: int
    other: str
    inode: int


def count(pid: int, own_port: int, inside: Set[str]) -> dict[str, int] | None:
    """Connections of process `pid` by the other side's "host:port", those to `inside` and its clients' left out.

    own_port: where its clients connect. None where this machine does not tell.
    """
    if sys.platform != "linux":
        return None
    try:
        # Connections first: one that is opened in between is missed this time, and not taken for somebody else's.
        found = [*_connections(socket.AF_INET), *_connections(socket.AF_INET6)]
        outside = [c for c in found if c.inode and c.own_port != own_port and c.other not in inside]
        mine = _sockets(pid) if outside else set()
    except (FileNotFoundError, ProcessLookupError):
        return {}  # the process has ended, and its connections with it
    except (OSError, struct.error):
        return None
    return dict(Counter(connection.other for connection in outside if connection.inode in mine))


def _connections(family: socket.AddressFamily) -> Iterator[_Connection]:
    """All open TCP connections of this network namespace, which is Envoy's, too."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as kernel:
        kernel.settimeout(2)
        request = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, _STATES)
        length = _HEADER.size + len(request)
        kernel.send(_HEADER.pack(length, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST_DUMP, 1, 0) + request)
        while True:
            data = kernel.recv(1 << 18)
            at = 0
            while at < len(data):
                length, kind, *_ = _HEADER.unpack_from(data, at)
                if kind == _NLMSG_DONE:
                    return
                if kind == _NLMSG_ERROR:
                    number = -struct.unpack_from("=i", data, at + _HEADER.size)[0]
                    raise OSError(number, errno.errorcode.get(number, "the kernel does not tell"))
                yield _connection(family, data[at + _HEADER.size : at + length])
                at += (length + 3) & ~3


def _connection(family: socket.AddressFamily, message: bytes) -> _Connection:
    """From a struct inet_diag_msg: ports and addresses in the network's byte order, the rest in the machine's."""
    own_port, port = struct.unpack_from("!HH", message, 4)
    raw = message[24:28] if family == socket.AF_INET else message[24:40]
    host = ipaddress.ip_address(raw)
    if isinstance(host, ipaddress.IPv6Address):
        host = host.ipv4_mapped or host
    (inode,) = struct.unpack_from("=I", message, 68)
    return _Connection(own_port, address_text(str(host), port), inode)


def _sockets(pid: int) -> set[int]:
    """Inodes of the process's open sockets."""
    found = set()
    for entry in os.scandir(f"/proc/{pid}/fd"):
        try:
            target = str(Path(entry.path).readlink())
        except FileNotFoundError:  # closed since
            continue
        if target.startswith("socket:["):
            found.add(int(target[8:-1]))
    return found


class Counts:
    """When to count. Not thread-safe."""

    def __init__(self, own_port: int) -> None:
        self._own_port = own_port
        self._next = 0.0
        self._nothing: tuple[int | None, Set[str]] | None = None  # for which there has been none
        self._since = self._counted = 0.0

    def due(self, pid: int | None, inside: Set[str]) -> tuple[bool, Mapping[str, int] | None]:
        """(whether it was counted this time, what). pid: Envoy's; None while none runs, which holds nothing.

        What was nothing stays nothing while the clusters are the same: Envoy connects to nobody outside them.
        """
        began = time.monotonic()
        if self._nothing == (pid, inside) and self._is_settled(began):
            return True, {}
        if began < self._next:
            return False, None
        found = count(pid, self._own_port, inside) if pid is not None else {}
        ended = time.monotonic()
        self._next = ended + max(SPACING_S, _COST * (ended - began))
        if found or found is None:
            self._nothing = None
        elif self._nothing != (pid, inside):
            self._nothing, self._since = (pid, inside), ended
        self._counted = ended
        return True, found

    def _is_settled(self, now: float) -> bool:
        return self._counted - self._since > _SETTLED_S and now < self._counted + _TRUSTED_S
