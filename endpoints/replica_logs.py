"""The logs of replicas that ended, as files: written before the container goes, because its log goes with it.

BERTH_HOME/replica-logs/NAME.log: the last BERTH_REPLICA_LOG_BYTES of what it printed, made harmless (log_text),
readable for this user only. They go with the replica's record, and the oldest first when all of them together are
more than BERTH_REPLICA_LOGS_TOTAL_BYTES.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import time
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from django.conf import settings

from endpoints import log_tail
from endpoints.log_text import cleaned
from endpoints.models import Replica
from endpoints.models.replica import LIVE_STATES
from runtimes.contract import Runtime
from runtimes.errors import RuntimeFailure

log = logging.getLogger(__name__)

# A reconcile waits meanwhile: what takes longer is kept as its last lines only.
LIMIT_S = 5.0
SHORT_TAIL = 2000
# A file without a record may belong to a record that is just being written.
STRANGER_S = 3600.0
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,199}")
_BLOCK = 65536
_TAIL_BYTES = 4_000_000


def folder() -> Path:
    """Where they are."""
    return Path(settings.BERTH_HOME) / "replica-logs"


def path_of(name: str) -> Path:
    """Where this replica's log is, or would be. Raises ValueError for what is no replica's name."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no replica's name")
    return folder() / f"{name}.log"


def keep(runtime: Runtime, name: str) -> None:
    """Write down the log of a replica that has ended or is about to. Never fails, and takes LIMIT_S or little more.

    A container that is gone already, or one that printed nothing, leaves what was kept before.
    """
    try:
        _keep(runtime, path_of(name))
    except RuntimeFailure as failure:
        log.warning("the log of %s could not be kept: %s (%s)", name, failure.code, failure.evidence)
    except (OSError, ValueError) as error:
        log.warning("the log of %s could not be kept: %s", name, error)


def _keep(runtime: Runtime, path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f"{path.stem}.{secrets.token_hex(4)}.part")
    try:
        try:
            size = _write(draft, _within(runtime.whole_log(path.stem), LIMIT_S))
        except TimeoutError:
            log.warning("the log of %s takes too long to read: only its last lines are kept", path.stem)
            size = _write(draft, [runtime.logs(path.stem, tail=SHORT_TAIL).encode()])
        if size:
            _cut_to_end(draft, settings.BERTH_REPLICA_LOG_BYTES)
            draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _within(pieces: Iterable[bytes], seconds: float) -> Iterator[bytes]:
    deadline = time.monotonic() + seconds
    for piece in pieces:
        if time.monotonic() > deadline:
            raise TimeoutError
        yield piece


def _write(draft: Path, pieces: Iterable[bytes]) -> int:
    """Bytes written. What an engine keeps is bounded, so the draft is."""
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb", buffering=1 << 20) as file:
        for piece in cleaned(_blocks(pieces)):
            file.write(piece)
        return file.tell()


def _blocks(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Lines are many and small: together they are cleaned faster."""
    gathered: list[bytes] = []
    size = 0
    for piece in pieces:
        gathered.append(piece)
        size += len(piece)
        if size >= _BLOCK:
            yield b"".join(gathered)
            gathered, size = [], 0
    yield b"".join(gathered)


def _cut_to_end(path: Path, limit: int) -> None:
    """Leave the last `limit` bytes, from a line's beginning on."""
    size = path.stat().st_size
    if size <= limit:
        return
    with path.open("r+b") as file:
        file.seek(size - limit - 1)
        file.readline(limit)
        source = file.tell()
        target = 0
        while data := _at(file.fileno(), source):
            os.pwrite(file.fileno(), data, target)
            source, target = source + len(data), target + len(data)
        file.truncate(target)


def _at(descriptor: int, offset: int) -> bytes:
    return os.pread(descriptor, _BLOCK, offset)


def kept_file(name: str) -> Path | None:
    """The file of a replica's log, if there is one."""
    try:
        path = path_of(name)
    except ValueError:
        return None
    return path if path.is_file() else None


def last_lines(replica: Replica, count: int = log_tail.LINES) -> list[str]:
    """A replica's last lines, oldest first: of one that ended what was kept, or its evidence; else the live tail."""
    if replica.state not in LIVE_STATES:
        path = kept_file(replica.name)
        if path is not None:
            return _tail_of(path, count)
        evidence = str((replica.evidence or {}).get("logs") or "")
        if evidence:
            return evidence.splitlines()[-count:]
    return log_tail.tail(replica.name)[-count:]


def _tail_of(path: Path, count: int) -> list[str]:
    try:
        with path.open("rb") as file:
            skipped = max(0, path.stat().st_size - _TAIL_BYTES)
            file.seek(skipped)
            if skipped:
                file.readline()
            lines = deque(file, maxlen=count)
    except OSError as error:
        log.warning("the kept log %s could not be read: %s", path.name, error)
        return []
    texts = (line.decode(errors="replace").rstrip("\n") for line in lines)
    return [text[: log_tail.LINE_CHARACTERS] for text in texts]


def forget(names: Collection[str]) -> None:
    """Drop all that is kept of these replicas. Never fails."""
    log_tail.forget(names)
    for name in names:
        try:
            path_of(name).unlink(missing_ok=True)
        except (OSError, ValueError) as error:
            log.warning("the kept log of %s was not removed, the watcher does it later: %s", name, error)


def tidy() -> list[str]:
    """Remove files without a record, and the oldest ones when all together are too large; answers their names."""
    found = _present()
    known = set(Replica.objects.values_list("name", flat=True)) if found else set()
    now = time.time()
    doomed = [path for path, _, at in found if path.stem not in known and now - at > STRANGER_S]
    total = sum(size for path, size, _ in found if path not in doomed)
    for path, size, _ in sorted(found, key=lambda item: item[2]):
        if total <= settings.BERTH_REPLICA_LOGS_TOTAL_BYTES:
            break
        if path not in doomed:
            doomed.append(path)
            total -= size
    for path in doomed:
        path.unlink(missing_ok=True)
    return [path.name for path in doomed]


def _present() -> list[tuple[Path, int, float]]:
    """(path, bytes, when written) of every file, drafts of killed workers included."""
    found = []
    if folder().is_dir():
        for entry in os.scandir(folder()):
            facts = entry.stat(follow_symlinks=False)
            found.append((Path(entry.path), facts.st_size, facts.st_mtime))
    return found
