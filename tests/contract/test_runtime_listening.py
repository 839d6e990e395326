"""`Runtime.listening`: the ports of somebody else's process, in every driver and by every way of looking."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtimes import listening
from runtimes.contract import Listener, Runtime
from tests.contract.drivers import DockerDriver, Driver, FakeDriver, ProcessDriver, wait_for

DRIVERS = {"docker": DockerDriver, "process": ProcessDriver, "fake": FakeDriver}
REAL = [pytest.param("docker", marks=pytest.mark.engine), "process"]


@pytest.fixture(params=[*REAL, "fake"])
def driver(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Driver]:
    driver = DRIVERS[request.param](tmp_path)
    try:
        yield driver
    finally:
        driver.close()


def found(runtime: Runtime, name: str) -> tuple[Listener, ...]:
    """What it listens on, as soon as that is something."""
    return wait_for(lambda: runtime.listening(name), f"{name} to listen; it says: {runtime.logs(name)}")


def test_a_port_that_nobody_asked_for_is_found(driver: Driver) -> None:
    port = 18533
    spec = driver.spec("elsewhere", "serve", str(port))
    driver.runtime.start(spec)
    if isinstance(driver, FakeDriver):
        assert driver.runtime.listening(spec.name) is None
        driver.engine.listens(spec.name, port)
    assert found(driver.runtime, spec.name) == (Listener(port),)


@pytest.mark.engine
def test_a_server_for_itself_alone_is_known_as_such(tmp_path: Path) -> None:
    driver = DockerDriver(tmp_path)
    try:
        spec = driver.spec("shy", "serve", "8080", env={"REPLICA_HOST": "127.0.0.1"})
        driver.runtime.start(spec)
        assert found(driver.runtime, spec.name) == (Listener(8080, loopback=True),)
    finally:
        driver.close()


def test_one_that_listens_on_nothing_one_that_ended_and_one_that_never_was(driver: Driver) -> None:
    silent = driver.spec("silent", "deaf")
    driver.runtime.start(silent)
    if isinstance(driver, FakeDriver):
        driver.engine.listens(silent.name)
    assert driver.runtime.listening(silent.name) == ()
    driver.runtime.stop(silent.name, grace_s=0)
    assert driver.runtime.listening(silent.name) is None
    assert driver.runtime.listening("nobody") is None


@pytest.mark.engine
def test_where_proc_is_another_machines_ports_are_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = DockerDriver(tmp_path)
    monkeypatch.setattr(listening, "of_container", lambda *_args, **_named: None)
    try:
        spec = driver.spec("remote", "serve", "8888")
        driver.runtime.start(spec)
        assert found(driver.runtime, spec.name) == (Listener(8888),)
    finally:
        driver.close()


def test_ports_are_tried_all_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert listening.by_trying("127.0.0.1", [port, 1]) == (Listener(port),)
    began = time.monotonic()
    # 192.0.2.0/24 belongs to nobody (RFC 5737): what is sent there is dropped or refused.
    assert listening.by_trying("192.0.2.1", range(1, 40)) == ()
    assert time.monotonic() - began < 5, "one after another they take longer"


def test_a_process_of_another_container_is_not_taken_for_ours() -> None:
    assert listening.of_container(os.getpid(), "0" * 64) is None
    assert listening.of_container(2**22 + 1, "") is None


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_both_families_in_one_namespace_are_read() -> None:
    script = (
        "import socket,sys,time\n"
        "a=socket.create_server(('127.0.0.1',0)); b=socket.socket(socket.AF_INET6); b.bind(('::',0)); b.listen()\n"
        "print(a.getsockname()[1], b.getsockname()[1], flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as child:
        try:
            assert child.stdout is not None
            ports = sorted(map(int, child.stdout.readline().split()))
            assert listening.of_group(child.pid) == tuple(Listener(port) for port in ports)
        finally:
            child.kill()
