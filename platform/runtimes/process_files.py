"""What the process runtime reads from its folders and from the machine. Functions only; no state."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import struct
import sys
from collections.abc import Generator, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from runtimes.contract import HOST_PLACEHOLDER, PORT_PLACEHOLDER, ContainerSpec, ContainerState, Observation
from runtimes.errors import InvalidSpec, NoSpace, RuntimeFailure, RuntimeNotPermitted, RuntimeUnreachable

HOST = "127.0.0.1"
_BLOCK = 65536
# struct flock: fcntl(2). Start, length and owner's pid stand before the type on macOS, after it on Linux.
_FLOCK = "qqihh" if sys.platform == "darwin" else "hhqqi"


@contextlib.contextmanager
def translated() -> Generator[None, None, None]:
    """Every error of the file system leaves as a `RuntimeFailure`."""
    try:
        yield
    except PermissionError as error:
        raise RuntimeNotPermitted(_words(error)) from error
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise (NoSpace if full else RuntimeUnreachable)(_words(error)) from error
    except json.JSONDecodeError as error:
        raise RuntimeFailure(f"a state file is damaged: {error}") from error


def _words(error: OSError) -> str:
    return f"{error.filename}: {error.strerror}" if error.filename else str(error)


def read_json(path: Path) -> dict[str, Any] | None:
    """None if there is no such file. Files are written by rename, so there is never half of one."""
    try:
        return dict(json.loads(path.read_text()))
    except FileNotFoundError:
        return None


def lock_holder(folder: Path) -> int | None:
    """Number of the living reaper of a replica's folder, as the kernel knows the lock on its file."""
    try:
        with (folder / "alive").open("rb") as file:
            answer = fcntl.fcntl(file, fcntl.F_GETLK, _flock(fcntl.F_WRLCK))
    except FileNotFoundError:
        return None
    values = struct.unpack(_FLOCK, answer)
    kind, pid = (values[3], values[2]) if sys.platform == "darwin" else (values[0], values[4])
    return None if kind == fcntl.F_UNLCK else pid


def _flock(kind: int) -> bytes:
    if sys.platform == "darwin":
        return struct.pack(_FLOCK, 0, 0, 0, kind, os.SEEK_SET)
    return struct.pack(_FLOCK, kind, os.SEEK_SET, 0, 0, 0)


def localise(text: str, spec: ContainerSpec, port: int) -> str:
    """A container's view of itself as this machine's: placeholders filled, mounted paths at their source.

    Paths count where they begin an argument or follow its "=".
    """
    text = text.replace(PORT_PLACEHOLDER, str(port)).replace(HOST_PLACEHOLDER, HOST)
    option, sign, value = text.partition("=")
    if sign and option.startswith("-"):
        return option + sign + _at_source(value, spec)
    return _at_source(text, spec)


def _at_source(text: str, spec: ContainerSpec) -> str:
    for mount in sorted(spec.mounts, key=lambda mount: len(mount.target), reverse=True):
        target = mount.target.rstrip("/")
        if text == target or text.startswith(target + "/"):
            return mount.source.rstrip("/") + text[len(target) :]
    return text


def checked_mounts(spec: ContainerSpec) -> None:
    """As an engine does: a mount's source must be there. Raises InvalidSpec."""
    for mount in spec.mounts:
        if not Path(mount.source).exists():
            raise InvalidSpec(f"the mounted path {mount.source} does not exist")


def can_bind(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def tail_of(log: Path, lines: int, *, end: int | None = None) -> str:
    """The last lines of a log and of the file before it; of the log only what stands before byte `end`."""
    text = b""
    for path, limit in ((log, end), (log.with_suffix(".1"), None)):
        if text.count(b"\n") > lines:
            break
        with contextlib.suppress(FileNotFoundError):
            text = _last_bytes(path, limit, lines + 1) + text
    kept = text.splitlines(keepends=True)[-lines:] if lines > 0 else []
    return b"".join(kept).decode(errors="replace")


def _last_bytes(path: Path, end: int | None, newlines: int) -> bytes:
    """Whole blocks from the file's end, until they hold so many newlines."""
    with path.open("rb") as file:
        position = file.seek(0, os.SEEK_END) if end is None else end
        found = b""
        while position > 0 and found.count(b"\n") < newlines:
            size = min(_BLOCK, position)
            position -= size
            file.seek(position)
            found = file.read(size) + found
    return found


def changes(
    before: Mapping[str, Observation], after: Mapping[str, Observation]
) -> Iterator[tuple[str, Observation]]:
    """(event's kind, replica) for what happened between two looks."""
    for name, item in after.items():
        old = before.get(name)
        new_life = old is None or old.runtime_id != item.runtime_id
        if item.started_at and (new_life or (old is not None and old.started_at is None)):
            yield "start", item
        ended = item.state is ContainerState.EXITED
        if ended and (new_life or (old is not None and old.state is not ContainerState.EXITED)):
            if item.oom_killed:
                yield "oom", item
            yield "die", item
    for name, item in before.items():
        if name not in after or after[name].runtime_id != item.runtime_id:
            yield "destroy", item


def moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def machine_memory() -> int:
    """Bytes of RAM; 0 where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return 0
