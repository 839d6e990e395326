"""Keys that live in files beside the database, never in it: made at first use, readable by their owner alone."""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def read_or_create(path: Path, make: Callable[[], str] = lambda: secrets.token_urlsafe(48)) -> str:
    """The file's text; makes the file (mode 0600, its folder 0700) if it is missing.

    Several processes may start at once: the file is linked into place complete, and the first one wins.
    """
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        pass
    draft = _draft(path, make())
    try:
        os.link(draft, path)
    except FileExistsError:
        pass  # another process was first; its key counts
    finally:
        draft.unlink()
    _sync_folder(path)
    return path.read_text().strip()


def replace(path: Path, text: str) -> None:
    """Put `text` in the file's place, whole and for good: what is encrypted next must not outlive its key."""
    draft = _draft(path, text)
    draft.replace(path)
    _sync_folder(path)


def stamp(path: Path) -> tuple[int, ...]:
    """What differs as soon as the file is another one; () if there is none. Cheap enough to ask at every use."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return ()
    return found.st_ino, found.st_mtime_ns, found.st_size


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process at a time changes the keys of `folder`. Reading needs no lock: files only come and go whole."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _draft(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    return draft


def _sync_folder(path: Path) -> None:
    handle = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
