"""GPUs as the driver and the engine tell of them; a machine without either."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from runtimes import gpus, process_gpus
from runtimes.contract import ALL_GPUS, GpuFacts, GpuLoad, GpuUse
from runtimes.docker_gpus import gpus_given, uses
from runtimes.errors import RuntimeFailure
from runtimes.gpus import GpuProcess, container_of, model_of, program_of


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("NVIDIA GeForce RTX 2080 Ti", "rtx2080ti"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100"),
        ("NVIDIA H100 NVL", "h100"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA A40", "a40"),
        ("NVIDIA A100-SXM4-40GB", "a100"),
        ("NVIDIA A100 80GB PCIe", "a100"),
        ("Tesla V100-SXM2-16GB", "v100"),
        ("Tesla T4", "t4"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA RTX 6000 Ada Generation", "rtx6000ada"),
        ("Quadro RTX 8000", "rtx8000"),
        ("NVIDIA", "gpu"),
    ],
)
def test_a_products_name_as_instance_types_write_it(name: str, model: str) -> None:
    assert model_of(name) == model


class Driver:
    """NVML as a machine with these GPUs would answer: what we can't have here, and nothing else."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *cards: dict[str, Any]) -> None:
        self.open = 0
        self.fails: int | None = None
        monkeypatch.setattr(gpus, "_is_installed", lambda: True)
        for name, answer in {
            "nvmlInit": self.init,
            "nvmlShutdown": self.shutdown,
            "nvmlDeviceGetCount": lambda: len(cards),
            "nvmlDeviceGetHandleByIndex": lambda index: cards[index],
            "nvmlDeviceGetUUID": lambda card: card["uuid"],
            "nvmlDeviceGetName": lambda card: card["name"],
            "nvmlDeviceGetMemoryInfo": lambda card: SimpleNamespace(
                total=card["memory"], used=card.get("used")
            ),
            "nvmlDeviceGetUtilizationRates": self.busy,
            "nvmlDeviceGetComputeRunningProcesses": lambda card: card.get("processes", []),
        }.items():
            monkeypatch.setattr(pynvml, name, self.answering(answer))

    def answering(self, answer: Any) -> Any:
        def call(*arguments: Any) -> Any:
            if self.fails is not None and answer not in (self.init, self.shutdown):
                raise pynvml.NVMLError(self.fails)
            return answer(*arguments)

        return call

    @staticmethod
    def busy(card: dict[str, Any]) -> Any:
        if "busy" not in card:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return SimpleNamespace(gpu=card["busy"], memory=1)

    def init(self) -> None:
        self.open += 1

    def shutdown(self) -> None:
        self.open -= 1


def test_gpus_and_who_computes_on_them(monkeypatch: pytest.MonkeyPatch) -> None:
    running = [SimpleNamespace(pid=11, usedGpuMemory=5), SimpleNamespace(pid=12, usedGpuMemory=None)]
    driver = Driver(
        monkeypatch,
        {"uuid": b"GPU-a", "name": b"NVIDIA A40", "memory": 46},
        {"uuid": "GPU-b", "name": "NVIDIA H100 PCIe", "memory": 80, "processes": running},
    )
    assert gpus.gpus() == (
        GpuFacts("GPU-a", 0, "NVIDIA A40", "a40", 46),
        GpuFacts("GPU-b", 1, "NVIDIA H100 PCIe", "h100", 80),
    )
    assert gpus.processes() == (GpuProcess("GPU-b", 11, 5), GpuProcess("GPU-b", 12, 0))
    assert driver.open == 0


def test_how_busy_they_are_and_one_in_slices_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver(
        monkeypatch,
        {"uuid": b"GPU-a", "name": "NVIDIA A40", "memory": 46, "used": 12, "busy": 37},
        {"uuid": "GPU-mig", "name": "NVIDIA H100 PCIe", "memory": 80, "used": 1},
    )
    assert gpus.loads() == {"GPU-a": GpuLoad(37.0, 12, 46)}
    driver.fails = pynvml.NVML_ERROR_GPU_IS_LOST
    with pytest.raises(RuntimeFailure, match=r"driver failed"):
        gpus.loads()
    assert driver.open == 0


def test_a_driver_that_fails_is_not_taken_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver(monkeypatch, {"uuid": "GPU-a", "name": "NVIDIA A40", "memory": 46})
    driver.fails = pynvml.NVML_ERROR_GPU_IS_LOST
    for call in (gpus.gpus, gpus.processes):
        with pytest.raises(RuntimeFailure, match=r"driver failed"):
            call()
    assert driver.open == 0


