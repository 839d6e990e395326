"""The folder that holds all state: who uses it now, and what a start that was killed has left behind."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import stat
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path


class HomeError(Exception):
    """The home cannot be used; the text says why and what to do."""


def prepare(home: Path, run_dir: Path) -> None:
    """Make the folders, all for their owner alone. The run folder may stand in a shared /tmp: trust only our own."""
    try:
        for folder in (home, home / "keys", home / "log", home / "models", home / "weights"):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        home.chmod(0o700)  # it may have been made by whoever first wrote a key into it
        run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = run_dir.lstat()
    except OSError as error:
        raise HomeError(
            f"{error.filename}: {error.strerror}. Set BERTH_HOME to a folder you can write to."
        ) from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise HomeError(
            f"{run_dir} belongs to somebody else or is open to others. Remove it and start again."
        )


def take_lock(run_dir: Path, console_url: str) -> int:
    """Claim the home until this process, and what it becomes by exec, has ended. Returns the open file.

    The lock is the kernel's: it cannot be left behind. Raises HomeError naming who holds it.
    """
    path = run_dir / "up.lock"
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        raise HomeError(f"Berth is already running from this folder{_holder(path)}.") from error
    os.ftruncate(handle, 0)
    os.write(handle, json.dumps({"pid": os.getpid(), "console": console_url}).encode())
    os.set_inheritable(handle, True)
    return handle


def _holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_text())
        return f" (pid {holder['pid']}, console {holder['console']})"
    except (OSError, ValueError, KeyError):
        return ""


def started_at(pid: int) -> str:
    """When the kernel started this process (clock ticks since boot, /proc/PID/stat field 22), "" if it is gone.

    A pid alone may have been given to another process since. Where there is no /proc, "" as well.
    """
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, IndexError):
        return ""
    return "" if after_name[0] == "Z" else after_name[19]


def record(run_dir: Path, pids: Mapping[str, int]) -> None:
    """Remember which processes run, for a next start that must clean up after a kill -9."""
    draft = run_dir / "processes.json.new"
    draft.write_text(json.dumps({name: [pid, started_at(pid)] for name, pid in pids.items() if pid}))
    draft.replace(run_dir / "processes.json")


def stop_leftovers(run_dir: Path, wait_s: float = 6.0) -> list[str]:
    """End processes of a start that was killed; call it with the lock held. Returns their names."""
    try:
        known = json.loads((run_dir / "processes.json").read_text())
    except (OSError, ValueError):
        return []
    left = {name: (pid, since) for name, (pid, since) in known.items() if since and started_at(pid) == since}
    for pid, _ in left.values():
        _signal(pid, signal.SIGTERM)
    deadline = time.monotonic() + wait_s
    while time.monotonic() < deadline and any(started_at(pid) == since for pid, since in left.values()):
        time.sleep(0.05)
    for pid, since in left.values():
        if started_at(pid) == since:
            _signal(pid, signal.SIGKILL)
    (run_dir / "processes.json").unlink(missing_ok=True)
    return sorted(left)


def _signal(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):  # it ended by itself meanwhile
        os.kill(pid, number)
