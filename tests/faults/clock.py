"""A wall clock that the whole platform believes in, and that jumps when we say so. The engine keeps the real one."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("clock.c")
FURTHEST_S = 900  # from the real time; tokens live twice as long


class Clock:
    """`env` makes a process follow it, and what that process starts."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "clock"
        self._library = folder / "clock.so"
        self.offset_s = 0
        self._write()
        compiler = shutil.which("cc") or shutil.which("gcc")
        assert compiler, "no C compiler: install gcc and libc6-dev"
        command = [compiler, "-O1", "-shared", "-fPIC", "-o", str(self._library), str(SOURCE), "-ldl"]
        subprocess.run(command, check=True, timeout=60)

    @property
    def env(self) -> dict[str, str]:
        """For the platform's processes."""
        return {"LD_PRELOAD": str(self._library), "FAULTS_CLOCK": str(self._file)}

    def jump(self, seconds: int) -> int:
        """Now; returns by how much. A jump that would lead too far from the real time goes the other way."""
        if abs(self.offset_s + seconds) > FURTHEST_S:
            seconds = -seconds
        self.offset_s += seconds
        self._write()
        return seconds

    def _write(self) -> None:
        # Eight bytes, in place: the processes have the file mapped.
        if not self._file.exists():
            self._file.write_bytes(struct.pack("q", 0))
        with self._file.open("r+b") as file:
            file.write(struct.pack("q", self.offset_s))
