"""A replica's output in the process runtime: two files that its reaper writes in turn, `log` and before it `log.1`."""

from __future__ import annotations

import contextlib
import os
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from runtimes.contract import LOG_LINE_BYTES, LogLine

_POLL_S = 0.05
_READ_BYTES = 262_144
_MOST_UNREAD = 1_000_000  # who is further behind goes on with the tail
_BLOCK = 65536

_HEAD_BYTES = 64


@dataclass(frozen=True, slots=True)
class Place:
    """A place in the output: the file's inode, which moves with it when it becomes the older one, and an offset.

    head   the file's first bytes, none that come after this place: a file that was dropped leaves its inode to a
           new one
    """

    inode: int
    offset: int
    head: bytes = b""

    def after(self, data: bytes) -> Place:
        """Behind `data`, which was read here."""
        head = (self.head + data)[:_HEAD_BYTES] if self.offset < _HEAD_BYTES else self.head
        return Place(self.inode, self.offset + len(data), head)

    def mark(self) -> str:
        """For LogLine.mark."""
        return f"{self.inode}:{self.offset}:{zlib.crc32(self.head)}"


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
        data, place, lost = _read(folder, place)
        gap |= lost
        if lost:
            pending = b""
        *lines, rest = data.split(b"\n")
        for line in lines:
            place = place.after(line + b"\n")
            yield _line(pending + line, place, gap=gap)
            pending, gap = b"", False
        place = place.after(rest)
        pending += rest if len(pending) < LOG_LINE_BYTES else b""
        if not data:
            if over:
                break
            time.sleep(_POLL_S)
    if pending:
        yield _line(pending, place, gap=gap)


def _line(text: bytes, place: Place, *, gap: bool) -> LogLine:
    return LogLine(text[:LOG_LINE_BYTES].decode(errors="replace"), mark=place.mark(), gap=gap)


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
    place = _place_of(after, sizes) if after else None
    if place is not None:
        unread, behind = -place.offset, False
        for inode, (_path, size) in sizes.items():
            behind |= inode == place.inode
            unread += size if behind else 0
        if 0 <= unread <= _MOST_UNREAD:
            return place, False
    return _tail_place(sizes, tail), bool(after)


def _place_of(mark: str, sizes: dict[int, tuple[Path, int]]) -> Place | None:
    """None if it is no longer there."""
    parts = mark.split(":")
    if len(parts) != 3 or not all(part.isdigit() for part in parts):
        return None
    inode, offset, crc = map(int, parts)
    place = _place_at(sizes, inode, offset)
    return place if place is not None and zlib.crc32(place.head) == crc else None


def _place_at(sizes: dict[int, tuple[Path, int]], inode: int, offset: int) -> Place | None:
    """With the head as the file has it; None if there is no such file or it ends before."""
    if inode not in sizes or sizes[inode][1] < offset:
        return None
    return Place(inode, offset, _bytes_of(sizes[inode][0], inode, 0, min(offset, _HEAD_BYTES)))


def _tail_place(sizes: dict[int, tuple[Path, int]], tail: int) -> Place:
    """Before the last `tail` lines of both files."""
    place = Place(0, 0)
    wanted = tail
    for inode, (path, size) in reversed(sizes.items()):
        if not place.inode:
            place = Place(inode, size)
            # The newline at the very end closes the last line, it does not begin another.
            wanted += bool(size) and _bytes_of(path, inode, size - 1, 1) == b"\n"
        if tail <= 0:
            break
        position, wanted = _back(path, size, wanted)
        if position < size:
            place = Place(inode, position)
        if wanted == 0:
            break
    return _place_at(sizes, place.inode, place.offset) or place


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
    sizes = _sizes(folder)
    if not sizes:
        return b"", place, False
    lost = False
    data = None
    if place.inode in sizes:
        data = _next_bytes(sizes[place.inode][0], place)
    if data is None:  # dropped meanwhile; another file may have got its inode
        lost = bool(place.inode)
        place = Place(next(iter(sizes)), 0)
        data = _next_bytes(sizes[place.inode][0], place)
    newest = next(reversed(sizes))
    if not data and place.inode != newest:
        place = Place(newest, 0)
        data = _next_bytes(sizes[newest][0], place)
    return data or b"", place, lost


def _next_bytes(path: Path, place: Place) -> bytes | None:
    """What follows the place; None if the file is no longer what it was."""
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        same = os.fstat(file.fileno()).st_ino == place.inode and file.read(len(place.head)) == place.head
        if same:
            file.seek(place.offset)
            return file.read(_READ_BYTES)
    return None


def _bytes_of(path: Path, inode: int, offset: int, most: int) -> bytes:
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        if os.fstat(file.fileno()).st_ino == inode:
            file.seek(offset)
            return file.read(most)
    return b""
