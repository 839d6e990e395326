"""Deployments on a real Docker Engine: the good way, and each way in which a container can fail its owner."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from endpoints import replica_logs, services
from endpoints.errors import describe
from endpoints.models import Endpoint, InstanceType, Replica
from endpoints.reconciler import apply, observe
from iam.actors import Actor
from registry.images import resolve
from registry.models import RegisteredModel, Source
from runtimes.contract import ContainerSpec
from runtimes.docker import DockerRuntime
from runtimes.errors import RuntimeFailure
from runtimes.images import ensure_llama_cpp
from tests.support import require
from tests.support_deploy import Driver
from tests.support_endpoints import load_data, new_endpoint, ready_model
from tests.support_models import tiny_llama
from tests.support_runtimes import remove_all

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.engine, pytest.mark.redis]


@pytest.fixture
def runtime() -> Iterator[DockerRuntime]:
    """An engine on which nothing of this test stays."""
    installation = f"test-{secrets.token_hex(6)}"
    driver = DockerRuntime(installation)
    try:
        ensure_llama_cpp(driver)
    except RuntimeFailure as failure:
        require("docker engine", False, failure.evidence)
    yield driver
    remove_all(installation)


@pytest.fixture
def drive(runtime: DockerRuntime, redis_server: redis.Redis, db: None) -> Driver:
    load_data()
    return Driver(runtime)


@pytest.fixture
def tiny(editor_actor: Actor, tmp_path: Path, drive: Driver) -> RegisteredModel:
    """A chat model that really answers."""
    tmp_path.chmod(0o755)
    tiny_llama(tmp_path / "weights" / "tiny.gguf")
    return ready_model(editor_actor.project, weights_path=str(tmp_path / "weights"), entry_file="tiny.gguf")


def custom(actor: Actor, weights: RegisteredModel | None = None, **ref: Any) -> RegisteredModel:
    """Our llama.cpp image as somebody's own container, with a command of its own."""
    return ready_model(
        actor.project,
        name="custom",
        framework="custom",
        source=Source.IMAGE,
        source_ref={"image": resolve("berth/llama-cpp"), "port": 8080, "health_path": "/health", **ref},
        weights_path=weights.weights_path if weights else "",
        entry_file="",
    )


def failure_of(drive: Driver, endpoint: Endpoint, **limits: Any) -> tuple[str, Replica, Endpoint]:
    """The endpoint's reason once it failed, and the replica that did."""
    failed = drive.to(endpoint, "FAILED", **limits)
    return failed.reason_code, failed.replicas.get(), failed


def test_deploy_serve_delete_and_nothing_stays(
    drive: Driver, runtime: DockerRuntime, editor_actor: Actor, tiny: RegisteredModel
) -> None:
    endpoint = drive.to(new_endpoint(editor_actor, tiny), "ACTIVE")
    replica = endpoint.replicas.get()
    names = list(replica.phases.values_list("name", flat=True))
    assert names == [
        "queued", "scheduling", "creating", "starting", "loading", "health_check", "routing", "active",
    ]  # fmt: skip
    assert all(phase.finished_at and phase.finished_at >= phase.started_at for phase in replica.phases.all())
    models = httpx.get(f"http://{replica.host}:{replica.port}/v1/models", timeout=10).json()
    assert models["data"][0]["id"] == "tiny"
    services.delete_endpoint(actor=editor_actor, endpoint=endpoint)
    drive.gone(endpoint)
    assert runtime.list() == []
    assert not _networks(runtime, editor_actor)


def _networks(runtime: DockerRuntime, actor: Actor) -> list[str]:
    networks = runtime._api().networks()
    return [item["Name"] for item in networks if actor.project.id in item["Name"]]


def test_two_replicas_and_one_of_them_removed_by_hand(
    drive: Driver, runtime: DockerRuntime, editor_actor: Actor, tiny: RegisteredModel
) -> None:
    endpoint = drive.to(
        new_endpoint(editor_actor, tiny, min_replicas=2, max_replicas=2, instance_type="local-cpu"), "ACTIVE"
    )
    first, second = endpoint.replicas.order_by("slot")
    runtime.remove(first.name)
    endpoint = drive.until(
        endpoint, lambda item: item.replicas.filter(slot=1, attempt=2, state="ready").exists()
    )
    endpoint = drive.to(endpoint, "ACTIVE")
    second.refresh_from_db()
    assert second.state == "ready"
    assert {item.name for item in runtime.list()} == {second.name, endpoint.replicas.get(attempt=2).name}
    assert endpoint.events.filter(kind="replica.lost").count() == 1


