"""Logs of replicas that ended: made harmless, bounded, kept and dropped with what they belong to."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from endpoints import log_tail, replica_logs
from endpoints.log_text import clean, cleaned
from endpoints.models import Replica, ReplicaState
from iam.actors import Actor
from runtimes.contract import ContainerSpec
from runtimes.errors import RuntimeUnreachable
from runtimes.fake import FakeRuntime
from tests.support_endpoints import load_data, new_endpoint


@pytest.fixture(autouse=True)
def home(settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    settings.BERTH_HOME = tmp_path
    monkeypatch.setattr(log_tail, "forget", lambda names: None)  # needs no Redis here
    return tmp_path


def printed(*lines: str, name: str = "r1") -> FakeRuntime:
    runtime = FakeRuntime()
    runtime.start(ContainerSpec(name, "any", 80))
    runtime.engine.containers[name].lines += lines
    return runtime


def text_of(name: str) -> str:
    path = replica_logs.kept_file(name)
    assert path is not None
    return path.read_text()


# -- text ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("printed", "shown"),
    [
        ("plain, tab\there, Tiếng Việt 🙂", "plain, tab\there, Tiếng Việt 🙂"),
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07after", "after"),
        ("\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b[2J\x1b[H\x1bcgone", "gone"),
        ("\x9b31mred", "red"),
        (" 5%\r50%\r100%", "100%"),
        ("windows\r\nlines\r\n", "windows\nlines\n"),
        ("nul\x00bell\x07", "nul\ufffdbell\ufffd"),
        ("turned \u202etxt.exe", "turned \ufffdtxt.exe"),
        ("two\u2028lines", "two\ufffdlines"),
        ("unfinished \x1b[31", "unfinished 31"),
    ],
)
def test_what_a_terminal_would_obey_is_gone(printed: str, shown: str) -> None:
    assert clean(printed) == shown
    assert b"".join(cleaned([printed.encode()])).decode() == shown


def test_pieces_may_be_cut_anywhere() -> None:
    raw = "\x1b[31mnaïve\x1b[0m\r\nnext 🙂\n".encode()
    for cut in range(len(raw)):
        assert b"".join(cleaned([raw[:cut], raw[cut:]])).decode() == "naïve\nnext 🙂\n"


@pytest.mark.parametrize("evil", ["\r", "\x1b", "\x1b[", "\x1b]", "\x1b[1", "a\r", "\x9b0"])
def test_no_text_makes_it_slow(evil: str) -> None:
    text = "\r" + evil * (300_000 // len(evil)) + "y" * 300_000
    began = time.monotonic()
    for _ in cleaned([text.encode()]):
        pass
    assert time.monotonic() - began < 5


# -- keeping ---------------------------------------------------------------------------------------------------------


def test_only_the_end_is_kept_and_from_a_lines_beginning(settings: Any) -> None:
    settings.BERTH_REPLICA_LOG_BYTES = 1000
    runtime = printed(*(f"line {number:04d}" for number in range(500)))
    replica_logs.keep(runtime, "r1")
    lines = text_of("r1").splitlines()
    assert lines == [f"line {number:04d}" for number in range(400, 500)]


def test_an_engine_that_is_away_leaves_what_was_kept(caplog: pytest.LogCaptureFixture) -> None:
    runtime = printed("one")
    replica_logs.keep(runtime, "r1")
    runtime.engine.unreachable()
    replica_logs.keep(runtime, "r1")
    assert text_of("r1") == "one\n"
    assert RuntimeUnreachable.code in caplog.text


def test_a_full_disk_fails_nothing(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def full(*_: object, **__: object) -> Iterator[bytes]:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(replica_logs, "_write", full)
    replica_logs.keep(printed("one"), "r1")
    assert "No space left" in caplog.text
    assert list(replica_logs.folder().iterdir()) == []


@pytest.mark.parametrize("name", ["", "..", "../up", "a/b", ".hidden", "a\0b", "x" * 300, "a\n"])
def test_a_name_leads_nowhere_else(name: str, home: Path) -> None:
    with pytest.raises(ValueError, match="no replica's name"):
        replica_logs.path_of(name)
    assert replica_logs.kept_file(name) is None
    replica_logs.forget([name])


# -- dropping --------------------------------------------------------------------------------------------------------


@pytest.fixture
def replica(editor_actor: Actor) -> Replica:
    load_data()
    endpoint = new_endpoint(editor_actor)
    return endpoint.replicas.create(
        revision=endpoint.revision,
        slot=1,
        name="r1",
        state=ReplicaState.FAILED,
        evidence={"logs": "last words"},
    )


@pytest.mark.django_db
def test_the_kept_file_comes_before_the_evidence(replica: Replica) -> None:
    assert replica_logs.last_lines(replica) == ["last words"]
    replica_logs.keep(printed("one", "two", "x" * 9000), "r1")
    assert replica_logs.last_lines(replica, 2) == ["two", "x" * log_tail.LINE_CHARACTERS]


def _file(name: str, size: int, age_s: float) -> Path:
    path = replica_logs.folder() / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"x" * size)
    os.utime(path, (time.time() - age_s,) * 2)
    return path


@pytest.mark.django_db
def test_what_belongs_to_nobody_goes_and_the_oldest_when_it_is_too_much(
    replica: Replica, settings: Any
) -> None:
    assert replica_logs.tidy() == []
    rows = {
        f"r{n}": Replica.objects.create(
            endpoint=replica.endpoint, revision=replica.revision, slot=n, name=f"r{n}"
        )
        for n in range(2, 6)
    }
    for number in range(1, 6):
        _file(f"r{number}.log", 1000, 100 * number)
    _file("stranger.log", 10, replica_logs.STRANGER_S + 60)
    _file("young.log", 10, 5)
    _file("r1.abcd.part", 10, replica_logs.STRANGER_S + 60)
    assert sorted(replica_logs.tidy()) == ["r1.abcd.part", "stranger.log"]
    settings.BERTH_REPLICA_LOGS_TOTAL_BYTES = 3500
    assert replica_logs.tidy() == ["r5.log", "r4.log"]
    assert set(rows) >= {"r2"}
    assert replica_logs.kept_file("r1") is not None
