"""What only the process runtime has to prove: it outlives its workers, and never takes another process for its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from runtimes import process, process_logs
from runtimes.contract import ContainerState, LogLine, Mount
from runtimes.errors import InvalidSpec
from runtimes.process_files import lock_holder, tail_of
from tests.contract.drivers import ProcessDriver, exited, wait_for

SERVE = ("serve", "{{port}}")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[ProcessDriver]:
    driver = ProcessDriver(tmp_path)
    yield driver
    driver.close()


def folder_of(driver: ProcessDriver, name: str) -> Path:
    return driver.home / "replicas" / name


def pid_of(driver: ProcessDriver, name: str) -> int:
    return int(json.loads((folder_of(driver, name) / "started.json").read_text())["pid"])


def is_alive(pid: int) -> bool:
    """Running: a dead process that nobody has collected yet does not count."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except FileNotFoundError:
        return False


def test_a_replica_outlives_the_worker_that_started_it(driver: ProcessDriver) -> None:
    script = f"""
        import os, sys
        sys.path[:0] = {[str(ROOT), str(ROOT / "platform")]!r}
        from pathlib import Path
        from runtimes.contract import ContainerSpec
        from runtimes.process import ProcessRuntime
        runtime = ProcessRuntime(Path({str(driver.home)!r}), "test", programs={driver.programs!r})
        runtime.start(ContainerSpec(name="a", image="x", port=1, program="probe", command=("serve", "{{{{port}}}}")))
        os.kill(0, 9)  # the worker and everything in its process group
    """
    worker = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], start_new_session=True)
    assert worker.returncode == -signal.SIGKILL
    seen = driver.runtime.observe("a")
    assert seen is not None
    assert seen.state is ContainerState.RUNNING
    assert is_alive(pid_of(driver, "a"))
    driver.runtime.stop("a")
    assert not is_alive(pid_of(driver, "a"))