def test_a_container_that_exits_at_once_says_why(
    drive: Driver, runtime: DockerRuntime, editor_actor: Actor
) -> None:
    model = custom(editor_actor, command=["--model", "/nowhere/missing.gguf"])
    code, replica, endpoint = failure_of(drive, new_endpoint(editor_actor, model))
    assert code == "model_file_missing"
    assert replica.evidence["exit_code"] == 2
    assert "missing.gguf" in replica.evidence["logs"]
    reason = describe(endpoint.reason_code, endpoint.reason_params)
    assert "/nowhere/missing.gguf" in reason.message
    assert reason.action
    assert runtime.list() == []


def test_retry_tries_again(drive: Driver, editor_actor: Actor) -> None:
    model = custom(editor_actor, command=["--model", "/nowhere/missing.gguf"])
    endpoint = drive.to(new_endpoint(editor_actor, model), "FAILED")
    services.retry_endpoint(actor=editor_actor, endpoint=endpoint)
    drive.until(endpoint, lambda item: item.replicas.filter(attempt=2, state="failed").exists())
    assert drive.to(endpoint, "FAILED").reason_code == "model_file_missing"


def test_a_server_on_another_port_is_told_where_it_listens(
    drive: Driver, editor_actor: Actor, tiny: RegisteredModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    _hurry(monkeypatch)
    model = custom(
        editor_actor,
        tiny,
        port=9999,
        command=["--model", "/models/tiny.gguf", "--port", "8080", "--host", "0.0.0.0"],
    )
    code, replica, endpoint = failure_of(drive, new_endpoint(editor_actor, model))
    assert code == "wrong_port"
    assert (replica.evidence["port"], replica.evidence["path"]) == (9999, "/health")
    assert "serving tiny.gguf on" in replica.evidence["logs"]
    message = describe(endpoint.reason_code, endpoint.reason_params).message
    assert "9999" in message
    assert "8080" in message


def test_a_server_that_never_gets_healthy(
    drive: Driver, editor_actor: Actor, tiny: RegisteredModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    _hurry(monkeypatch)
    model = custom(
        editor_actor,
        tiny,
        health_path="/no-such-path",
        command=["--model", "/models/tiny.gguf", "--port", "8080", "--host", "0.0.0.0"],
    )
    code, replica, _endpoint = failure_of(drive, new_endpoint(editor_actor, model))
    assert (code, replica.evidence["path"]) == ("unhealthy_answer", "/no-such-path")


def test_the_llama_cpp_image_imported_as_a_custom_container_deploys_the_same_way(
    drive: Driver, editor_actor: Actor, tiny: RegisteredModel
) -> None:
    model = custom(
        editor_actor, tiny, command=["--model", "/models/tiny.gguf", "--port", "8080", "--host", "0.0.0.0"]
    )
    endpoint = drive.to(new_endpoint(editor_actor, model), "ACTIVE")
    replica = endpoint.replicas.get()
    assert httpx.get(f"http://{replica.host}:{replica.port}/health", timeout=10).is_success


def test_an_image_that_does_not_exist(drive: Driver, editor_actor: Actor) -> None:
    # Nothing listens on port 1 of loopback: the registry of this image can't be reached, whatever the network.
    model = custom(editor_actor, image="127.0.0.1:1/nobody/nothing:1")
    endpoint = drive.until(
        new_endpoint(editor_actor, model), lambda item: item.reason_code == "registry_unreachable"
    )
    assert endpoint.status == "PENDING"
    assert "127.0.0.1:1/nobody/nothing:1" in describe(endpoint.reason_code, endpoint.reason_params).message


def test_a_program_that_the_image_lacks(
    drive: Driver, editor_actor: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    _run_instead(monkeypatch, "/no/such/program")
    code, replica, _endpoint = failure_of(drive, new_endpoint(editor_actor, custom(editor_actor)))
    assert code == "command_not_found"
    assert "/no/such/program" in str(replica.evidence)


def test_a_container_that_needs_more_memory_than_it_has(
    drive: Driver, editor_actor: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    InstanceType.objects.filter(name="local-cpu").update(memory_gib=0.0625)
    _run_instead(
        monkeypatch, "/opt/python/bin/python3", "-c", "print('growing', flush=True); x = b'x' * 10**9"
    )
    code, replica, endpoint = failure_of(drive, new_endpoint(editor_actor, custom(editor_actor)))
    assert code == "out_of_memory", replica.evidence
    assert "growing" in replica.evidence["logs"]
    assert "0.0625 GiB" in describe(endpoint.reason_code, endpoint.reason_params).message


def test_an_engine_that_does_not_answer_is_named_and_takes_nothing_away(
    drive: Driver, runtime: DockerRuntime, editor_actor: Actor, tiny: RegisteredModel, tmp_path: Path
) -> None:
    serving = drive.to(new_endpoint(editor_actor, tiny), "ACTIVE")
    away = Driver(DockerRuntime("nobody", base_url=f"unix://{tmp_path}/gone.sock"))
    fresh = new_endpoint(editor_actor, tiny, name="fresh")
    fresh = away.until(fresh, lambda item: item.reason_code == "engine_unreachable")
    assert fresh.status == "PENDING"
    away.step(serving)
    serving.refresh_from_db()
    assert serving.status == "ACTIVE"
    assert serving.replicas.get().state == "ready"
    drive.to(fresh, "ACTIVE")
    assert len(runtime.list()) == 2


def test_an_instance_type_larger_than_the_machine_waits_with_the_arithmetic(
    drive: Driver, editor_actor: Actor, tiny: RegisteredModel
) -> None:
    endpoint = drive.to(new_endpoint(editor_actor, tiny, instance_type="a1-standard-16x64"), "PENDING")
    endpoint = drive.until(endpoint, lambda item: item.reason_code == "no_capacity")
    assert "16 CPUs" in describe(endpoint.reason_code, endpoint.reason_params).message


def test_pause_releases_everything_and_resume_serves_again(
    drive: Driver, runtime: DockerRuntime, editor_actor: Actor, tiny: RegisteredModel
) -> None:
    endpoint = drive.to(new_endpoint(editor_actor, tiny), "ACTIVE")
    services.pause_endpoint(actor=editor_actor, endpoint=endpoint)
    drive.until(endpoint, lambda item: item.status == "INACTIVE" and not runtime.list())
    services.resume_endpoint(actor=editor_actor, endpoint=endpoint)
    assert len(runtime.list()) == 0
    drive.to(endpoint, "ACTIVE")
    assert len(runtime.list()) == 1


def test_a_changed_model_rolls_out_and_the_old_replica_goes_last(
    drive: Driver, runtime: DockerRuntime, editor_actor: Actor, tiny: RegisteredModel
) -> None:
    endpoint = drive.to(new_endpoint(editor_actor, tiny), "ACTIVE")
    first = endpoint.replicas.get()
    services.update_endpoint(
        actor=editor_actor, endpoint=endpoint, changes={"settings": {"served_model_name": "second"}}
    )
    seen: set[str] = set()

    def rolled_out(item: Endpoint) -> bool:
        seen.add(item.status)
        return item.status == "ACTIVE" and item.replicas.filter(pk=first.pk, state="stopped").exists()

    drive.until(endpoint, rolled_out)
    assert seen <= {"ACTIVE", "UPDATING"}, "the endpoint served all the time and said so"
    replica = endpoint.replicas.get(state="ready")
    assert replica.revision.number == 2
    assert len(runtime.list()) == 1


def _run_instead(monkeypatch: pytest.MonkeyPatch, *command: str) -> None:
    """Containers run `command` in place of their image's own."""
    real = apply.container_spec

    def changed(replica: Replica, endpoint: Endpoint) -> ContainerSpec:
        return replace(real(replica, endpoint), entrypoint=command, command=None)

    monkeypatch.setattr(apply, "container_spec", changed)


def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """A health deadline that a test can wait for."""
    real = observe.health_check
    monkeypatch.setattr(observe, "health_check", lambda revision: replace(real(revision), timeout_s=3))


def test_the_log_of_a_replica_that_was_stopped_is_kept_until_its_endpoint_goes(
    drive: Driver, editor_actor: Actor, tiny: RegisteredModel
) -> None:
    endpoint = drive.to(new_endpoint(editor_actor, tiny), "ACTIVE")
    replica = endpoint.replicas.get()
    assert replica_logs.kept_file(replica.name) is None
    services.pause_endpoint(actor=editor_actor, endpoint=endpoint)
    drive.until(endpoint, lambda item: item.replicas.filter(state="stopped").exists())
    replica.refresh_from_db()
    assert replica_logs.last_lines(replica)
    services.delete_endpoint(actor=editor_actor, endpoint=endpoint)
    drive.gone(endpoint)
    assert replica_logs.kept_file(replica.name) is None


def test_the_whole_log_of_a_replica_that_failed_is_kept(
    drive: Driver, editor_actor: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    _run_instead(
        monkeypatch, "/opt/python/bin/python3", "-c", "print(*range(5000), sep='\\n'); raise SystemExit(3)"
    )
    _, replica, _ = failure_of(drive, new_endpoint(editor_actor, custom(editor_actor)))
    path = replica_logs.kept_file(replica.name)
    assert path is not None
    assert path.read_text().split() == [str(number) for number in range(5000)]
