"""Bad days on the whole platform: the engine away, processes killed under load, everything killed at once.

The engine is never stopped: the platform reaches it through a door that the tests shut and open.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import docker
import httpx
import psutil
import pytest

from tests import support_processes
from tests.support import require
from tests.support_days import Day, EngineDoor, Load, day, hand_on
from tests.support_platform import Place, place, platform
from tests.support_processes import ROOT, Running, eventually, processes_of
from tests.support_redis import redis_at
from tests.support_runtimes import clean_up, containers, engine_answers, owner

pytestmark = [pytest.mark.redis, pytest.mark.envoy, pytest.mark.timeout(400)]
CONTROL_PLANE = ("web", "worker", "transfers", "beat", "watcher", "activator", "gateway", "redis")


def url_of(where: Place, endpoint: str) -> str:
    return f"http://localhost:{where.gateway_port}/v1/{endpoint}/v1/models"


def kill(running: Running, name: str) -> psutil.Process:
    """kill -9 one of the front's processes."""
    found = eventually(lambda: running.children().get(name), f"{name} runs", 30)
    found.kill()
    return found


def kill_and_await(today: Day, name: str) -> None:
    """kill -9 it, and wait until another one runs and every part is ready."""
    before = kill(today.running, name)
    eventually(lambda: today.running.children().get(name, before).pid != before.pid, f"{name} is back", 60)
    eventually(today.ready, "every part is ready again", 90)


# -- on a real engine, behind a door --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineDoor]:
    require("docker engine", engine_answers(), "docker ping failed")
    made = EngineDoor(tmp_path_factory.mktemp("door") / "engine.sock")
    yield made
    made.shut()


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory, door: EngineDoor) -> Iterator[Place]:
    found = place(tmp_path_factory.mktemp("bad-days"), "docker")
    yield found
    clean_up(found)


@pytest.fixture(scope="module")
def today(where: Place, door: EngineDoor) -> Iterator[Day]:
    """A platform that was started while no engine was there. The tests below follow one another."""
    with day(where, DOCKER_HOST=door.url) as running:
        yield running


def of(where: Place, endpoint: str) -> list[str]:
    """The ids of its containers, dead ones included."""
    return [one.id for one in containers(where) if one.labels["berth.endpoint"] == endpoint]


@pytest.fixture(scope="module")
def served(today: Day, door: EngineDoor) -> str:
    """An endpoint that was asked for while no engine was there; returns its id."""
    today.running.line(r"runtime +docker: no engine answers: .*Start the Docker Engine.*Endpoints wait")
    endpoint = today.create("served")
    waiting = today.until(endpoint, "PENDING", "engine_unreachable")
    assert waiting["words"] == "The container engine does not answer."
    assert "Start the Docker Engine" in waiting["action"]
    door.open()
    today.until(endpoint, "ACTIVE")
    return endpoint


@pytest.mark.any_database
@pytest.mark.engine
def test_an_engine_that_comes_late_gets_exactly_one_container(where: Place, served: str) -> None:
    assert len(of(where, served)) == 1


@pytest.mark.engine
@pytest.mark.parametrize(("leave", "return_"), [("shut", "open"), ("freeze", "thaw")])
def test_an_engine_that_goes_away_takes_nothing_with_it(
    where: Place, today: Day, served: str, door: EngineDoor, leave: str, return_: str
) -> None:
    before = of(where, served)
    with Load(url_of(where, served), today.token()) as load:
        load.more(5)
        getattr(door, leave)()
        try:
            late = today.create(f"late-{leave}")
            today.until(late, "PENDING", "engine_unreachable")
            row = today.row(served)
            load.more(5)
        finally:
            getattr(door, return_)()
        today.until(late, "ACTIVE")
    assert row is not None
    assert row["status"] == "ACTIVE"
    assert load.failures == []
    assert of(where, served) == before
    door.shut()
    try:
        today.delete(late)
        today.until(late, "DELETING", "engine_unreachable")
    finally:
        door.open()
    today.until_gone(late)
    assert of(where, late) == []
    assert [kind for kind in today.events(served) if kind.startswith("replica.")] == [
        "replica.started",
        "replica.ready",
    ]


@pytest.mark.engine
def test_killing_the_control_plane_costs_no_request(where: Place, today: Day, served: str) -> None:
    with Load(url_of(where, served), today.token()) as load:
        load.more(5)
        for name in CONTROL_PLANE:
            kill_and_await(today, name)
            load.more(5)
            assert load.failures == [], name
    row = today.row(served)
    assert row is not None
    assert (row["status"], len(row["replicas"])) == ("ACTIVE", 1)


@pytest.mark.engine
def test_a_killed_envoy_is_back_before_anybody_calls_for_help(where: Place, today: Day, served: str) -> None:
    def envoy() -> int:
        with suppress(ValueError):  # it is just being written
            return int(json.loads((where.home / "gateway" / "envoy.json").read_text())["pid"])
        return before

    before = 0
    before = envoy()
    with Load(url_of(where, served), today.token()) as load:
        load.more(5)
        psutil.Process(before).kill()
        eventually(lambda: envoy() != before, "another Envoy runs", 60)
        eventually(lambda: load.in_a_row >= 20, "every request is answered again", 60)
    eventually(today.ready, "every part is ready again", 60)


@pytest.mark.engine
def test_redis_killed_while_an_endpoint_deploys(where: Place, today: Day, served: str) -> None:
    endpoint = today.create("no-redis")
    kill(today.running, "redis")
    today.running.line(r"redis ended with signal 9; started again", 30)
    today.until(endpoint, "ACTIVE")
    assert len(of(where, endpoint)) == 1
    today.delete(endpoint)
    today.until_gone(endpoint)


