"""What replicas that are plain processes have used, from /proc: one look at all of the machine's processes.

Format: proc_pid_stat(5), proc_pid_status(5).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from runtimes.contract import Usage

PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class _Process:
    """ticks: its own CPU time, and that of those of its children that it has collected."""

    pid: int
    parent: int
    group: int
    ticks: int


def usage_of(groups: Mapping[str, int], *, proc: Path = PROC) -> dict[str, Usage]:
    """groups: replica → its process group, whose number is its first process's.

    To a replica belong the processes of its group and all that descend from them, in whatever group they are. CPU time
    of one that nobody collected is lost, so the sum may go down. What has no process any more is left out.
    """
    if not groups:
        return {}
    rows = list(_processes(proc))
    at, tick = time.monotonic(), os.sysconf("SC_CLK_TCK")
    owner = _owners(rows, {group: name for name, group in groups.items()})
    ticks: dict[str, int] = {}
    memory: dict[str, int] = {}
    for row in rows:
        if name := owner.get(row.pid):
            ticks[name] = ticks.get(name, 0) + row.ticks
            memory[name] = memory.get(name, 0) + _memory(proc / str(row.pid))
    return {name: Usage(count / tick, memory[name], at) for name, count in ticks.items()}


def _owners(rows: Iterable[_Process], groups: Mapping[int, str]) -> dict[int, str]:
    """Process → the replica that it is of."""
    parents = {row.pid: row for row in rows}
    found: dict[int, str] = {}
    for row in parents.values():
        line: list[int] = []
        here: _Process | None = row
        name = ""
        while here is not None and here.pid not in line and not name:
            line.append(here.pid)
            name = groups.get(here.group) or found.get(here.pid, "")
            here = parents.get(here.parent)
        if name:
            found.update(dict.fromkeys(line, name))
    return found


def _processes(proc: Path) -> Iterable[_Process]:
    try:
        names = [name for name in os.listdir(proc) if name.isdigit()]  # noqa: PTH208 - a thousand of them a round
    except OSError:
        return
    for name in names:
        try:
            text = (proc / name / "stat").read_bytes()
            # The name in brackets may hold anything; what follows it: state, parent, group, …
            parts = text[text.rindex(b")") + 2 :].split()
            yield _Process(int(name), int(parts[1]), int(parts[2]), sum(map(int, parts[11:15])))
        except (OSError, ValueError, IndexError):
            continue  # it ended meanwhile


def _memory(folder: Path) -> int:
    """What counts against a replica's limit too: see reaper.py. 0 if it has ended."""
    total = 0
    try:
        for line in (folder / "status").read_bytes().splitlines():
            if line.startswith((b"RssAnon:", b"RssShmem:")):
                total += int(line.split()[1]) * 1024
    except (OSError, ValueError):
        return 0
    return total
