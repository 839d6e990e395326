"""BERTH_RUNTIME: which driver is chosen, and the sentence that says why (contract §1)."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from runtimes import select
from runtimes.errors import UnknownRuntime
from tests.contract.drivers import DockerDriver
from tests.support_processes import ROOT


@pytest.fixture
def no_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")


@pytest.mark.usefixtures("no_engine")
def test_auto_without_an_engine_is_process(tmp_path: Path) -> None:
    choice = select.choose("auto", home=tmp_path, owner="test")
    assert choice.runtime.kind == "process"
    assert "no Docker Engine runs here" in choice.why
    assert "\n" not in choice.why


@pytest.mark.usefixtures("no_engine")
def test_docker_is_taken_at_its_word(tmp_path: Path) -> None:
    choice = select.choose("docker", home=tmp_path, owner="test")
    assert choice.runtime.kind == "docker"
    assert "no Docker Engine runs here" in choice.why


def test_an_engine_that_may_not_be_used_is_named_with_the_remedy() -> None:
    # pytest's own folders are closed to everybody else at a level that depends on how it was started.
    with (
        tempfile.TemporaryDirectory(prefix="berth-nobody-") as folder,
        socket.socket(socket.AF_UNIX) as engine,
    ):
        home = Path(folder)
        home.chmod(0o777)
        path = home / "engine.sock"
        engine.bind(str(path))
        engine.listen()
        path.chmod(0)
        done = subprocess.run(
            [sys.executable, "-c", AS_NOBODY, str(home)],
            env={**os.environ, "DOCKER_HOST": f"unix://{path}", "PYTHONPATH": str(ROOT / "platform")},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    docker, auto = done.stdout.splitlines()
    for line in (docker, auto):
        assert "may not be used: Permission denied" in line
        assert "Add the user to the docker group" in line
    assert docker.startswith("docker ")
    assert docker.endswith("Endpoints wait until then.")
    assert auto.startswith("process ")


# Root may open every socket; what it needs is loaded before it is root no more.
AS_NOBODY = """
import os, sys
from pathlib import Path
from runtimes import select
home = Path(sys.argv[1])
(home / "replicas").mkdir()
if os.getuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
for kind in ("docker", "auto"):
    choice = select.choose(kind, home=home, owner="test")
    print(choice.runtime.kind, choice.why)
"""


def test_process_asks_no_engine(tmp_path: Path) -> None:
    assert select.choose("process", home=tmp_path, owner="test").runtime.kind == "process"


@pytest.mark.engine
def test_auto_with_an_engine_is_docker(tmp_path: Path) -> None:
    DockerDriver(tmp_path)  # says loudly when there is no engine
    choice = select.choose("auto", home=tmp_path, owner="test")
    assert choice.runtime.kind == "docker"
    assert "Docker Engine answers" in choice.why


@pytest.mark.parametrize(("kind", "words"), [("swarm", "does not exist yet"), ("podman", "none of auto")])
def test_what_does_not_exist_is_one_line(tmp_path: Path, kind: str, words: str) -> None:
    with pytest.raises(UnknownRuntime, match=words) as failure:
        select.choose(kind, home=tmp_path, owner="test")
    assert "\n" not in str(failure.value)
