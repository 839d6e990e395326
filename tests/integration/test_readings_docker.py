"""Replicas' figures from a real engine and our real llama.cpp server, at work and at rest."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from endpoints.metrics.readings import Readings
from endpoints.metrics.sample import ReplicaFigures
from endpoints.models import Replica, ReplicaState
from iam.actors import Actor
from runtimes.contract import Address, ContainerSpec, Mount
from tests.contract.drivers import DockerDriver, wait_for
from tests.support_endpoints import load_data, new_endpoint
from tests.support_models import tiny_llama

pytestmark = [pytest.mark.django_db, pytest.mark.engine]
CPUS, MEMORY = 0.5, 512 * 1024**2


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[DockerDriver]:
    made = DockerDriver(tmp_path)
    yield made
    made.close()


def serving(driver: DockerDriver, folder: Path) -> tuple[str, Address]:
    """Name and address of a healthy server of the tiny model."""
    tiny_llama(folder / "tiny.gguf")
    spec = ContainerSpec(
        name=f"{driver.owner}-llama",
        image=driver.image,
        port=8080,
        command=(
            "--model",
            "/models/tiny.gguf",
            "--port",
            "{{port}}",
            "--host",
            "{{host}}",
            "--parallel",
            "2",
        ),
        mounts=(Mount(str(folder), "/models"),),
        network=driver.network,
        cpus=CPUS,
        memory_bytes=MEMORY,
        tmpfs={"/tmp": 16 * 1024**2},
    )
    address = driver.runtime.start(spec).address
    assert address is not None

    def healthy() -> bool:
        try:
            return httpx.get(f"http://{address.host}:{address.port}/health", timeout=2).status_code == 200
        except httpx.TransportError:
            return False

    wait_for(healthy, f"the server; it says: {driver.runtime.logs(spec.name)}")
    return spec.name, address


@contextmanager
def chatting(address: Address, people: int) -> Iterator[None]:
    """So many ask one question after the other, until the block ends."""
    done = threading.Event()
    question = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 64, "ignore_eos": True}

    def ask_on() -> None:
        with httpx.Client(base_url=f"http://{address.host}:{address.port}", timeout=30) as client:
            while not done.is_set():
                client.post("/v1/chat/completions", json=question).raise_for_status()

    threads = [threading.Thread(target=ask_on) for _ in range(people)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        done.set()
        for thread in threads:
            thread.join(30)


def test_at_work_and_at_rest(driver: DockerDriver, editor_actor: Actor, tmp_path: Path) -> None:
    load_data()
    endpoint = new_endpoint(editor_actor)
    folder = tmp_path / "weights"
    folder.mkdir()
    for place in (tmp_path, folder):
        place.chmod(0o755)
    name, address = serving(driver, folder)
    row = Replica.objects.create(
        endpoint=endpoint,
        revision=endpoint.revision,
        slot=1,
        name=name,
        state=ReplicaState.READY,
        host=address.host,
        port=address.port,
        cpus=CPUS,
        memory_bytes=MEMORY,
    )
    readings = Readings()

    def seen(good: Callable[[ReplicaFigures], object]) -> ReplicaFigures | None:
        time.sleep(0.6)  # what is measured is a rate over time
        found = readings.take([row], driver.runtime)[name]
        return found if good(found) else None

    try:
        first = readings.take([row], driver.runtime)[name]
        assert (first.cpu, first.tokens_out) == (None, None)
        assert first.memory is not None
        assert 1 < first.memory < 100
        assert (first.running, first.queued, first.kv_cache, first.gpu) == (0, 0, None, None)
        with chatting(address, 6):  # two at a time are computed
            busy = wait_for(
                lambda: seen(lambda item: item.queued and (item.cpu or 0) > 50 and item.tokens_out),
                "a server at work",
            )
            assert busy.cpu is not None
            assert busy.cpu < 130
            assert busy.running == 2
            assert busy.tokens_in is not None
            assert busy.tokens_in > 0
        rest = wait_for(lambda: seen(lambda item: item.tokens_out == 0), "a server at rest")
        assert rest.cpu is not None
        assert rest.cpu < 10
        assert (rest.tokens_in, rest.running, rest.queued) == (0, 0, 0)
    finally:
        readings.close()
