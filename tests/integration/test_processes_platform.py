"""`manage.py up` as a person runs it: real Redis, real Envoy, real workers, in a home and on ports of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support_platform import Place, place, platform
from tests.support_processes import Running, eventually, processes_of, python

pytestmark = [pytest.mark.redis, pytest.mark.envoy, pytest.mark.timeout(240)]
UP = r"Berth is up after"
NAMES = {"redis", "web", "worker", "transfers", "beat", "watcher", "activator", "gateway"}


def status(url: str) -> int:
    """The HTTP status, 0 while nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=3) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def ready(where: Place) -> bool:
    return status(f"{where.console}/readyz") == 200


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """One home for this file: its second start is part of what is tested."""
    return place(tmp_path_factory.mktemp("platform"))


@pytest.fixture(scope="module")
def first(where: Place) -> Iterator[Running]:
    """The first start in an empty home."""
    with platform(where) as running:
        running.line(UP, 120)
        yield running


def test_a_first_start_prepares_everything_and_says_what_it_did(where: Place, first: Running) -> None:
    assert first.line(r"first admin +(\S+@\S+) +password (\S{12,})")
    first.line(r"database +\d+ migrations applied")
    first.line(r"runtime +process: ")
    first.line(rf"console +{where.console}")
    assert status(f"{where.console}/healthz") == 200
    eventually(lambda: ready(where), "every part is ready", 30)
    assert set(first.children()) == NAMES


def test_nobody_else_may_read_the_keys(where: Place, first: Running) -> None:
    for path in (where.home, where.home / "keys", *(where.home / "keys").iterdir(), where.home / "run"):
        assert path.stat().st_mode & 0o077 == 0, path


def test_sockets_and_ports_are_for_this_machine_only(where: Place, first: Running) -> None:
    import psutil

    addresses = {
        connection.laddr.ip
        for process in [psutil.Process(first.pid), *processes_of(where.home)]
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert addresses == {"127.0.0.1"}


def test_a_second_start_in_the_same_home_is_refused_in_one_line(where: Place, first: Running) -> None:
    done = up_fails(where)
    assert (
        done
        == f"CommandError: Berth is already running from this folder (pid {first.pid}, console {where.console}).\n"
    )


def test_a_taken_port_is_one_line(where: Place, tmp_path: Path, first: Running) -> None:
    other = place(tmp_path)
    done = up_fails(Place(other.home, where.port, other.gateway_port))
    assert done.startswith(f"CommandError: Port {where.port}, which the console needs, is taken by ")
    assert done.endswith(f"Stop that, or choose another port: BERTH_PORT={where.port + 1}\n")
    done = up_fails(Place(other.home, other.port, where.gateway_port))
    assert done.startswith(
        f"CommandError: Port {where.gateway_port}, which the gateway needs, is taken by envoy (pid "
    )


@pytest.mark.parametrize("name", sorted(NAMES - {"gateway"}))
def test_every_process_that_is_killed_comes_back(where: Place, first: Running, name: str) -> None:
    before = first.children()[name]
    before.kill()
    first.line(rf"{name} ended with signal 9; started again")
    eventually(lambda: first.children().get(name, before).pid != before.pid, f"{name} is back")
    eventually(lambda: ready(where), "every part is ready again", 30)


def test_a_killed_agent_comes_back_and_adopts_the_running_envoy(where: Place, first: Running) -> None:
    envoy = json.loads((where.home / "gateway" / "envoy.json").read_text())["pid"]
    with socket.create_connection(
        ("127.0.0.1", where.gateway_port), 5
    ) as client:  # a connection that must not drop
        first.children()["gateway"].kill()
        first.line(rf"adopted the running Envoy pid={envoy}")
        client.sendall(b"GET /v1/me-none/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
        client.settimeout(5)
        assert client.recv(64).startswith(b"HTTP/1.1 401")
    eventually(lambda: ready(where), "every part is ready again", 30)


def test_ctrl_c_stops_everything_within_ten_seconds(where: Place, first: Running) -> None:
    assert first.stop(signal.SIGINT) < 10
    assert first.process.returncode == 0
    assert processes_of(where.home) == []


def test_a_second_start_finds_its_state_again(where: Place, first: Running) -> None:
    with platform(where) as second:
        second.line(UP, 60)
        assert "first admin" not in second.text
        second.line(r"database +up to date")
        eventually(lambda: ready(where), "every part is ready", 30)
        second.send(signal.SIGKILL)  # and nothing of it survives
        second.process.wait(5)
        eventually(lambda: not processes_of(where.home), "all processes have ended", 15)


def test_a_start_after_a_killed_one_works_at_once(where: Place, first: Running) -> None:
    with platform(where) as third:
        third.line(UP, 60)
        assert third.stop(signal.SIGTERM) < 10
        assert processes_of(where.home) == []


def test_a_deep_home_with_odd_characters_works(tmp_path: Path) -> None:
    deep = tmp_path / ("nested folder 100% " + "x" * 80)
    deep.mkdir(parents=True)
    where = place(deep)
    with platform(where) as running:
        running.line(UP, 120)
        eventually(lambda: ready(where), "every part is ready", 30)
        assert running.stop() < 10
        assert processes_of(where.home) == []


def test_a_redis_that_does_not_answer_is_one_line(tmp_path: Path) -> None:
    done = up_fails(place(tmp_path), REDIS_URL="redis://127.0.0.1:1/0")
    assert done.startswith("CommandError: The Redis server named by REDIS_URL does not answer (")
    assert done.count("\n") == 1


def test_a_database_that_does_not_answer_is_one_line(tmp_path: Path) -> None:
    done = up_fails(place(tmp_path), DATABASE_URL="postgres://berth@127.0.0.1:1/berth")
    assert "CommandError: The database cannot be used: " in done
    assert "Traceback" not in done


@pytest.mark.parametrize(("kind", "said"), [("swarm", "does not exist yet"), ("podman", "is none of")])
def test_a_runtime_that_does_not_exist_is_one_line(tmp_path: Path, kind: str, said: str) -> None:
    done = up_fails(place(tmp_path, kind))
    assert f"CommandError: BERTH_RUNTIME={kind} {said}" in done
    assert "Traceback" not in done


def up_fails(where: Place, **env: str) -> str:
    """What `manage.py up` writes to stderr when it ends with status 1."""
    done = subprocess.run(
        python("manage.py", "up"),
        env={**os.environ, **where.env, **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stderr
