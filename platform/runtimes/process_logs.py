"""A replica's output in the process runtime: two files that its reaper writes in turn, `log` and before it `log.1`."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from runtimes.contract import LOG_LINE_BYTES, LogLine

_POLL_S = 0.05
_READ_BYTES = 262_144
_MOST_UNREAD = 1_000_000  # who is further behind goes on with the tail
_BLOCK = 65536

# A place in the output: the file's inode, which moves with it when it becomes the older one, and an offset.
Place = tuple[int, int]


def whole(folder: Path) -> Iterator[bytes]:
    """Both files, oldest first, in pieces."""
    for path in _files(folder):
        with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
            while data := file.read(_BLOCK):
                yield data


def follow(folder: Path, *, tail: int, after: str, ended: Callable[[], bool]) -> Iterator[LogLine]:
    """See Runtime.follow_logs. `ended`: whether the replica will print no more."""
    place, gap = _start(folder, tail, after)
    pending = b""
    while True:
        over = ended()
        data, begun, lost = _read(folder, place)
        gap |= lost
        if lost:
            pending = b""
        inode, offset = begun
        place = (inode, offset + len(data))
        *lines, rest = (pending + data).split(b"\n")
        offset -= len(pending)
        for line in lines:
            offset += len(line) + 1
            yield _line(line, inode, offset, gap=gap)
            gap = False
        pending = rest[:LOG_LINE_BYTES] if len(rest) > _MOST_UNREAD else rest
        if not data:
            if over:
                break
            time.sleep(_POLL_S)
    if pending:
        yield _line(pending, *place, gap=gap)


def _line(text: bytes, inode: int, offset: int, *, gap: bool) -> LogLine:
    return LogLine(text[:LOG_LINE_BYTES].decode(errors="replace"), mark=f"{inode}:{max(offset, 0)}", gap=gap)


def _files(folder: Path) -> tuple[Path, Path]:
    return folder / "log.1", folder / "log"


def _sizes(folder: Path) -> dict[int, tuple[Path, int]]:
    """inode → its path and size, the older file first. Two looks agree unless a file was begun in between."""
    found: dict[int, tuple[Path, int]] = {}
    for path in _files(folder):
        with contextlib.suppress(FileNotFoundError):
            facts = path.stat()
            found[facts.st_ino] = (path, facts.st_size)
    return found


def _start(folder: Path, tail: int, after: str) -> tuple[Place, bool]:
    """Where to begin, and whether lines are missing before that."""
    sizes = _sizes(folder)
    if after:
        inode, offset = _parsed(after)
        unread, behind = 0, False
        for number, (_path, size) in sizes.items():
            if behind or number == inode:
                unread += size - (0 if behind else offset)
                behind = True
        if behind and 0 <= unread <= _MOST_UNREAD:
            return (inode, offset), False
    return _tail_place(sizes, tail), bool(after)


def _parsed(mark: str) -> Place:
    inode, _, offset = mark.partition(":")
    return (int(inode), int(offset)) if inode.isdigit() and offset.isdigit() else (0, 0)


def _tail_place(sizes: dict[int, tuple[Path, int]], tail: int) -> Place:
    """Before the last `tail` lines of both files."""
    place = (0, 0)
    wanted = tail
    for inode, (path, size) in reversed(sizes.items()):
        if place == (0, 0):
            place = (inode, size)
            # The newline at the very end closes the last line, it does not begin another.
            wanted += bool(size) and _bytes_of(path, inode, size - 1) == b"\n"
        if tail <= 0:
            break
        position, wanted = _back(path, size, wanted)
        if position < size:
            place = (inode, position)
        if wanted == 0:
            break
    return place


def _back(path: Path, size: int, wanted: int) -> tuple[int, int]:
    """(offset behind the newline that is `wanted`th from the end of the file's first `size` bytes, 0), or
    (0, how many are missing)."""
    position = size
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        while position > 0:
            step = min(_BLOCK, position)
            position -= step
            file.seek(position)
            block = file.read(step)
            upto = len(block)
            while (upto := block.rfind(b"\n", 0, upto)) >= 0:
                wanted -= 1
                if wanted == 0:
                    return position + upto + 1, 0
    return 0, wanted


def _read(folder: Path, place: Place) -> tuple[bytes, Place, bool]:
    """(what comes next, where it begins, whether something before it was lost)."""
    inode, offset = place
    sizes = _sizes(folder)
    lost = bool(inode) and inode not in sizes
    if inode not in sizes:
        if not sizes:
            return b"", place, False
        inode, offset = next(iter(sizes)), 0
    data = _bytes_of(sizes[inode][0], inode, offset)
    newest = next(reversed(sizes))
    if not data and inode != newest:
        inode, offset = newest, 0
        data = _bytes_of(sizes[inode][0], inode, 0)
    return data or b"", (inode, offset), lost


def _bytes_of(path: Path, inode: int, offset: int) -> bytes:
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        if os.fstat(file.fileno()).st_ino == inode:
            file.seek(offset)
            return file.read(_READ_BYTES)
    return b""
