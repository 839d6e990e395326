"""BERTH_RUNTIME: which driver is chosen, and the sentence that says why (contract §1)."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtimes import select
from runtimes.errors import UnknownRuntime
from tests.contract.drivers import DockerDriver


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
