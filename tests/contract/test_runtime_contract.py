"""What every runtime promises (runtimes/contract.py), asked of each driver alike."""

from __future__ import annotations

import itertools
import queue
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from runtimes.contract import LABEL_OWNER, LOG_LINE_BYTES, ContainerState, Runtime, RuntimeEvent
from runtimes.docker import DockerRuntime
from runtimes.errors import InvalidSpec, RuntimeUnreachable
from tests.contract.drivers import (
    DockerDriver,
    Driver,
    FakeDriver,
    ProcessDriver,
    exited,
    wait_for,
)

SERVE = ("serve", "{{port}}")
DRIVERS = {"docker": DockerDriver, "process": ProcessDriver, "fake": FakeDriver}


REAL = [pytest.param("docker", marks=pytest.mark.engine), "process"]


@pytest.fixture(params=[*REAL, "fake"])
def driver(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Driver]:
    driver = DRIVERS[request.param](tmp_path)
    try:
        yield driver
    finally:
        driver.close()


def test_starting_twice_gives_one(driver: Driver) -> None:
    first = driver.runtime.start(driver.spec("a", *SERVE))
    second = driver.runtime.start(driver.spec("a", *SERVE))
    assert second.runtime_id == first.runtime_id
    assert [item.name for item in driver.runtime.list()] == [first.name]


def test_starting_at_once_gives_one(driver: Driver) -> None:
    workers = [driver.runtime, *(driver.another() for _ in range(5))]
    spec, ready = driver.spec("a", *SERVE), threading.Barrier(len(workers))

    def start(runtime: Runtime) -> str:
        ready.wait()
        return runtime.start(spec).runtime_id

    with ThreadPoolExecutor(len(workers)) as pool:
        ids = set(pool.map(start, workers))
    assert len(ids) == 1
    assert len(driver.runtime.list()) == 1
    seen = driver.runtime.observe(spec.name)
    assert seen is not None
    assert seen.state is ContainerState.RUNNING


