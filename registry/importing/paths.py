"""Finding and opening files under the models root, and nothing outside of it.

A path is resolved (links followed) and must then lie under the root. Between that check and the opening someone may
put a link in its place, so the opening walks the resolved path from the root, one component at a time, and follows
no link at all: what was checked is what is opened, or the opening fails.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from registry.errors import ImportFailure

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Non-blocking: opening a pipe that someone put there must not wait for a writer.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def locate(root: Path, text: str) -> Path:
    """The real path of what a user typed: relative to the root, or absolute and under it.

    Raises ImportFailure path_outside_root, path_missing, path_unreadable, path_not_a_file.
    """
    asked = Path(text.strip())
    params = {"path": text.strip(), "root": str(root)}
    real_root = root.resolve()
    if "\0" in text or not text.strip():
        raise ImportFailure("path_missing", **params)
    # Without touching the disk first: whether a path outside exists is nobody's business.
    lexical = Path(os.path.normpath(real_root / asked))
    if not (lexical.is_relative_to(real_root) or lexical.is_relative_to(root)):
        raise ImportFailure("path_outside_root", **params)
    try:
        real = (real_root / asked).resolve(strict=True)
        mode = real.stat().st_mode
    except FileNotFoundError as error:
        # A dangling link tells nothing about what is outside either.
        raise ImportFailure("path_missing", **params) from error
    except (OSError, RuntimeError) as error:
        raise ImportFailure("path_unreadable", path=text, error=_words(error)) from error
    if not real.is_relative_to(real_root):
        raise ImportFailure("path_outside_root", **params)
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise ImportFailure("path_not_a_file", path=text)
    return real


@contextmanager
def open_beneath(root: Path, real: Path) -> Iterator[int]:
    """A descriptor of the regular file `real` (as `locate` gave it). Raises ImportFailure."""
    parts = real.relative_to(root.resolve()).parts
    shown = "/".join(parts)
    directory = os.open(root.resolve(), _DIRECTORY)
    try:
        for part in parts[:-1]:
            inner = os.open(part, _DIRECTORY, dir_fd=directory)
            os.close(directory)
            directory = inner
        handle = os.open(parts[-1], _FILE, dir_fd=directory)
    except OSError as error:
        code = (
            "path_changed" if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENOENT) else "path_unreadable"
        )
        raise ImportFailure(code, path=shown, error=_words(error)) from error
    finally:
        os.close(directory)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise ImportFailure("path_not_a_file", path=shown)
        yield handle
    finally:
        os.close(handle)


def head_of(root: Path, real: Path, count: int) -> bytes:
    """The first `count` bytes of the file."""
    with open_beneath(root, real) as handle:
        return os.read(handle, count)


def list_models(root: Path, limit: int = 200) -> list[str]:
    """GGUF files under the root, relative to it, sorted: what the import page offers. Links out are not followed."""
    found: list[str] = []
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if name.lower().endswith(".gguf") and not name.startswith("."):
                found.append(str((Path(folder) / name).relative_to(root)))
                if len(found) >= limit:
                    return found
    return found


def _words(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or "a loop of links"
