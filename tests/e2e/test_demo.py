"""`make demo` as a newcomer runs it, on both runtimes, with real weights."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import docker
import docker.errors
import psutil
import pytest

from tests.support import require
from tests.support_platform import Place, place
from tests.support_processes import Running, eventually, processes_of, started

pytestmark = [pytest.mark.envoy, pytest.mark.redis, pytest.mark.timeout(420)]
SIMILAR = (0.679, 0.104)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models root for this file: the weights are fetched and converted by its first test."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture
def on_process(tmp_path: Path) -> Place:
    return place(tmp_path, "process")


@pytest.fixture
def on_docker(tmp_path: Path) -> Iterator[Place]:
    """A place whose containers, network included, are removed afterwards."""
    require("docker engine", engine_answers(), "docker ping failed")
    where = place(tmp_path, "docker")
    yield where
    with closing(docker.from_env()) as engine:
        for container in containers(where):
            container.remove(force=True)
        for network in engine.networks.list(filters={"label": f"berth.owner={owner(where)}"}):
            network.remove()


def engine_answers() -> bool:
    try:
        with closing(docker.from_env()) as engine:
            return bool(engine.ping())
    except docker.errors.DockerException:
        return False


def owner(where: Place) -> str:
    return (where.home / "keys" / "owner").read_text().strip()[:32]


def containers(where: Place) -> list[docker.models.containers.Container]:
    with closing(docker.from_env()) as engine:
        return engine.containers.list(all=True, filters={"label": f"berth.owner={owner(where)}"})


def demo(where: Place, models: Path, *, once: bool = False):  # type: ignore[no-untyped-def]
    """`make demo`, told where the shared weights are."""
    command = [
        shutil.which("make") or "make",
        "--no-print-directory",
        "demo",
        *(["ARGS=--once"] if once else []),
    ]
    return started(command, where.home, {**where.env, "BERTH_MODELS_ROOT": str(models)})


def similarities(text: str) -> tuple[float, ...]:
    return tuple(float(found) for found in re.findall(r'^ +(\d\.\d{3})  "', text, re.MULTILINE))


def front_of(running: Running) -> Running:
    """The process below make, which a Ctrl-C in a terminal reaches directly."""
    child = psutil.Process(running.pid).children()[0]
    running.send = child.send_signal  # type: ignore[method-assign]
    return running


def test_once_on_the_process_runtime_calls_the_model_and_leaves_nothing(
    on_process: Place, models: Path
) -> None:
    with demo(on_process, models, once=True) as running:
        assert running.process.wait(300) == 0, running.text
        assert similarities(running.text) == pytest.approx(SIMILAR, abs=0.002)
        assert "account, endpoint, model removed" in running.text
        assert "Traceback" not in running.text
        assert processes_of(on_process.home) == []
        assert not any((on_process.home / "weights").iterdir())


def test_the_printed_lines_work_when_pasted_and_everything_comes_back(
    on_process: Place, models: Path
) -> None:
    require("curl", shutil.which("curl") is not None, "the printed lines call it")
    with demo(on_process, models) as running:
        running.line(r"Hello from Berth", 300)
        answer = paste(running.text)
        assert len(answer["data"][0]["embedding"]) == 384
        assert running.line(r"login +(\S+@\S+) +password (\S{12,})")
        url = running.line(r"endpoint URL +(\S+)").group(1)
        secrets = [running.line(r"client_secret +(\S+)")[1], running.line(r"login .* password (\S+)")[1]]
        assert files_with(on_process.home, secrets) == []
        took = front_of(running).stop(signal.SIGINT)
        assert took < 10
        assert processes_of(on_process.home) == []  # its replica included
    with demo(on_process, models) as second:
        second.line(r"Hello from Berth", 120)
        assert second.line(r"endpoint URL +(\S+)").group(1) == url
        assert similarities(second.text) == pytest.approx(SIMILAR, abs=0.002)
        second.line(r"login +as shown at the first start; new password: ")


def test_a_replica_that_dies_after_redis_was_killed_is_replaced(on_process: Place, models: Path) -> None:
    with demo(on_process, models) as running:
        running.line(r"Hello from Berth", 300)
        front = Running(front_of(running).process, running.output)
        front.pid = psutil.Process(running.pid).children()[0].pid
        front.children()["redis"].kill()
        running.line(r"redis ended with signal 9; started again")
        for replica in replicas(on_process.home):
            replica.kill()
        eventually(lambda: not answers(running.text), "its endpoint does not answer", 10)
        eventually(lambda: answers(running.text), "another replica answers", 60)


def files_with(home: Path, secrets: list[str]) -> list[Path]:
    """Files of the platform in which something stands that is shown once."""
    files = [path for path in home.rglob("*") if path.is_file() and "static" not in path.parts]
    return [path for path in files if any(secret.encode() in path.read_bytes() for secret in secrets)]


def replicas(home: Path) -> list[psutil.Process]:
    found = [one for one in processes_of(home) if any("serve.py" in part for part in one.cmdline())]
    assert found
    return found


def answers(text: str) -> bool:
    try:
        return "data" in paste(text)
    except (subprocess.CalledProcessError, ValueError):
        return False


def test_once_on_docker_calls_the_model_and_leaves_nothing(on_docker: Place, models: Path) -> None:
    with demo(on_docker, models, once=True) as running:
        assert running.process.wait(300) == 0, running.text
        assert similarities(running.text) == pytest.approx(SIMILAR, abs=0.002)
        assert containers(on_docker) == []


def test_containers_keep_running_after_ctrl_c_and_are_adopted(on_docker: Place, models: Path) -> None:
    with demo(on_docker, models) as running:
        running.line(r"Hello from Berth", 300)
        front_of(running).stop(signal.SIGINT)
    [before] = containers(on_docker)
    assert before.status == "running"
    with demo(on_docker, models) as second:
        second.line(r"Hello from Berth", 120)
        [after] = containers(on_docker)
        assert after.id == before.id


def test_a_step_that_fails_is_named_with_its_evidence(on_process: Place, tmp_path: Path) -> None:
    nothing = tmp_path / "models"
    nothing.mkdir()
    (nothing / "all-MiniLM-L6-v2.gguf").write_bytes(b"not a model")
    with demo(on_process, nothing, once=True) as running:
        assert running.process.wait(120) != 0
        assert re.search(r"failed at model: .*GGUF", running.text), running.text
        assert "Traceback" not in running.text
        assert processes_of(on_process.home) == []


def paste(text: str) -> dict:  # type: ignore[type-arg]
    """Run the printed commands in a shell, as they stand; the last one's answer."""
    start, end = text.index("  TOKEN=$("), text.index('"Hello from Berth"}\'') + len('"Hello from Berth"}\'')
    done = subprocess.run(
        ["bash", "-c", text[start:end]], capture_output=True, text=True, timeout=30, check=True
    )
    return json.loads(done.stdout)