def test_two_names_at_once_on_one_new_network(driver: Driver) -> None:
    specs = [driver.spec(f"a{number}", *SERVE) for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        started = list(pool.map(lambda spec: driver.another().start(spec), specs))
    assert {item.name for item in driver.runtime.list()} == {spec.name for spec in specs}
    assert all(item.state is ContainerState.RUNNING for item in started)


def test_an_address_to_be_avoided_is_given_to_nobody(driver: Driver) -> None:
    if isinstance(driver, FakeDriver):
        driver.engine.address = None  # each container has one of its own, as with a real engine
    spec = driver.spec("a", *SERVE)
    address = driver.runtime.start(spec).address
    assert address is not None
    driver.runtime.remove(spec.name)
    again = driver.runtime.start(spec).address
    assert again == address  # an address follows from the name, so this test would notice
    driver.runtime.remove(spec.name)
    held = frozenset({(address.host, address.port)})
    elsewhere = driver.runtime.start(spec, avoid=held).address
    assert elsewhere is not None
    assert elsewhere != address
    # What runs stays as it is, wherever it is.
    running = frozenset({(elsewhere.host, elsewhere.port)})
    assert driver.runtime.start(spec, avoid=running).address == elsewhere


def test_networks_are_named_by_their_projects_and_go_when_nobody_is_on_them(driver: Driver) -> None:
    spec = driver.spec("a", *SERVE)
    if spec.network is None:
        spec = replace(spec, network="ours")
    driver.runtime.start(spec)
    if driver.runtime.kind == "process":
        assert driver.runtime.networks() == [], "it has none"
        return
    assert driver.runtime.networks() == [spec.network]
    assert driver.another(foreign=True).networks() == []
    assert spec.network is not None
    driver.runtime.remove_network(spec.network)
    assert driver.runtime.networks() == [spec.network], "a container is still on it"
    driver.runtime.remove(spec.name)
    driver.runtime.remove_network(spec.network)
    assert driver.runtime.networks() == []


def test_what_is_missing_is_stopped_and_removed_without_ado(driver: Driver) -> None:
    assert driver.runtime.observe("nobody") is None
    driver.runtime.stop("nobody")
    driver.runtime.remove("nobody")
    driver.runtime.remove_network("nowhere")
    assert driver.runtime.logs("nobody") == ""
    assert list(driver.runtime.follow_logs("nobody")) == []
    assert list(driver.runtime.whole_log("nobody")) == []


def test_the_exit_code_is_kept_and_the_dead_stay_dead(driver: Driver) -> None:
    spec = driver.spec("a", "exit", "7")
    driver.runtime.start(spec)
    seen = exited(driver.runtime, spec.name)
    assert (seen.exit_code, seen.oom_killed, seen.error, seen.address) == (7, False, "", None)
    assert seen.started_at is not None
    assert seen.finished_at is not None
    assert seen.finished_at >= seen.started_at
    again = driver.runtime.start(spec)
    assert (again.runtime_id, again.state, again.exit_code) == (seen.runtime_id, ContainerState.EXITED, 7)


def test_too_much_memory_is_told_from_a_crash(driver: Driver) -> None:
    spec = driver.spec("a", "hog", memory_bytes=96 * 1024**2)
    driver.runtime.start(spec)
    seen = exited(driver.runtime, spec.name)
    assert seen.oom_killed
    assert seen.exit_code == 137


def test_a_program_that_is_not_there_is_observed_with_its_error(driver: Driver) -> None:
    spec = driver.spec("a", "missing")
    if driver.runtime.kind == "docker":
        spec = replace(spec, entrypoint=("missing",))
    elif driver.runtime.kind == "process":
        spec = replace(spec, program="missing")
    started = driver.runtime.start(spec)
    assert started.state is ContainerState.EXITED
    assert started.exit_code == 127
    assert started.error
    assert started.started_at is None
    assert driver.runtime.observe(spec.name) == started


def test_logs_outlive_their_replica(driver: Driver) -> None:
    spec = driver.spec("a", "lines", "300")
    driver.runtime.start(spec)
    exited(driver.runtime, spec.name)
    assert driver.runtime.logs(spec.name).splitlines() == [f"line {number}" for number in range(100, 300)]
    assert driver.runtime.logs(spec.name, tail=2) == "line 298\nline 299\n"
    assert _texts(driver.runtime, spec.name, tail=1) == ["line 299"]
    assert b"".join(driver.runtime.whole_log(spec.name)).decode().splitlines() == [
        f"line {number}" for number in range(300)
    ]


def _texts(runtime: Runtime, name: str, **where: Any) -> list[str]:
    return [line.text for line in runtime.follow_logs(name, **where)]


def test_following_goes_on_behind_a_mark(driver: Driver) -> None:
    spec = driver.spec("a", "lines", "300")
    driver.runtime.start(spec)
    exited(driver.runtime, spec.name)
    shown = list(driver.runtime.follow_logs(spec.name, tail=100))
    assert [line.text for line in shown] == [f"line {number}" for number in range(200, 300)]
    assert not any(line.gap for line in shown)
    behind = list(driver.another().follow_logs(spec.name, tail=100, after=shown[89].mark))
    assert behind == shown[90:]
    assert _texts(driver.runtime, spec.name, tail=100, after=shown[-1].mark) == []


def test_what_is_too_far_behind_goes_on_with_the_tail_and_says_so(driver: Driver) -> None:
    spec = driver.spec("a", "lines", "300")
    driver.runtime.start(spec)
    exited(driver.runtime, spec.name)
    first = next(iter(driver.runtime.follow_logs(spec.name, tail=300)))
    behind = list(driver.runtime.follow_logs(spec.name, tail=10, after=first.mark))
    if driver.runtime.kind != "process":  # it reads on wherever a file's offset allows it cheaply
        assert [line.text for line in behind] == [f"line {number}" for number in range(290, 300)]
        assert [line.gap for line in behind] == [True] + [False] * 9
    assert behind[-1].text == "line 299"


@pytest.mark.parametrize("driver", REAL, indirect=True)
def test_a_long_line_is_cut_and_the_next_one_whole(driver: Driver) -> None:
    spec = driver.spec("a", "long", "100000")
    driver.runtime.start(spec)
    exited(driver.runtime, spec.name)
    long, short = driver.runtime.follow_logs(spec.name, tail=100)
    assert long.text == "y" * LOG_LINE_BYTES
    assert short.text == "short"
    assert b"".join(driver.runtime.whole_log(spec.name)) == b"y" * 100_000 + b"\nshort\n"


@pytest.mark.parametrize("driver", REAL, indirect=True)
def test_logs_are_followed_to_the_end(driver: Driver) -> None:
    spec = driver.spec("a", "slowly", "5")
    driver.runtime.start(spec)
    assert _texts(driver.runtime, spec.name, tail=100) == [f"line {number}" for number in range(5)]
    seen = driver.runtime.observe(spec.name)
    assert seen is not None
    assert seen.state is ContainerState.EXITED


def test_another_worker_adopts_what_runs(driver: Driver) -> None:
    spec = driver.spec("a", *SERVE, labels={"berth.endpoint": "me-1"})
    started = driver.runtime.start(spec)
    other = driver.another()
    assert other.observe(spec.name) == driver.runtime.observe(spec.name)
    assert other.start(spec).runtime_id == started.runtime_id
    assert [item.name for item in other.list({"berth.endpoint": "me-1"})] == [spec.name]
    other.remove(spec.name)
    assert driver.runtime.observe(spec.name) is None


def test_another_installation_does_not_touch_it(driver: Driver) -> None:
    spec = driver.spec("a", *SERVE)
    driver.runtime.start(spec)
    foreign = driver.another(foreign=True)
    assert foreign.observe(spec.name) is None
    assert foreign.list() == []
    assert foreign.logs(spec.name) == ""
    with pytest.raises(InvalidSpec, match="someone else"):
        foreign.start(spec)
    foreign.stop(spec.name)
    foreign.remove(spec.name)
    seen = driver.runtime.observe(spec.name)
    assert seen is not None
    assert seen.state is ContainerState.RUNNING


def test_listing_goes_by_all_labels(driver: Driver) -> None:
    for name, endpoint, revision in (("a", "1", "1"), ("b", "1", "2"), ("c", "2", "1")):
        labels = {"berth.endpoint": endpoint, "berth.revision": revision}
        driver.runtime.start(driver.spec(name, "exit", "0", labels=labels))

    def names(labels: dict[str, str]) -> set[str]:
        return {item.name.rsplit("-", 1)[-1] for item in driver.runtime.list(labels)}

    assert names({}) == {"a", "b", "c"}
    assert names({"berth.endpoint": "1"}) == {"a", "b"}
    assert names({"berth.endpoint": "1", "berth.revision": "2"}) == {"b"}
    assert names({"berth.endpoint": "3"}) == set()
    seen = driver.runtime.list({"berth.endpoint": "2"})[0]
    assert seen.labels["berth.revision"] == "1"
    assert LABEL_OWNER in seen.labels


def test_the_address_answers(driver: Driver) -> None:
    spec = driver.spec("a", *SERVE)
    address = driver.runtime.start(spec).address
    assert address is not None

    def hello() -> bool:
        try:
            return httpx.get(f"http://{address.host}:{address.port}/", timeout=2).text == "hello"
        except httpx.TransportError:
            return False

    wait_for(hello, f"an answer; the replica says: {driver.runtime.logs(spec.name)}")
    assert driver.runtime.start(spec).address == address


@pytest.mark.parametrize("driver", REAL, indirect=True)
def test_stopping_is_polite_then_firm(driver: Driver) -> None:
    polite, deaf = driver.spec("a", *SERVE), driver.spec("b", "deaf")
    for spec, word in ((polite, "listening"), (deaf, "deaf")):
        driver.runtime.start(spec)
        wait_for(lambda name=spec.name, word=word: word in driver.runtime.logs(name), word)
        driver.runtime.stop(spec.name, grace_s=1)
    codes = [exited(driver.runtime, spec.name).exit_code for spec in (polite, deaf)]
    assert codes == [0, 137]
    driver.runtime.stop(polite.name)  # once more


def test_a_running_one_is_removed_without_a_trace(driver: Driver) -> None:
    spec = driver.spec("a", *SERVE)
    driver.runtime.start(spec)
    driver.runtime.remove(spec.name)
    assert driver.runtime.observe(spec.name) is None
    assert driver.runtime.list() == []
    fresh = driver.runtime.start(spec)
    assert fresh.state is ContainerState.RUNNING


def test_removing_at_once_from_two_workers(driver: Driver) -> None:
    spec = driver.spec("a", *SERVE)
    driver.runtime.start(spec)
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(driver.another().remove, spec.name) for _ in range(4)]:
            done.result()
    assert driver.runtime.observe(spec.name) is None


