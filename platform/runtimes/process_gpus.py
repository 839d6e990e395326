"""Which replicas that are plain processes compute on GPUs, and who else does."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from runtimes.contract import LOCAL_NODE, GpuUse
from runtimes.gpus import GpuProcess, program_of


def uses(
    given: Mapping[str, Iterable[str]], groups: Mapping[int, str], computing: Iterable[GpuProcess]
) -> list[GpuUse]:
    """given: replica → the GPUs it was started with; groups: process group → the replica that it is."""
    found = [GpuUse(LOCAL_NODE, gpu, True, name) for name, gpus in given.items() for gpu in gpus]
    for process in computing:
        name = groups.get(_group_of(process.pid), "")
        found.append(
            GpuUse(
                LOCAL_NODE,
                process.gpu,
                ours=bool(name),
                name=name or program_of(process.pid),
                pid=process.pid,
                memory_bytes=process.memory_bytes,
            )
        )
    return found


def _group_of(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except OSError:
        return 0
