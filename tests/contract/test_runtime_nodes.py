"""What every runtime says of its machines and of who is on their GPUs, asked of each driver alike."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from runtimes.contract import ContainerSpec, ContainerState, GpuUse
from runtimes.docker import DockerRuntime
from runtimes.errors import GpuUnavailable, RuntimeUnreachable
from tests.contract.drivers import DockerDriver, Driver, FakeDriver, ProcessDriver, wait_for
from tests.support import require

SERVE = ("serve", "{{port}}")
DRIVERS = {"docker": DockerDriver, "process": ProcessDriver, "fake": FakeDriver}


@pytest.fixture(params=[pytest.param("docker", marks=pytest.mark.engine), "process", "fake"])
def driver(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Driver]:
    made = DRIVERS[request.param](tmp_path)
    try:
        yield made
    finally:
        made.close()


def started(driver: Driver, spec: ContainerSpec) -> ContainerSpec:
    try:
        driver.runtime.start(spec)
    except GpuUnavailable as failure:
        require("an NVIDIA hook, or a stand-in for it", False, failure.evidence)
    return spec


def test_a_replica_runs_on_a_node_that_was_named(driver: Driver) -> None:
    info, nodes = driver.runtime.info(), driver.runtime.nodes()
    assert len({node.name for node in nodes}) == len(nodes) >= 1
    assert sum(node.cpus for node in nodes) == info.cpus > 0
    assert sum(node.memory_bytes for node in nodes) == info.memory_bytes > 0
    spec = started(driver, driver.spec("a", *SERVE, node=nodes[0].name))
    seen = driver.runtime.observe(spec.name)
    assert seen is not None
    assert seen.state is ContainerState.RUNNING


def test_who_was_given_a_gpu_is_on_it_until_it_ends(driver: Driver) -> None:
    (node, *_rest) = driver.runtime.nodes()
    assert not _mine(driver, "a")
    spec = started(driver, driver.spec("a", *SERVE, node=node.name, gpu_ids=("GPU-aaaa", "GPU-bbbb")))
    plain = started(driver, driver.spec("b", *SERVE))
    assert _mine(driver, spec.name) == [
        GpuUse(node.name, "GPU-aaaa", True, spec.name),
        GpuUse(node.name, "GPU-bbbb", True, spec.name),
    ]
    assert not _mine(driver, plain.name)
    driver.runtime.stop(spec.name, grace_s=2)
    wait_for(lambda: not _mine(driver, spec.name), "the GPUs to be left")


def _mine(driver: Driver, name: str) -> list[GpuUse]:
    return sorted((use for use in driver.runtime.gpu_use() if use.name == name), key=lambda use: use.gpu)


@pytest.mark.parametrize("driver", [pytest.param("docker", marks=pytest.mark.engine), "fake"], indirect=True)
def test_another_installations_container_is_foreign(driver: Driver) -> None:
    spec = started(driver, driver.spec("a", *SERVE, gpu_ids=("GPU-aaaa",)))
    seen = [use for use in driver.another(foreign=True).gpu_use() if use.name == spec.name]
    assert [(use.gpu, use.ours) for use in seen] == [("GPU-aaaa", False)]


def test_an_engine_that_does_not_answer_knows_no_nodes(tmp_path: Path) -> None:
    gone = DockerRuntime("nobody", base_url=f"unix://{tmp_path}/gone.sock")
    for call in (gone.nodes, gone.gpu_use):
        with pytest.raises(RuntimeUnreachable):
            call()