@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED])
def test_a_machine_without_a_driver_has_none_and_says_nothing(
    code: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def absent() -> None:
        raise pynvml.NVMLError(code)

    monkeypatch.setattr(gpus, "_is_installed", lambda: True)
    monkeypatch.setattr(pynvml, "nvmlInit", absent)
    assert gpus.gpus() == ()
    assert gpus.processes() == ()
    assert gpus.loads() == {}
    assert not caplog.records


def test_without_the_driver_s_library_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver(monkeypatch, {"uuid": "GPU-a", "name": "NVIDIA A40", "memory": 46})
    monkeypatch.undo()
    monkeypatch.setattr(gpus, "_LIBRARY", "libnvidia-ml-that-is-nowhere.so.1")
    assert (gpus.gpus(), gpus.processes(), gpus.loads()) == ((), (), {})
    monkeypatch.setattr(gpus, "_LIBRARY", "libc.so.6")
    assert gpus._is_installed(), "what is there is found"
    assert driver.open == 0


def test_a_driver_that_does_not_open_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH)

    monkeypatch.setattr(gpus, "_is_installed", lambda: True)
    monkeypatch.setattr(pynvml, "nvmlInit", broken)
    with pytest.raises(RuntimeFailure, match="does not answer"):
        gpus.gpus()


def container(name: str, owner: str = "", host: dict[str, Any] | None = None, *env: str) -> dict[str, Any]:
    labels = {"berth.owner": owner} if owner else {}
    return {
        "Id": f"id-{name}",
        "Name": f"/{name}",
        "Config": {"Labels": labels, "Env": list(env)},
        "HostConfig": host or {},
    }


def request(*ids: str, count: int = 0) -> dict[str, Any]:
    return {
        "DeviceRequests": [
            {"Driver": "", "Count": count, "DeviceIDs": list(ids) or None, "Capabilities": [["gpu"]]}
        ]
    }


@pytest.mark.parametrize(
    ("facts", "given"),
    [
        (container("a"), ()),
        (container("a", "", request("GPU-a", "GPU-b")), ("GPU-a", "GPU-b")),
        (container("a", "", request(count=-1)), (ALL_GPUS,)),
        (container("a", "", request(count=2)), ("0", "1")),
        (container("a", "", {"Runtime": "nvidia"}, "NVIDIA_VISIBLE_DEVICES=all"), (ALL_GPUS,)),
        (container("a", "", {"Runtime": "nvidia"}, "NVIDIA_VISIBLE_DEVICES=0,GPU-b"), ("0", "GPU-b")),
        (container("a", "", {"Runtime": "nvidia"}, "NVIDIA_VISIBLE_DEVICES=void"), ()),
        (container("a", "", {"Runtime": "runc"}, "NVIDIA_VISIBLE_DEVICES=all"), ()),
        (container("a", "", {"DeviceRequests": [{"Capabilities": [["tpu"]], "DeviceIDs": ["1"]}]}), ()),
    ],
)
def test_what_a_container_was_given(facts: dict[str, Any], given: tuple[str, ...]) -> None:
    assert gpus_given(facts) == given


def test_a_process_in_a_container_is_the_containers() -> None:
    rows = [container("mine", "me", request("GPU-a")), container("theirs", "them", request(count=-1))]
    inside = {11: "id-mine", 12: "id-theirs", 13: "id-unknown", 14: ""}
    found = uses(
        rows,
        [GpuProcess("GPU-a", pid, 5) for pid in inside],
        "me",
        container_of=lambda pid: inside[pid],
        program_of=lambda pid: f"program {pid}",
    )
    assert found == [
        GpuUse("local", "GPU-a", True, "mine"),
        GpuUse("local", ALL_GPUS, False, "theirs"),
        GpuUse("local", "GPU-a", True, "mine", 11, 5),
        GpuUse("local", "GPU-a", False, "theirs", 12, 5),
        GpuUse("local", "GPU-a", False, "program 13", 13, 5),
        GpuUse("local", "GPU-a", False, "program 14", 14, 5),
    ]


def test_a_process_of_a_replicas_group_is_the_replicas() -> None:
    found = process_gpus.uses(
        {"r1": ["GPU-a"]},
        {os.getpgid(0): "r1"},
        [GpuProcess("GPU-a", os.getpid(), 7), GpuProcess("GPU-a", 1, 9)],
    )
    assert found == [
        GpuUse("local", "GPU-a", True, "r1"),
        GpuUse("local", "GPU-a", True, "r1", os.getpid(), 7),
        GpuUse("local", "GPU-a", False, program_of(1), 1, 9),
    ]


def test_what_is_gone_has_no_name() -> None:
    assert (program_of(2**22 + 1), container_of(2**22 + 1)) == ("", "")
