"""What a container has used, read from the kernel's own files: a few microseconds, where the engine takes a second.

Version 1: https://docs.kernel.org/admin-guide/cgroup-v1/ (cpuacct, memory); version 2:
https://docs.kernel.org/admin-guide/cgroup-v2.html. A machine may mount both, and a controller is in one of them only.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from runtimes.contract import Usage

PROC = Path("/proc")
_V2 = ""  # version 2 has one hierarchy, of no name


@dataclass(frozen=True, slots=True)
class Files:
    """Where one container's figures stand, and how they are written.

    cpu, memory, stat   absolute paths
    cpu_key             the line of `cpu` that holds µs; "": the file is one number, of ns
    inactive_key        the line of `stat` with the bytes of file pages that the kernel may drop
    """

    cpu: str
    memory: str
    stat: str
    cpu_key: bytes
    inactive_key: bytes

    def read(self) -> Usage | None:
        """What they say now; None if the container is gone or the files say something else."""
        try:
            cpu, memory, stat = _content(self.cpu), int(_content(self.memory)), _content(self.stat)
            at = time.monotonic()
            seconds = _line(cpu, self.cpu_key) / 1e6 if self.cpu_key else int(cpu) / 1e9
            inactive = _line(stat, self.inactive_key)
        except (OSError, ValueError):
            return None
        # The two files are not of the same moment.
        return Usage(seconds, memory - inactive if inactive < memory else memory, at)


def files_of(pid: int, container_id: str, *, proc: Path = PROC) -> Files | None:
    """The files of a container; None unless this /proc shows that very container and its groups can be read here.

    pid   of its first process, as the engine numbers processes: an engine elsewhere counts otherwise
    """
    try:
        groups = dict(_groups((proc / str(pid) / "cgroup").read_text(), container_id))
        mounts = dict(_mounts((proc / "self" / "mountinfo").read_text()))
    except OSError:
        return None
    cpu, memory = (_folder(name, groups, mounts) for name in ("cpuacct", "memory"))
    found = _version_1(cpu, memory) if cpu and memory else _version_2(_folder(_V2, groups, mounts))
    return found if found and found.read() else None


def _version_1(cpu: str, memory: str) -> Files:
    return Files(
        f"{cpu}/cpuacct.usage",
        f"{memory}/memory.usage_in_bytes",
        f"{memory}/memory.stat",
        b"",
        b"total_inactive_file",
    )


def _version_2(folder: str) -> Files | None:
    if not folder:
        return None
    return Files(
        f"{folder}/cpu.stat",
        f"{folder}/memory.current",
        f"{folder}/memory.stat",
        b"usage_usec",
        b"inactive_file",
    )


def _groups(text: str, container_id: str) -> Iterator[tuple[str, str]]:
    """(controller, path) of a process. The path ends with the container's own group: a process in it may have been
    put into a smaller one."""
    for line in text.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        before, found, after = path.partition(container_id)
        if found:
            own = before + found + after.partition("/")[0]
            for name in controllers.split(","):
                yield name, own


def _mounts(text: str) -> Iterator[tuple[str, tuple[str, str]]]:
    """(controller, (root, mount point)) of every hierarchy that is mounted. proc_pid_mountinfo(5)."""
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.partition(" ")
        place = left.split(" ")
        if kind == "cgroup2":
            yield _V2, (place[3], place[4])
        elif kind == "cgroup":
            for name in options.rpartition(" ")[2].split(","):
                yield name, (place[3], place[4])


def _folder(name: str, groups: Mapping[str, str], mounts: Mapping[str, tuple[str, str]]) -> str:
    if name not in groups or name not in mounts:
        return ""
    root, point = mounts[name]
    return os.path.normpath(f"{point}/{os.path.relpath(groups[name], root)}")


def _content(path: str) -> bytes:
    """Without pathlib and its decoding: this is read a thousand times a round."""
    number = os.open(path, os.O_RDONLY)
    try:
        return os.read(number, 65536)
    finally:
        os.close(number)


def _line(text: bytes, key: bytes) -> int:
    """The number behind a key that begins a line."""
    _, found, rest = (b"\n" + text).partition(b"\n" + key + b" ")
    if not found:
        raise ValueError(f"no {key!r}")
    return int(rest.partition(b"\n")[0])
