"""What every runtime says of the CPU and memory that its replicas use, asked of each driver alike."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtimes import docker_usage
from runtimes.contract import ContainerSpec, GpuLoad, Usage
from runtimes.errors import RuntimeFailure
from tests.contract.drivers import DockerDriver, Driver, FakeDriver, ProcessDriver, exited, wait_for

SERVE = ("serve", "{{port}}")
DRIVERS = {"docker": DockerDriver, "process": ProcessDriver, "fake": FakeDriver}
REAL = [pytest.param("docker", marks=pytest.mark.engine), "process"]
MIB = 1024**2


@pytest.fixture(params=[*REAL, "fake"])
def driver(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Driver]:
    made = DRIVERS[request.param](tmp_path)
    try:
        yield made
    finally:
        made.close()


def started(driver: Driver, spec: ContainerSpec, word: str = "") -> str:
    """Its name, once it has said the word (a fake one says nothing)."""
    driver.runtime.start(spec)
    if word and driver.runtime.kind != "fake":
        wait_for(lambda: word in driver.runtime.logs(spec.name), f"{spec.name} to say {word!r}")
    return spec.name


def cores(first: Usage, second: Usage) -> float:
    return (second.cpu_seconds - first.cpu_seconds) / (second.at - first.at)


def test_a_busy_core_is_a_second_a_second_and_an_idle_replica_is_none(driver: Driver) -> None:
    busy = started(driver, driver.spec("busy", "burn", "1", cpus=1), "burning")
    idle = started(driver, driver.spec("idle", "deaf"), "deaf")
    first = driver.runtime.usage()
    time.sleep(1.5)  # what is measured is a rate over time
    second = driver.runtime.usage()
    assert set(first) == set(second) == {busy, idle}
    assert 1.4 < second[busy].at - first[busy].at < 10
    # Other tests may run on this machine at the same time; more than its core it can't get.
    assert 0.15 < cores(first[busy], second[busy]) < 1.15
    assert 0 <= cores(first[idle], second[idle]) < 0.1


def test_memory_that_is_held_shows(driver: Driver) -> None:
    small = started(driver, driver.spec("small", "hold", str(MIB)), "holding")
    large = started(driver, driver.spec("large", "hold", str(101 * MIB)), "holding")
    seen = driver.runtime.usage()
    assert 98 * MIB < seen[large].memory_bytes - seen[small].memory_bytes < 103 * MIB
    assert MIB <= seen[small].memory_bytes < 60 * MIB


def test_only_our_running_ones_and_only_the_ones_asked_for(driver: Driver) -> None:
    runtime = driver.runtime
    first, second, brief = driver.spec("a", *SERVE), driver.spec("b", *SERVE), driver.spec("c", "exit", "0")
    for spec in (first, second, brief):
        runtime.start(spec)
    exited(runtime, brief.name)
    assert set(runtime.usage()) == {first.name, second.name}
    assert set(runtime.usage([first.name, brief.name, "nobody"])) == {first.name}
    assert runtime.usage([]) == {}
    assert driver.another(foreign=True).usage() == {}
    assert set(driver.another().usage()) == {first.name, second.name}
    runtime.stop(first.name, grace_s=5)
    runtime.remove(second.name)
    assert runtime.usage() == {}


def test_a_new_one_of_the_same_name_begins_at_nothing(driver: Driver) -> None:
    spec = driver.spec("a", "burn", "1")
    started(driver, spec, "burning")
    wait_for(lambda: driver.runtime.usage()[spec.name].cpu_seconds > 0.7, "0.7 s of work")
    driver.runtime.remove(spec.name)
    started(driver, driver.spec("a", *SERVE), "")
    assert driver.runtime.usage()[spec.name].cpu_seconds < 0.7


def test_gpus_without_a_driver_are_none(driver: Driver) -> None:
    if driver.runtime.kind == "fake":
        assert isinstance(driver, FakeDriver)
        load = {"GPU-a": GpuLoad(40.0, 1, 2)}
        driver.engine.gpu_loads = load
        assert driver.runtime.gpu_load() == load
        driver.engine.gpu_loads = RuntimeFailure("the driver fails")
        with pytest.raises(RuntimeFailure, match="the driver fails"):
            driver.runtime.gpu_load()
        return
    known = driver.runtime.nodes()[0].gpus
    assert known is not None
    assert set(driver.runtime.gpu_load()) <= {gpu.uuid for gpu in known}


@pytest.mark.engine
def test_an_engine_whose_files_are_not_here_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = DockerDriver(tmp_path)
    try:
        names = [
            started(driver, driver.spec("small", "hold", str(MIB)), "holding"),
            started(driver, driver.spec("large", "hold", str(101 * MIB)), "holding"),
        ]
        here = driver.runtime.usage()
        monkeypatch.setattr(docker_usage, "is_local_socket", lambda url: False)
        asked = driver.another().usage()
        assert set(asked) == set(names)
        for name in names:
            assert asked[name].cpu_seconds == pytest.approx(here[name].cpu_seconds, abs=0.05)
            assert asked[name].memory_bytes == pytest.approx(here[name].memory_bytes, abs=4 * MIB)
            assert asked[name].at > here[name].at
    finally:
        driver.close()