def test_events_tell_of_birth_and_death(driver: Driver) -> None:
    told: queue.SimpleQueue[RuntimeEvent | BaseException] = queue.SimpleQueue()
    events = driver.another().events()  # from here on

    def listen() -> None:
        try:
            for event in itertools.islice(events, 3):
                told.put(event)
        except BaseException as error:
            told.put(error)

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    spec = driver.spec("a", *SERVE, labels={"berth.endpoint": "me-9"})
    driver.runtime.start(spec)
    heard = []
    for action in (None, lambda name: driver.runtime.stop(name, grace_s=1), driver.runtime.remove):
        if action:
            action(spec.name)
        event = told.get(timeout=20)
        assert isinstance(event, RuntimeEvent), event
        assert event.name == spec.name
        assert event.labels["berth.endpoint"] == "me-9"
        heard.append(event.kind)
    assert heard == ["start", "die", "destroy"]
    listener.join(10)
    assert not listener.is_alive()


# ---- no answer is not the answer "gone"


def _ask_everything(runtime: Runtime, driver: Driver) -> None:
    spec = driver.spec("a", *SERVE)
    for ask in (
        lambda: runtime.info() if runtime.kind != "process" else runtime.list(),
        lambda: runtime.observe(spec.name),
        lambda: runtime.list(),
        lambda: runtime.usage(),
        lambda: runtime.start(spec),
        lambda: runtime.stop(spec.name),
        lambda: runtime.remove(spec.name),
        lambda: runtime.logs(spec.name),
        lambda: next(iter(runtime.follow_logs(spec.name))),
        lambda: next(iter(runtime.whole_log(spec.name))),
        lambda: next(iter(runtime.events())),
    ):
        with pytest.raises(RuntimeUnreachable) as failure:
            ask()
        assert failure.value.evidence


