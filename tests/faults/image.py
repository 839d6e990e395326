"""The replicas' image: this machine's Python and the few modules that server.py imports, 15 MB in one layer."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

SERVER = Path(__file__).with_name("server.py")
_MODULES = """
import os, signal, socket, sys, threading, time, encodings.idna
for module in list(sys.modules.values()):
    if getattr(module, "__file__", None):
        print(module.__file__)
"""
_PYTHON = "usr/bin/python3"
CONFIG = {
    "Entrypoint": [f"/{_PYTHON}", "-I", "-S", "/server.py"],
    "Env": ["PYTHONHOME=/usr", "LD_LIBRARY_PATH=/lib64", "PYTHONDONTWRITEBYTECODE=1"],
    "User": "65532:65532",
}


def write_layer(archive: Path) -> None:
    """Write the image's root file system as a tar file."""
    interpreter = Path(getattr(sys, "_base_executable", None) or sys.executable).resolve()
    found = subprocess.run(
        [str(interpreter), "-I", "-S", "-c", _MODULES], capture_output=True, text=True, check=True
    )
    modules = sorted({Path(line) for line in found.stdout.split()})
    library = Path(os.__file__).resolve().parent
    with tarfile.open(archive, "w") as tar:
        _add(tar, interpreter, _PYTHON, 0o755)
        _add(tar, SERVER, "server.py", 0o644)
        for module in modules:
            _add(tar, module, f"usr/lib/{library.name}/{module.relative_to(library)}", 0o755)
        for name, file in _libraries([interpreter, *[one for one in modules if one.suffix == ".so"]]).items():
            _add(tar, file, name, 0o755)


def _add(tar: tarfile.TarFile, source: Path, target: str, mode: int) -> None:
    with source.open("rb") as file:
        info = tarfile.TarInfo(target)
        info.size, info.mode, info.mtime = source.stat().st_size, mode, int(source.stat().st_mtime)
        tar.addfile(info, file)


def _libraries(programs: list[Path]) -> dict[str, Path]:
    """Where the loader looks for it → the file."""
    said = subprocess.run(["ldd", *map(str, programs)], capture_output=True, text=True, check=True).stdout
    found: dict[str, Path] = {}
    for name, path in re.findall(r"^\s+(\S+) => (/\S+)", said, re.MULTILINE):
        found[f"lib64/{Path(name).name}"] = Path(path)
    for path in re.findall(r"^\s+(/\S+) \(0x", said, re.MULTILINE):
        found[path.lstrip("/")] = Path(path)
    return found
