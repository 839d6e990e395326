"""Whether the ports we need are free, and if not, who has them. Checked before anything is started."""

from __future__ import annotations

import errno
import shutil
import socket
import subprocess
from pathlib import Path

LISTEN = "0A"  # the state column of /proc/net/tcp


class PortError(Exception):
    """A port cannot be used; the text is one line with the way out."""


def check(what: str, bind: str, port: int, variable: str) -> None:
    """Raise PortError unless `what` can listen on `bind:port`. `variable` is the setting that moves it."""
    family = socket.AF_INET6 if ":" in bind else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((bind, port))
        except OSError as error:
            raise PortError(_sentence(what, bind, port, variable, error)) from error


def _sentence(what: str, bind: str, port: int, variable: str, error: OSError) -> str:
    other = f"{variable}={port + 1 if port < 65535 else port - 1}"
    if error.errno == errno.EADDRINUSE:
        pid = holder(port)
        by = f" by {name_of(pid)} (pid {pid})" if pid else ""
        return (
            f"Port {port}, which the {what} needs, is taken{by}. Stop that, or choose another port: {other}"
        )
    if error.errno == errno.EACCES:
        return f"Port {port}, which the {what} needs, is not allowed for this user. Choose one above 1023: {variable}=…"
    return f"The {what} cannot listen on {bind}:{port} ({error.strerror}). Check BERTH_BIND and {variable}."


def holder(port: int) -> int | None:
    """The process that listens on the port, as far as this user may see it."""
    if not Path("/proc/net/tcp").exists():
        return _holder_by_lsof(port)
    inodes = _listening_inodes(port)
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and inodes & _sockets_of(folder):
            return int(folder.name)
    return None


def _listening_inodes(port: int) -> set[str]:
    found = set()
    for table in ("tcp", "tcp6"):
        try:
            rows = Path(f"/proc/net/{table}").read_text().splitlines()[1:]
        except OSError:
            continue
        for row in rows:
            columns = row.split()
            if columns[3] == LISTEN and int(columns[1].rpartition(":")[2], 16) == port:
                found.add(f"socket:[{columns[9]}]")
    return found


def _sockets_of(folder: Path) -> set[str]:
    found = set()
    try:
        for link in (folder / "fd").iterdir():
            try:
                found.add(str(link.readlink()))
            except OSError:
                continue  # closed meanwhile
    except OSError:
        pass  # another user's process, or gone
    return found


def _holder_by_lsof(port: int) -> int | None:
    if not shutil.which("lsof"):
        return None
    command = ["lsof", "-nP", "-t", f"-iTCP:{port}", "-sTCP:LISTEN"]
    found = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    return int(found[0]) if found else None


def name_of(pid: int) -> str:
    """A process's short name, or "another process"."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "another process"


def serves_home(pid: int, home: str) -> bool:
    """Whether this process was started by a Berth of that home (an Envoy that its next agent will adopt)."""
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False
    return f"BERTH_SUPERVISED={home}".encode() in environment