@pytest.mark.any_database
@pytest.mark.engine
def test_two_workers_make_one_container_and_two_killed_ones_none_too_many(
    where: Place, today: Day, served: str
) -> None:
    first = eventually(lambda: today.running.children().get("worker"), "the worker runs", 30)
    command = [word.replace("worker@berth", "second@berth") for word in first.cmdline()]
    env = {**os.environ, **first.environ()}
    log = where.home / "log" / "second.log"
    with log.open("wb") as output:
        second = subprocess.Popen(command, cwd=ROOT, env=env, stdout=output, stderr=output)
    try:
        endpoints = [today.create(f"both-{number}") for number in range(3)]
        for endpoint in endpoints:
            today.until(endpoint, "ACTIVE")
            assert len(of(where, endpoint)) == 1
        for endpoint in endpoints:
            today.delete(endpoint)
        # In the middle of it both are killed; what they held expires, and the next one goes on.
        second.kill()
        kill_and_await(today, "worker")
    finally:
        second.kill()
        second.wait(10)
    for endpoint in endpoints:
        today.until_gone(endpoint)
    assert {one.labels["berth.endpoint"] for one in containers(where)} == {served}


@pytest.mark.any_database
@pytest.mark.engine
def test_after_kill_9_of_everything_the_next_start_adopts_the_container(
    where: Place, today: Day, served: str, door: EngineDoor
) -> None:
    before = of(where, served)
    for process in [psutil.Process(today.running.pid), *processes_of(where.home)]:
        with suppress(psutil.Error):
            process.kill()
    today.running.process.wait(10)
    with (
        platform(where, env={"DOCKER_HOST": door.url}) as again,
        hand_on(where, DOCKER_HOST=door.url) as hand,
    ):
        again.line(r"Berth is up after", 120)
        tomorrow = Day(where, again, hand)
        eventually(tomorrow.ready, "every part is ready", 60)
        with Load(url_of(where, served), tomorrow.token()) as load:
            load.more(10)
        assert load.failures == []
        assert of(where, served) == before
        assert tomorrow.events(served).count("replica.started") == 1
        tomorrow.delete(served)
        tomorrow.until_gone(served)
        assert containers(where) == []
        with closing(docker.from_env()) as engine:
            assert engine.networks.list(filters={"label": f"berth.owner={owner(where)}"}) == []


# -- on the process runtime -----------------------------------------------------------------------------------------


@pytest.fixture
def leave_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left after a kill -9 stays for the next start, as on a person's machine."""
    monkeypatch.setattr(support_processes, "processes_of", lambda _home: [])


def kill_all(running: Running, home: Path, *, replicas: bool) -> None:
    """kill -9 the front and all that it started, with or without the replicas, which are not its children."""
    for process in [psutil.Process(running.pid), *processes_of(home)]:
        with suppress(psutil.Error):
            ours = not any(part in " ".join(process.cmdline()) for part in ("reaper.py", "serve.py"))
            if replicas or ours:
                process.kill()
    running.process.wait(10)


def test_process_replicas_outlive_kill_9_and_come_back_after_their_own(
    tmp_path: Path, leave_processes: None
) -> None:
    where = place(tmp_path)
    try:
        with day(where) as first:
            endpoint = first.create("local")
            began = first.until(endpoint, "ACTIVE")["replicas"]
            token = first.token()
            kill_all(first.running, where.home, replicas=False)
        with day(where) as second:
            eventually(second.ready, "every part is ready", 60)
            with Load(url_of(where, endpoint), token) as load:
                load.more(10)
            assert load.failures == []
            assert second.until(endpoint, "ACTIVE")["replicas"] == began
            kill_all(second.running, where.home, replicas=True)
        with day(where) as third:
            row = third.until(endpoint, "ACTIVE")
            eventually(lambda: answers(where, endpoint, token), "it answers again", 60)
            assert [state for state, *_ in third.until(endpoint, "ACTIVE")["replicas"]] == [
                "failed",
                "ready",
            ], row
            third.delete(endpoint)
            third.until_gone(endpoint)
            replicas = where.home / "replicas"
            assert [one.name for one in replicas.iterdir() if not one.name.startswith(".")] == []
    finally:
        for process in processes_of(where.home):
            with suppress(psutil.Error):
                process.kill()


def answers(where: Place, endpoint: str, token: str) -> bool:
    with suppress(httpx.HTTPError):
        headers = {"Authorization": f"Bearer {token}"}
        return httpx.get(url_of(where, endpoint), headers=headers, timeout=5).status_code == 200
    return False


def test_a_redis_of_ones_own_that_goes_away_and_returns(tmp_path: Path) -> None:
    where = place(tmp_path)
    socket = tmp_path / "r.sock"
    with ExitStack() as server:
        server.enter_context(redis_at(socket))
        with day(where, REDIS_URL=f"unix://{socket}") as today:
            served = today.create("served")
            today.until(served, "ACTIVE")
            with Load(url_of(where, served), today.token()) as load:
                load.more(5)
                server.close()
                asked = today.create("asked-meanwhile")
                checks = httpx.get(f"{where.console}/readyz", timeout=10).json()["checks"]
                load.more(30)
                row = today.row(asked)
                server.enter_context(redis_at(socket))
                today.until(asked, "ACTIVE")
                eventually(today.ready, "every part is ready again", 60)
            assert checks["redis"] == "unavailable"
            assert row is not None
            assert row["status"] == "PENDING"
            assert load.failures == []
            assert today.running.stop(signal.SIGINT, 20) < 12
