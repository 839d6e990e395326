"""Which TCP ports somebody else's process listens on: read from /proc where that is possible, tried where not.

Format of /proc/<pid>/net/tcp: https://www.kernel.org/doc/Documentation/networking/proc_net_tcp.txt
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from runtimes.contract import Listener

PROC = Path("/proc")
_LISTEN = "0A"
# The engine's own resolver listens there inside every container of a user-defined network.
_ENGINES_RESOLVER = "127.0.0.11"
# What model servers and web frameworks listen on by default.
COMMON_PORTS = (80, 3000, 5000, 7860, 8000, 8001, 8008, 8080, 8081, 8888, 9000, 11434)
TRY_S = 0.5


def of_container(pid: int, container_id: str, *, proc: Path = PROC) -> tuple[Listener, ...] | None:
    """The listeners in a container's network namespace; None unless this /proc shows that very container.

    pid   of its first process, as the engine numbers processes: an engine elsewhere counts otherwise
    """
    try:
        if container_id not in (proc / str(pid) / "cgroup").read_text():
            return None
        return tuple(_merged(row[:2] for row in _rows(proc / str(pid) / "net")))
    except OSError:
        return None


def of_group(group: int, *, proc: Path = PROC) -> tuple[Listener, ...] | None:
    """The listeners of a process group of this machine. Their loopback is ours, so none counts as such."""
    try:
        mine = {inode for pid in _members(group, proc) for inode in _sockets(proc / str(pid) / "fd")}
        found = [(port, False) for port, _own, inode in _rows(proc / "self" / "net") if inode in mine]
        return tuple(_merged(found))
    except OSError:
        return None


def by_trying(host: str, ports: Collection[int]) -> tuple[Listener, ...]:
    """Those of `ports` that take a connection, all tried at once, within TRY_S."""
    with ThreadPoolExecutor(len(ports) or 1) as pool:
        answers = pool.map(lambda port: _takes(host, port), ports)
        return tuple(_merged((port, False) for port, open_ in zip(ports, answers, strict=True) if open_))


def _takes(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=TRY_S).close()
    except OSError:
        return False
    return True


def _merged(found: Iterable[tuple[int, bool]]) -> Iterator[Listener]:
    """A port that is open to others too is not its own alone."""
    alone: dict[int, bool] = {}
    for port, own in found:
        alone[port] = own and alone.get(port, True)
    for port in sorted(alone):
        yield Listener(port, alone[port])


def _rows(folder: Path) -> Iterator[tuple[int, bool, int]]:
    """(port, whether it is bound to loopback, inode) of every listening socket."""
    for name in ("tcp", "tcp6"):
        try:
            lines = (folder / name).read_text().splitlines()[1:]
        except FileNotFoundError:
            continue  # a kernel without IPv6
        for line in lines:
            fields = line.split()
            if len(fields) < 10 or fields[3] != _LISTEN:
                continue
            host, _, port = fields[1].partition(":")
            address = _address(host)
            if str(address) != _ENGINES_RESOLVER:
                yield int(port, 16), address.is_loopback, int(fields[9])


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Words of 32 bits in the machine's byte order, as the kernel prints them."""
    words = [int(text[start : start + 8], 16) for start in range(0, len(text), 8)]
    packed = struct.pack(f"={len(words)}I", *words)
    if len(packed) == 4:
        return ipaddress.IPv4Address(packed)
    address = ipaddress.IPv6Address(packed)
    return address.ipv4_mapped or address


def _members(group: int, proc: Path) -> Iterator[int]:
    for folder in proc.iterdir():
        if folder.name.isdigit():
            text = _read(folder / "stat")
            # The name in brackets may hold anything; what follows it are state, parent, group.
            if text and int(text.rpartition(")")[2].split()[2]) == group:
                yield int(folder.name)


def _sockets(folder: Path) -> Iterator[int]:
    try:
        for link in folder.iterdir():
            target = _link(link)
            if target.startswith("socket:["):
                yield int(target[len("socket:[") : -1])
    except OSError:
        return  # it ended meanwhile


def _link(path: Path) -> str:
    try:
        return str(path.readlink())
    except OSError:
        return ""


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
