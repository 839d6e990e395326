"""The small process that owns one replica of the process runtime: starts it, keeps its log, remembers its end.

Run as `python -I -S reaper.py FOLDER`, by `runtimes.process` only, with what to run in FOLDER/run.json. It leaves
the caller's session, so it outlives a worker's restart. It is the replica's parent, so it alone may signal it: a
process id cannot be given to somebody else before the parent has collected the dead child.

FOLDER/alive      locked for as long as this process lives: the kernel drops the lock however it ends
FOLDER/started.json, exit.json     written once each, by rename
FOLDER/log, log.1                  the replica's output, at most `log_bytes` each

Signals to this process: SIGTERM and SIGUSR1 end the replica, politely or at once.
Standard library only: -I and -S keep site-packages, the environment and this folder (it has a `select.py`) out.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

MEMORY_INTERVAL_S = 0.25
NOT_FOUND, NOT_EXECUTABLE = 127, 126
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(folder: Path) -> None:
    run = json.loads((folder / "run.json").read_text())
    ready = os.dup(1)  # the driver reads a byte from our standard output when the replica was started
    os.set_inheritable(ready, False)
    _leave(folder)
    lock = (folder / "alive").open("w")
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # not flock: readers ask the kernel who holds it
    except OSError:
        return  # another reaper of this replica was faster; our caller sees its marks
    log = _Log(folder / "log", run["log_bytes"])
    output, child_end = os.pipe()
    wakeups = _catch_signals()
    pid, error = _spawn(run, child_end)
    os.close(child_end)
    if error is not None:
        code = NOT_EXECUTABLE if isinstance(error, PermissionError) else NOT_FOUND
        _write(folder, "exit.json", {"code": code, "error": f"{error.strerror}: {error.filename}"})
        _tell(ready, b"!")
        return
    _write(folder, "started.json", {"pid": pid})
    _tell(ready, b".")
    oom = _watch(pid, output, wakeups, log, run["memory_bytes"])
    # What the replica left behind in its group dies with it, while the group's number is still its own.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    log.drain(output)
    code = 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
    _write(folder, "exit.json", {"code": code, "oom": oom})


def _tell(ready: int, word: bytes) -> None:
    """A worker that was killed meanwhile no longer listens; its successor reads the marks."""
    with contextlib.suppress(BrokenPipeError):
        os.write(ready, word)
    os.close(ready)


def _leave(folder: Path) -> None:
    """A session of our own, nobody's child, nobody's terminal."""
    if os.fork():
        os._exit(0)
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDWR)
    errors = os.open(folder / "reaper.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    os.dup2(errors, 2)
    os.chdir(folder)


def _catch_signals() -> int:
    """The reading end of a pipe that gets one byte a signal."""
    read, write = os.pipe()
    for end in (read, write):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    return read


def _spawn(run: dict[str, Any], output: int) -> tuple[int, OSError | None]:
    """(pid, None), or (0, why it could not be executed)."""
    report, failure = os.pipe()  # closed by a successful exec
    pid = os.fork()
    if pid:
        os.close(failure)
        with os.fdopen(report, "rb") as pipe:
            told = pipe.read()
        if not told:
            return pid, None
        os.waitpid(pid, 0)
        code, _, path = told.decode().partition(" ")
        return 0, OSError(int(code), os.strerror(int(code)), path)
    program = run["command"][0]
    try:
        os.setpgid(0, 0)
        _die_with_parent()
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGCHLD, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.execvpe(program, run["command"], run["environment"])  # noqa: S606 - no shell is wanted
    except OSError as error:
        os.write(failure, f"{error.errno} {program}".encode())
    os._exit(NOT_FOUND)


def _die_with_parent() -> None:
    """Where the kernel can (Linux): without us nobody would ever know of this replica."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _watch(pid: int, output: int, wakeups: int, log: _Log, memory_bytes: int) -> bool:
    """Until the replica has ended; True if it was ended for using more memory than it may."""
    oom, open_ends = False, [output, wakeups]
    while True:
        readable, _, _ = select.select(open_ends, [], [], MEMORY_INTERVAL_S if memory_bytes else 1.0)
        if output in readable and not log.copy(output):
            open_ends.remove(output)  # it closed its output, and may live on
        if wakeups in readable:
            for number in os.read(wakeups, 64):
                _forward(pid, number)
        if _has_ended(pid):
            return oom
        if memory_bytes and not oom and _memory_of(pid) > memory_bytes:
            oom = True
            _forward(pid, signal.SIGUSR1)


def _forward(pid: int, number: int) -> None:
    wanted = {signal.SIGTERM: signal.SIGTERM, signal.SIGUSR1: signal.SIGKILL}.get(signal.Signals(number))
    if wanted is not None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, wanted)


def _has_ended(pid: int) -> bool:
    """Without collecting it: until then its number is its own."""
    if sys.platform == "darwin":  # Python has no waitid there
        state = subprocess.run(["ps", "-o", "state=", "-p", str(pid)], capture_output=True, text=True).stdout
        return state.strip()[:1] in ("", "Z")
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _memory_of(pid: int) -> int:
    """Bytes that the kernel could not take back: what a cgroup would count in the end. 0 where there is no /proc.

    Weights mapped from their file are not in it, as the kernel may drop and read them again.
    """
    total = 0
    with contextlib.suppress(OSError, ValueError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(("RssAnon:", "RssShmem:")):
                total += int(line.split()[1]) * 1024
    return total


class _Log:
    """Two files in turn, so that the last `limit` bytes at least are always there."""

    def __init__(self, path: Path, limit: int) -> None:
        self._path, self._limit, self._size = path, limit, 0
        self._file = path.open("ab", buffering=0)

    def copy(self, source: int) -> bool:
        """Move what is there to the file; False at the end of the source."""
        data = os.read(source, 65536)
        if not data:
            return False
        if self._size + len(data) > self._limit:
            self._file.close()
            self._path.replace(self._path.with_suffix(".1"))
            self._file, self._size = self._path.open("ab", buffering=0), 0
        with contextlib.suppress(OSError):  # a full disk must not stop the replica
            self._file.write(data)
        self._size += len(data)
        return True

    def drain(self, source: int) -> None:
        """What the dead left in the pipe. A grandchild that escaped may hold it open: never wait."""
        os.set_blocking(source, False)
        with contextlib.suppress(BlockingIOError):
            while self.copy(source):
                pass


def _write(folder: Path, name: str, content: dict[str, Any]) -> None:
    draft = folder / f"{name}.part"
    draft.write_text(json.dumps({**content, "at": time.time()}))
    draft.replace(folder / name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