@pytest.mark.engine
def test_an_engine_without_a_socket_is_unreachable(tmp_path: Path) -> None:
    driver = DockerDriver(tmp_path)
    _ask_everything(DockerRuntime("x", base_url=f"unix://{tmp_path}/none.sock"), driver)
    _ask_everything(DockerRuntime("x", base_url="tcp://127.0.0.1:1"), driver)


@pytest.mark.engine
def test_an_engine_that_never_answers_is_unreachable(tmp_path: Path) -> None:
    driver = DockerDriver(tmp_path)
    path = Path("/tmp") / f"{driver.owner}.sock"  # a socket's path may be 107 bytes long
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(path))
        silent.listen(64)
        try:
            _ask_everything(DockerRuntime("x", base_url=f"unix://{path}", timeout_s=1), driver)
        finally:
            path.unlink()


def test_a_state_folder_that_went_away_is_unreachable(tmp_path: Path) -> None:
    driver = ProcessDriver(tmp_path)
    replicas = driver.home / "replicas"
    for path in replicas.iterdir():
        path.unlink()
    replicas.rmdir()
    _ask_everything(driver.runtime, driver)
    replicas.write_text("a file, not a folder")
    _ask_everything(driver.runtime, driver)


def test_the_fake_can_be_unreachable(tmp_path: Path) -> None:
    driver = FakeDriver(tmp_path)
    try:
        started = driver.runtime.start(driver.spec("a", *SERVE))
        driver.engine.unreachable()
        _ask_everything(driver.runtime, driver)
        driver.engine.recovers()
        assert driver.runtime.observe(started.name) == started
    finally:
        driver.close()
