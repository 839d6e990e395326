"""Who holds a lease, in its token, so that nobody waits for the expiry of a killed worker's.

A token names its holder: "<host>:<pid>:<start of the process>.<random>". Whoever finds it on the same host can tell
whether that process still lives.
"""

from __future__ import annotations

import hashlib
import os
import platform
import secrets
from functools import lru_cache
from pathlib import Path


def is_dead(token: str) -> bool:
    """Whether the process that made this token is certainly gone. False where that can't be known from here."""
    holder, _, _ = token.partition(".")
    where, _, process = holder.partition(":")
    pid, _, began = process.partition(":")
    if not where or where != host() or not pid.isdigit():
        return False
    start = _start_of(int(pid))
    return start is not None and start != began


def new_token() -> str:
    """At most 40 characters, as the column has."""
    where = host()
    if not where:
        return secrets.token_hex(16)
    pid = os.getpid()
    return f"{where}:{pid}:{_start_of(pid)}.{secrets.token_hex(5)}"


@lru_cache(maxsize=1)
def host() -> str:
    """This machine since its start, and the part of it whose process ids we see; "" where /proc doesn't say."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        seen = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""
    return hashlib.sha256(f"{platform.node()} {boot} {seen}".encode()).hexdigest()[:8]


def _start_of(pid: int) -> str | None:
    """When a process began, in the kernel's ticks since the machine's start; "" if there is none or it has ended, None
    if that is hidden from us."""
    try:
        # The second field, the program's name, may contain anything; what follows its last ")" is regular.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "" if _is_free(pid) else None
    state, began = fields[0], fields[19]
    return "" if state in "ZX" else began


def _is_free(pid: int) -> bool:
    """Whether no process has this number. /proc may hide those of other users."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False