def test_a_worker_killed_while_it_waits_for_the_start_takes_nothing_with_it(
    driver: ProcessDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start_and_die(folder: Path) -> None:
        command = [sys.executable, "-I", "-S", str(process._REAPER), str(folder)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as reaper:
            assert reaper.stdout is not None
            reaper.stdout.close()

    monkeypatch.setattr(driver.runtime, "_run_reaper", start_and_die)
    driver.runtime.start(driver.spec("a", *SERVE))
    begun = folder_of(driver, "a") / "started.json"
    wait_for(lambda: begun.exists() or None, "the replica has started")
    address = driver.runtime.observe("a").address  # type: ignore[union-attr]
    assert address is not None

    def listens() -> bool | None:
        with contextlib.suppress(OSError), socket.create_connection((address.host, address.port), 1):
            return True
        return None

    wait_for(listens, "it answers")
    seen = driver.runtime.observe("a")
    assert seen is not None
    assert seen.state is ContainerState.RUNNING


def test_a_replica_does_not_outlive_its_watcher_unseen(driver: ProcessDriver) -> None:
    driver.runtime.start(driver.spec("a", *SERVE))
    pid, reaper = pid_of(driver, "a"), lock_holder(folder_of(driver, "a"))
    assert reaper
    os.kill(reaper, signal.SIGKILL)
    seen = exited(driver.runtime, "a")
    assert seen.exit_code == 137
    assert "watcher" in seen.error
    wait_for(lambda: not is_alive(pid), "the replica to die with its watcher")


def test_a_recycled_process_id_is_nobody_of_ours(driver: ProcessDriver) -> None:
    """The machine restarted: our numbers are on file, and somebody else has them now."""
    driver.runtime.start(driver.spec("a", *SERVE))
    reaper = lock_holder(folder_of(driver, "a"))
    assert reaper
    os.kill(reaper, signal.SIGKILL)
    exited(driver.runtime, "a")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
        (folder_of(driver, "a") / "started.json").write_text(json.dumps({"pid": stranger.pid, "at": 1.0}))
        seen = driver.runtime.observe("a")
        assert seen is not None
        assert seen.state is ContainerState.EXITED
        driver.runtime.stop("a", grace_s=0)
        driver.runtime.remove("a")
        assert stranger.poll() is None
        stranger.communicate(b"\n")
    assert stranger.returncode == 0


def test_a_stopped_watcher_is_dealt_with(driver: ProcessDriver) -> None:
    """The reaper itself hangs: the replica is killed without it."""
    driver.runtime.start(driver.spec("a", *SERVE))
    pid, reaper = pid_of(driver, "a"), lock_holder(folder_of(driver, "a"))
    assert reaper
    os.kill(reaper, signal.SIGSTOP)
    driver.runtime.stop("a", grace_s=0)
    seen = driver.runtime.observe("a")
    assert seen is not None
    assert seen.state is ContainerState.EXITED
    wait_for(lambda: not is_alive(pid), "the replica to end")


def test_what_a_replica_leaves_behind_dies_with_it(driver: ProcessDriver) -> None:
    driver.runtime.start(driver.spec("a", "family"))
    wait_for(lambda: "child is born" in driver.runtime.logs("a"), "the child")
    parent = pid_of(driver, "a")
    stats = [path.read_text() for path in Path("/proc").glob("[0-9]*/stat") if path.exists()]
    fields = [stat.rpartition(") ")[2].split() for stat in stats]
    assert sum(int(field[2]) == parent for field in fields) == 2  # field 5 of stat is the process group
    driver.runtime.remove("a")
    wait_for(lambda: _group_is_gone(parent), "the whole group to end")


def _group_is_gone(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_worker_that_died_before_the_watcher_ran(
    driver: ProcessDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(Exception):
        """Stands for the worker's end."""

    def die(folder: Path) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(driver.runtime, "_run_reaper", die)
        with pytest.raises(Killed):
            driver.runtime.start(driver.spec("a", *SERVE))
    seen = driver.runtime.observe("a")
    assert seen is not None
    assert seen.state is ContainerState.CREATED
    started = driver.another().start(driver.spec("a", *SERVE))
    assert (started.state, started.runtime_id) == (ContainerState.RUNNING, seen.runtime_id)


def test_a_container_s_view_is_translated(driver: ProcessDriver, tmp_path: Path) -> None:
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "word").write_text("hello")
    mounts = (Mount(str(tmp_path / "w"), "/models"),)
    driver.runtime.start(driver.spec("a", "show", "/models/word", mounts=mounts))
    exited(driver.runtime, "a")
    assert driver.runtime.logs("a") == "hello\n"
    with pytest.raises(InvalidSpec, match="nowhere"):
        driver.runtime.start(driver.spec("b", *SERVE, mounts=(Mount(str(tmp_path / "nowhere"), "/models"),)))
    assert driver.runtime.observe("b") is None


def test_the_workers_secrets_stay_with_the_worker(
    driver: ProcessDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DJANGO_SECRET_KEY", "hunter2")
    spec = driver.spec(
        "a", "environment", env={"MODEL": "m", "PORT": "{{port}}"}, cpus=1.5, gpu_ids=("0", "1")
    )
    driver.runtime.start(spec)
    exited(driver.runtime, "a")
    shown = driver.runtime.logs("a")
    assert "hunter2" not in shown
    for part in ("'MODEL': 'm'", "'BERTH_CPUS': '2'", "'CUDA_VISIBLE_DEVICES': '0,1'"):
        assert part in shown


def test_logs_are_bounded(driver: ProcessDriver) -> None:
    driver.runtime.start(driver.spec("a", "lines", "20000", log_bytes=10_000))
    exited(driver.runtime, "a")
    files = list(folder_of(driver, "a").glob("log*"))
    assert 0 < sum(file.stat().st_size for file in files) <= 2 * (10_000 + 65_536)
    assert driver.runtime.logs("a", tail=2) == "line 19998\nline 19999\n"


def test_a_tail_reaches_over_both_files(tmp_path: Path) -> None:
    (tmp_path / "log.1").write_text("1\n2\n")
    (tmp_path / "log").write_text("3\n4")
    assert tail_of(tmp_path / "log", 3) == "2\n3\n4"
    assert tail_of(tmp_path / "log", 99) == "1\n2\n3\n4"
    assert tail_of(tmp_path / "log", 0) == ""
    assert tail_of(tmp_path / "log", 1, end=2) == "3\n"
    assert tail_of(tmp_path / "none", 5) == ""


def test_replicas_have_ports_of_their_own(driver: ProcessDriver) -> None:
    started = [driver.runtime.start(driver.spec(name, *SERVE)) for name in "abcde"]
    ports = {item.address.port for item in started if item.address}
    assert len(ports) == 5
    assert all(20000 <= port < 30000 for port in ports)


def test_stop_all_ends_every_replica_of_ours_only(driver: ProcessDriver) -> None:
    for name in ("a", "b"):
        driver.runtime.start(driver.spec(name, *SERVE))
        wait_for(lambda name=name: "listening" in driver.runtime.logs(name), "the replica")
    foreign = driver.another(foreign=True)
    foreign.start(driver.spec("c", *SERVE))
    driver.runtime.stop_all()
    assert {item.state for item in driver.runtime.list()} == {ContainerState.EXITED}
    assert {item.exit_code for item in driver.runtime.list()} == {0}
    assert {item.state for item in foreign.list()} == {ContainerState.RUNNING}


def test_what_needs_a_container_is_refused(driver: ProcessDriver) -> None:
    for program in (None, "vllm"):
        with pytest.raises(InvalidSpec, match="container"):
            driver.runtime.start(replace(driver.spec("a", *SERVE), program=program))
    assert driver.runtime.list() == []


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "../../etc"])
def test_names_stay_in_their_folder(driver: ProcessDriver, name: str) -> None:
    with pytest.raises(InvalidSpec):
        driver.runtime.start(driver.spec(name, *SERVE))
    with pytest.raises(InvalidSpec):
        driver.runtime.remove(name)


def _reader(folder: Path, after: str = "", tail: int = 5) -> list[LogLine]:
    return list(process_logs.follow(folder, tail=tail, after=after, ended=lambda: True))


def test_reading_goes_on_through_a_rotation(tmp_path: Path) -> None:
    log, older = tmp_path / "log", tmp_path / "log.1"
    log.write_bytes(b"one\ntwo\n")
    shown = _reader(tmp_path)
    assert [line.text for line in shown] == ["one", "two"]
    with log.open("ab") as file:
        file.write(b"thr")
    log.rename(older)
    log.write_bytes(b"ee\nfour\n")
    assert [(line.text, line.gap) for line in _reader(tmp_path, shown[-1].mark)] == [
        ("three", False),
        ("four", False),
    ]
    assert [line.text for line in _reader(tmp_path, tail=3)] == ["two", "three", "four"]
    log.rename(older)
    log.write_bytes(b"five\n")
    assert [(line.text, line.gap) for line in _reader(tmp_path, shown[-1].mark, tail=2)] == [
        ("four", True),
        ("five", False),
    ]


def test_a_new_file_with_an_old_inode_is_no_continuation(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"one\ntwo\n")
    mark = _reader(tmp_path)[-1].mark
    with log.open("r+b") as file:  # as if the file had been dropped and another one had got its inode
        file.write(b"new\nnow\nmore\n")
    assert [(line.text, line.gap) for line in _reader(tmp_path, mark)] == [
        ("new", True),
        ("now", False),
        ("more", False),
    ]


def test_far_behind_it_is_the_tail_that_is_read(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"one\n")
    mark = _reader(tmp_path)[-1].mark
    with log.open("ab") as file:
        file.write(b"x" * 2_000_000 + b"\nlast\n")
    assert [(line.text, line.gap) for line in _reader(tmp_path, mark, tail=1)] == [("last", True)]
