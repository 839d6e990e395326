"""This machine's NVIDIA GPUs, as its driver tells them through NVML. A machine without a driver has none.

NVML: https://docs.nvidia.com/deploy/nvml-api/ through the package `nvidia-ml-py` (module pynvml), which loads
libnvidia-ml.so.1 when it is first asked. Where that file is missing, nothing here says anything, and the package, 20 MB
of memory in every process that imports it, stays where it is.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtimes.contract import GpuFacts, GpuLoad
from runtimes.errors import RuntimeFailure

log = logging.getLogger(__name__)
_lock = threading.Lock()  # nvmlInit and nvmlShutdown count their calls, but not from several threads at once
_LIBRARY = "libnvidia-ml.so.1"

# What a product's name says beyond its model: makers, families, memory sizes, ways of mounting it.
_NOISE = re.compile(
    r"^(nvidia|geforce|quadro|tesla|graphics|gpu|\d+g[bi]?b?|hbm\w*|generation|pcie|sxm\d?|nvl|oem|laptop|max-q|mig|mobile)$"
)


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A program that computes on a GPU. pid: as the host numbers it."""

    gpu: str
    pid: int
    memory_bytes: int


def gpus() -> tuple[GpuFacts, ...]:
    """All GPUs, by index; () without a driver. Raises RuntimeFailure when the driver is there and fails: then nothing
    is known, which is not the same as none."""
    with _nvml() as nvml:
        if nvml is None:
            return ()
        return tuple(_facts(nvml, index) for index in range(nvml.nvmlDeviceGetCount()))


def processes() -> tuple[GpuProcess, ...]:
    """What computes on them now. Raises RuntimeFailure as `gpus` does."""
    found = []
    with _nvml() as nvml:
        for index in range(nvml.nvmlDeviceGetCount() if nvml else 0):
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            uuid = _text(nvml.nvmlDeviceGetUUID(handle))
            for item in nvml.nvmlDeviceGetComputeRunningProcesses(handle):
                # None where the driver does not tell (in some virtual machines)
                found.append(GpuProcess(uuid, int(item.pid), int(item.usedGpuMemory or 0)))
    return tuple(found)


def loads() -> dict[str, GpuLoad]:
    """How busy each is, by UUID; one that does not tell (cut into MIG slices) is left out. Raises as `gpus` does."""
    found = {}
    with _nvml() as nvml:
        for index in range(nvml.nvmlDeviceGetCount() if nvml else 0):
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            try:
                busy = nvml.nvmlDeviceGetUtilizationRates(handle).gpu
                memory = nvml.nvmlDeviceGetMemoryInfo(handle)
            except nvml.NVMLError as error:
                if error.value in (nvml.NVML_ERROR_NOT_SUPPORTED, nvml.NVML_ERROR_NO_PERMISSION):
                    continue
                raise
            uuid = _text(nvml.nvmlDeviceGetUUID(handle))
            found[uuid] = GpuLoad(float(busy), int(memory.used), int(memory.total))
    return found


def model_of(name: str) -> str:
    """A product's name as instance types write its model.

    "NVIDIA GeForce RTX 2080 Ti" → rtx2080ti, "NVIDIA H100 80GB HBM3" → h100, "NVIDIA A40" → a40,
    "NVIDIA A100-SXM4-40GB" → a100.
    """
    words = [word for word in re.split(r"[\s\-_/]+", name.lower()) if word and not _NOISE.match(word)]
    return re.sub(r"[^a-z0-9]", "", "".join(words)) or "gpu"


def _facts(nvml: Any, index: int) -> GpuFacts:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    name = _text(nvml.nvmlDeviceGetName(handle))
    return GpuFacts(
        uuid=_text(nvml.nvmlDeviceGetUUID(handle)),
        index=index,
        name=name,
        model=model_of(name),
        vram_bytes=int(nvml.nvmlDeviceGetMemoryInfo(handle).total),
    )


def _text(value: Any) -> str:
    """Older versions of the package answer bytes."""
    return value.decode() if isinstance(value, bytes) else str(value)


@contextlib.contextmanager
def _nvml() -> Iterator[Any]:
    """NVML for the length of the block, as the module pynvml; None where there is no driver. Opened anew each time: a
    driver that was installed, updated or reset since is seen."""
    if not _is_installed():
        yield None
        return
    import pynvml

    with _lock:
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            if error.value in (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED):
                yield None
                return
            raise RuntimeFailure(f"the NVIDIA driver does not answer: {error}") from error
        try:
            yield pynvml
        except pynvml.NVMLError as error:
            raise RuntimeFailure(f"the NVIDIA driver failed: {error}") from error
        finally:
            with contextlib.suppress(pynvml.NVMLError):
                pynvml.nvmlShutdown()


def _is_installed() -> bool:
    try:
        ctypes.CDLL(_LIBRARY)
    except OSError:
        return False
    return True


# -- whose process it is ----------------------------------------------------------------------------------------

_CONTAINER = re.compile(r"[0-9a-f]{64}")


def container_of(pid: int) -> str:
    """The id of the container that a process of this machine runs in, "" if in none or if it is gone."""
    try:
        found = _CONTAINER.findall(Path(f"/proc/{pid}/cgroup").read_text())
    except OSError:
        return ""
    return str(found[-1]) if found else ""


def program_of(pid: int) -> str:
    """A process's name, "" if it is gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""
