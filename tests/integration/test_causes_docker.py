"""Causes on a real engine: what a container does is made here, what is told of it comes out of the reconciler."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import redis

from endpoints import fixes
from endpoints.cause_card import cause
from endpoints.causes import diagnosis
from endpoints.models import Endpoint, InstanceType, Replica
from endpoints.reconciler import apply, hints, observe
from iam.actors import Actor
from registry.images import resolve
from registry.models import RegisteredModel, Source
from runtimes.contract import ContainerSpec
from runtimes.docker import DockerRuntime
from runtimes.errors import RuntimeFailure
from runtimes.images import PYTHON, ensure_llama_cpp
from tests.support import require
from tests.support_deploy import Driver
from tests.support_endpoints import load_data, new_endpoint, ready_model
from tests.support_models import tiny_llama
from tests.support_runtimes import remove_all

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.engine, pytest.mark.redis]

# Opens a side port at once and the one it is asked on after some seconds, as servers do that load a model in between.
LATE = """
import http.server, threading, time
class Hello(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
threading.Thread(target=http.server.HTTPServer(("0.0.0.0", 9090), Hello).serve_forever, daemon=True).start()
time.sleep(4)
http.server.HTTPServer(("0.0.0.0", 8080), Hello).serve_forever()
"""


@pytest.fixture
def drive(redis_server: redis.Redis, db: None) -> Iterator[Driver]:
    """An engine on which nothing of this test stays."""
    installation = f"test-{secrets.token_hex(6)}"
    runtime = DockerRuntime(installation)
    try:
        ensure_llama_cpp(runtime)
    except RuntimeFailure as failure:
        require("docker engine", False, failure.evidence)
    load_data()
    yield Driver(runtime)
    remove_all(installation)


@pytest.fixture
def tiny(editor_actor: Actor, tmp_path: Path, drive: Driver) -> RegisteredModel:
    """A chat model that really answers."""
    tmp_path.chmod(0o755)
    tiny_llama(tmp_path / "weights" / "tiny.gguf")
    return ready_model(editor_actor.project, weights_path=str(tmp_path / "weights"), entry_file="tiny.gguf")


def custom(actor: Actor, weights: RegisteredModel | None = None, *command: str) -> RegisteredModel:
    """Our llama.cpp image as somebody's own container."""
    return ready_model(
        actor.project,
        "custom",
        "custom",
        source=Source.IMAGE,
        source_ref={
            "image": resolve("berth/llama-cpp"),
            "port": 8080,
            "health_path": "/health",
            "command": list(command),
        },
        weights_path=weights.weights_path if weights else "",
        entry_file="",
    )


def failed(drive: Driver, endpoint: Endpoint) -> Replica:
    """The replica that failed, once the endpoint says so."""
    drive.to(endpoint, "FAILED")
    return endpoint.replicas.get(state="failed")


def run(monkeypatch: pytest.MonkeyPatch, *command: str) -> None:
    """Containers run this Python in place of their image's own program."""
    real = apply.container_spec

    def changed(replica: Replica, endpoint: Endpoint) -> ContainerSpec:
        return replace(
            real(replica, endpoint), entrypoint=(PYTHON, "-c"), command=command, env={"PYTHONUNBUFFERED": "1"}
        )

    monkeypatch.setattr(apply, "container_spec", changed)


def deadline(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """A health deadline that a test can wait for."""
    real = observe.health_check
    monkeypatch.setattr(observe, "health_check", lambda revision: replace(real(revision), timeout_s=seconds))


def test_a_server_for_itself_alone(
    drive: Driver, editor_actor: Actor, tiny: RegisteredModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    deadline(monkeypatch, 3)
    model = custom(editor_actor, tiny, "--model", "/models/tiny.gguf")  # its default host is 127.0.0.1
    replica = failed(drive, new_endpoint(editor_actor, model))
    assert (replica.reason_code, replica.evidence["port"]) == ("bound_to_loopback", 8080)
    assert replica.evidence["listening"] == [8080]


def test_a_server_that_listens_on_nothing(
    drive: Driver, editor_actor: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    deadline(monkeypatch, 3)
    run(monkeypatch, "import time; print('thinking'); time.sleep(600)")
    replica = failed(drive, new_endpoint(editor_actor, custom(editor_actor)))
    assert (replica.reason_code, replica.evidence["listening"]) == ("health_timeout", [])


def test_two_programs_on_one_port(
    drive: Driver, editor_actor: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(
        monkeypatch,
        "import socket; a = socket.create_server(('', 8080)); b = socket.create_server(('', 8080), reuse_port=False)",
    )
    replica = failed(drive, new_endpoint(editor_actor, custom(editor_actor)))
    assert replica.reason_code == "port_in_use"
    assert replica.evidence["exit_code"] == 1


def test_a_model_file_that_is_cut_off(drive: Driver, editor_actor: Actor, tiny: RegisteredModel) -> None:
    file = Path(tiny.weights_path) / "tiny.gguf"
    file.write_bytes(file.read_bytes()[:200_000])
    replica = failed(drive, new_endpoint(editor_actor, tiny))
    assert replica.reason_code == "model_file_corrupt", replica.evidence
    assert "corrupted or incomplete" in replica.evidence["detail"]


def test_a_weights_folder_that_is_gone(drive: Driver, editor_actor: Actor, tiny: RegisteredModel) -> None:
    shutil.rmtree(tiny.weights_path)
    replica = failed(drive, new_endpoint(editor_actor, tiny))
    assert (replica.reason_code, replica.evidence["file"]) == ("model_file_missing", tiny.weights_path)


def test_a_program_that_writes_where_it_may_not(
    drive: Driver, editor_actor: Actor, tiny: RegisteredModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(monkeypatch, "open('/models/cache.bin', 'w')")
    replica = failed(drive, new_endpoint(editor_actor, tiny))  # its root and its weights are read-only
    assert (replica.reason_code, replica.evidence["file"]) == ("read_only_files", "/models/cache.bin")


def test_a_context_that_its_memory_does_not_hold(
    drive: Driver, editor_actor: Actor, tiny: RegisteredModel
) -> None:
    InstanceType.objects.filter(name="local-cpu").update(memory_gib=0.3)
    endpoint = new_endpoint(editor_actor, tiny, settings={"max_context": 1048576, "max_sequences": 4})
    replica = failed(drive, endpoint)
    assert replica.reason_code == "context_too_long"
    assert (replica.evidence["asked"], replica.evidence["fits"]) == (1048576, 2048)
    assert replica.evidence["exit_code"] == 137


def test_a_hint_comes_early_and_goes_when_it_was_wrong(
    drive: Driver, editor_actor: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (diagnosis, hints):
        monkeypatch.setattr(module, "HINT_AFTER_S", 0.5)
    monkeypatch.setattr(hints, "LOOK_EVERY_S", 1)
    run(monkeypatch, LATE)
    endpoint = drive.until(
        new_endpoint(editor_actor, custom(editor_actor)), lambda item: item.reason_code == "wrong_port"
    )
    assert (endpoint.status, endpoint.reason_params["ports"]) == ("DEPLOYING", [9090])
    card = cause(endpoint, list(endpoint.replicas.all()))
    assert card is not None
    assert (card.is_hint, card.tone, card.replica) == (True, "warn", None)
    endpoint = drive.to(endpoint, "ACTIVE")
    replica = endpoint.replicas.get()
    assert (endpoint.reason_code, replica.reason_code, replica.evidence) == ("", "", {})


def test_the_way_out_can_be_taken_before_it_has_failed(
    drive: Driver, editor_actor: Actor, tiny: RegisteredModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (diagnosis, hints):
        monkeypatch.setattr(module, "HINT_AFTER_S", 0.5)
    monkeypatch.setattr(hints, "LOOK_EVERY_S", 1)
    model = custom(editor_actor, tiny, "--model", "/models/tiny.gguf", "--host", "0.0.0.0", "--port", "8181")
    endpoint = drive.until(new_endpoint(editor_actor, model), lambda item: item.reason_code == "wrong_port")
    fixes.apply(actor=editor_actor, endpoint=endpoint, key="use_port:8181")
    endpoint = drive.to(endpoint, "ACTIVE")
    first, second = endpoint.replicas.order_by("revision__number")
    assert (first.state, second.state, second.port) == ("stopped", "ready", 8181)
    assert [item.name for item in drive.runtime.list()] == [second.name]
