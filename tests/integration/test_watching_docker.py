"""The watcher on real engines: a killed container is a hint within a second, an engine that is killed and comes back
too, a frozen container is noticed and forgiven."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
import redis

from endpoints.models import Replica, ReplicaState
from endpoints.watching import events, health
from iam.actors import Actor
from runtimes import images
from runtimes.contract import LABEL_ENDPOINT, ContainerSpec, ContainerState, Runtime
from runtimes.docker import DockerRuntime
from runtimes.errors import RuntimeUnreachable
from tests.contract.drivers import DockerDriver
from tests.support_endpoints import load_data, new_endpoint
from tests.support_engine import Engine, engine_of_its_own
from tests.support_processes import eventually

pytestmark = [pytest.mark.engine]

SERVE = ("serve", "{{port}}")


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[DockerDriver]:
    driver = DockerDriver(tmp_path)
    yield driver
    driver.close()


class Hints:
    """What the watcher asked to be looked at, and when."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.came: list[tuple[float, str]] = []
        monkeypatch.setattr(events, "reconcile_in", lambda endpoint, _delay: self.add(endpoint))
        monkeypatch.setattr(events, "hint_all", lambda: self.add("all"))

    def add(self, what: str) -> None:
        self.came.append((time.monotonic(), what))

    def next(self, what: str, since: float) -> float:
        """Seconds from `since` to the first hint after it."""
        found = eventually(lambda: [at for at, name in self.came if name == what and at >= since], what, 30)
        return found[0] - since


@pytest.fixture
def hints(monkeypatch: pytest.MonkeyPatch) -> Hints:
    return Hints(monkeypatch)


def watch(runtime: Runtime) -> None:
    threading.Thread(target=events.watch_events, args=(runtime,), daemon=True).start()


def test_a_killed_container_is_a_hint_at_once(driver: DockerDriver, hints: Hints) -> None:
    began = time.monotonic()
    watch(driver.another())
    hints.next("all", began)
    spec = driver.spec("a", *SERVE, labels={LABEL_ENDPOINT: "me-1"})
    driver.runtime.start(spec)
    hints.next("me-1", began)
    for action in ("kill", "remove"):
        began = time.monotonic()
        if action == "kill":
            docker.from_env().api.kill(spec.name)
        else:
            driver.runtime.remove(spec.name)
        took = hints.next("me-1", began)
        print(f"{action}: a hint after {took * 1000:.0f} ms")
        assert took < 5


def test_too_much_memory_is_a_hint(driver: DockerDriver, hints: Hints) -> None:
    began = time.monotonic()
    watch(driver.another())
    hints.next("all", began)
    spec = driver.spec("a", "hog", memory_bytes=96 * 1024**2, labels={LABEL_ENDPOINT: "me-2"})
    driver.runtime.start(spec)
    died = eventually(lambda: (s := driver.runtime.observe(spec.name)) and s.finished_at, "it dies", 30)
    last = eventually(lambda: [at for at, name in hints.came if name == "me-2"][1:], "a second hint")
    assert time.time() - died.timestamp() - (time.monotonic() - last[0]) < 5


# -- an engine that is killed ----------------------------------------------------------------------------------------


@pytest.fixture
def engine(driver: DockerDriver) -> Iterator[Engine]:
    """One of its own, with our image on it."""
    folder = Path("/tmp") / f"bt-{uuid.uuid4().hex[:8]}"
    with engine_of_its_own(folder, disk_mb=700) as own:
        shared = docker.APIClient(version="1.41", timeout=120)
        there = docker.APIClient(base_url=own.url, version="1.41", timeout=120)
        list(there.load_image(shared.get_image(driver.image), quiet=True) or ())
        yield own


def test_an_engine_that_was_killed_takes_nothing_away_and_is_read_again(
    engine: Engine, driver: DockerDriver, hints: Hints
) -> None:
    owner = f"test-{uuid.uuid4().hex[:8]}"
    runtime = DockerRuntime(owner, base_url=engine.url, subnet_pool="10.231.0.0/24")
    spec = ContainerSpec(
        f"{owner}-a",
        driver.image,
        8080,
        entrypoint=(images.PYTHON, "-c", "import time; print('up', flush=True); time.sleep(600)"),
        labels={LABEL_ENDPOINT: "me-3"},
        network=f"t{owner[-6:]}",
    )
    began = time.monotonic()
    watch(DockerRuntime(owner, base_url=engine.url))
    hints.next("all", began)
    runtime.start(spec)
    try:
        hints.next("me-3", began)
        engine.kill()
        for ask in (lambda: runtime.observe(spec.name), runtime.list, lambda: runtime.logs(spec.name)):
            with pytest.raises(RuntimeUnreachable):
                ask()
        down = time.monotonic()
        time.sleep(2 * events.RETRY_S)
        assert [name for at, name in hints.came if at > down] == [], "nothing is known, so nothing is told"
        engine.start()
        answered = time.monotonic()
        took = down + hints.next("all", down) - answered
        print(f"every endpoint is looked at {took * 1000:+.0f} ms after the engine was seen to answer")
        assert took < 5
        seen = runtime.observe(spec.name)
        assert seen is not None, "it is there, running or ended"
        if seen.state is ContainerState.EXITED:
            assert seen.exit_code is not None
        assert "up" in runtime.logs(spec.name)
    finally:
        runtime.remove(spec.name)
        runtime.remove_network(spec.network or "")


# -- health ----------------------------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
@pytest.mark.redis
def test_a_frozen_replica_is_unhealthy_soon_and_forgiven_after(
    driver: DockerDriver, editor_actor: Actor, redis_server: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []
    monkeypatch.setattr(health, "reconcile_in", lambda endpoint, _delay: looked.append(endpoint))
    load_data()
    endpoint = new_endpoint(editor_actor)
    rows = []
    for number in (1, 2):
        spec = driver.spec(f"r{number}", *SERVE)
        address = driver.runtime.start(spec).address
        assert address is not None
        rows.append(
            endpoint.replicas.create(
                revision=endpoint.revision,
                slot=number,
                name=spec.name,
                state=ReplicaState.READY,
                host=address.host,
                port=address.port,
            )
        )
    frozen, well = rows
    eventually(lambda: "listening" in driver.runtime.logs(frozen.name), "it listens", 20)
    watch_on = health.HealthWatch()
    watch_on.round()
    assert not Replica.objects.exclude(unhealthy_since=None).exists()

    engine = docker.from_env().api
    engine.pause(frozen.name)
    began = time.time()
    try:
        until(watch_on, lambda: present(frozen).unhealthy_since is not None, 15)
        took = time.time() - began
        since = present(frozen).unhealthy_since
        print(f"frozen: known after {took:.1f} s")
        assert took < 12
        assert since is not None
        assert since.timestamp() - began < 6, "since its first failure"
        assert present(well).unhealthy_since is None
        assert set(looked) == {endpoint.id}
        looked.clear()
        watch_on.round()
        assert looked == [endpoint.id], "a hint a round while it lasts"
        assert present(frozen).unhealthy_since == since
    finally:
        engine.unpause(frozen.name)
    began = time.time()
    until(watch_on, lambda: present(frozen).unhealthy_since is None, 12)
    print(f"thawed: known after {time.time() - began:.1f} s")


def until(watch_on: health.HealthWatch, done: Any, seconds: float) -> None:
    """Rounds at the watcher's pace; the worst moment to freeze is just after one."""
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline
        time.sleep(health.ROUND_S)
        watch_on.round()


def present(replica: Replica) -> Replica:
    """As the database has it."""
    return Replica.objects.get(pk=replica.pk)
