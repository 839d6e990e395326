"""GPUs on a real engine, with a stand-in for NVIDIA's hook: the ids in the containers are the ids in the database."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import closing

import docker
import httpx
import pytest
import redis

from endpoints import queue, services
from endpoints.errors import describe
from endpoints.models import Endpoint, Gpu, Node, Replica, ReplicaState
from endpoints.placement import ledger, refresh
from iam.actors import Actor
from registry.models import RegisteredModel, Source
from runtimes.contract import LABEL_ENDPOINT, ContainerSpec
from runtimes.docker import DockerRuntime
from runtimes.errors import GpuUnavailable, RuntimeFailure
from runtimes.images import PYTHON, ensure_llama_cpp
from tests.support import require
from tests.support_deploy import Driver
from tests.support_endpoints import load_data, new_endpoint, ready_model
from tests.support_placement import gpu_rows, gpu_size
from tests.support_runtimes import remove_all

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.engine, pytest.mark.redis]

# Says what NVIDIA's container toolkit would go by: the variable in the environment of the container's first process.
SERVER = """
import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(os.environ.get("NVIDIA_VISIBLE_DEVICES", "none").encode())
http.server.HTTPServer(("0.0.0.0", 8080), Handler).serve_forever()
"""


def by_hand(name: str, image: str, gpu: str) -> ContainerSpec:
    """A container that no replica's row knows, on a network of its own."""
    return ContainerSpec(
        name, image, 8080, labels={LABEL_ENDPOINT: "me-gone"}, gpu_ids=(gpu,), network=f"n{name[-12:]}"
    )


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An image whose server tells its GPUs."""
    driver = DockerRuntime("images")
    try:
        base = ensure_llama_cpp(driver)
        folder = tmp_path_factory.mktemp("image")
        (folder / "server.py").write_text(SERVER)
        (folder / "server.py").chmod(0o644)
        (folder / "Dockerfile").write_text(
            f'FROM {base}\nCOPY server.py /server.py\nENTRYPOINT ["{PYTHON}", "/server.py"]\nCMD []\n'
        )
        name = f"berth-test-gpus-{secrets.token_hex(4)}:1"
        driver.build_image(name, folder, {})
    except RuntimeFailure as failure:
        require("docker engine", False, failure.evidence)
    yield name
    with closing(docker.from_env()) as engine:
        engine.images.remove(name, force=True)


@pytest.fixture
def runtime(image: str) -> Iterator[DockerRuntime]:
    """An engine on which nothing of this test stays, and which takes requests for GPUs."""
    driver = DockerRuntime(installation := f"test-{secrets.token_hex(6)}")
    try:
        driver.start(by_hand(f"{installation}-probe", image, "GPU-probe"))
    except GpuUnavailable as failure:
        require("an NVIDIA hook, or a stand-in for it", False, failure.evidence)
    finally:
        remove_all(installation)
    yield driver
    remove_all(installation)


@pytest.fixture
def drive(runtime: DockerRuntime, redis_server: redis.Redis, db: None) -> Driver:
    """The engine's machine is known, and an admin has entered four GPUs."""
    load_data()
    refresh(runtime)
    gpu_rows(Node.objects.get(), 4)
    return Driver(runtime)


@pytest.fixture
def tells(editor_actor: Actor, image: str, drive: Driver) -> RegisteredModel:
    return ready_model(
        editor_actor.project,
        name="tells",
        framework="custom",
        source=Source.IMAGE,
        source_ref={"image": image, "port": 8080, "health_path": "/health"},
        weights_path="",
        entry_file="",
    )


def on_two_gpus(actor: Actor, model: RegisteredModel, name: str, replicas: int = 1) -> Endpoint:
    size = gpu_size(2)
    return new_endpoint(
        actor, model, name=name, instance_type=size.name, min_replicas=replicas, max_replicas=replicas
    )


def gpus_inside(replica: Replica) -> set[str]:
    """What the container itself says that it was given."""
    with httpx.Client(timeout=10, trust_env=False) as client:
        return set(client.get(f"http://{replica.host}:{replica.port}/").text.split(","))


def claimed(replica: Replica) -> set[str]:
    return set(Gpu.objects.filter(replica=replica).values_list("uuid", flat=True))


def test_two_replicas_get_two_gpus_each_and_a_third_waits_until_one_stops(
    drive: Driver,
    runtime: DockerRuntime,
    editor_actor: Actor,
    tells: RegisteredModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pair = drive.to(on_two_gpus(editor_actor, tells, "pair", replicas=2), "ACTIVE")
    first, second = pair.replicas.filter(state=ReplicaState.READY).order_by("slot")
    for replica in (first, second):
        assert gpus_inside(replica) == set(replica.gpu_ids) == claimed(replica)
        assert len(claimed(replica)) == 2
    assert claimed(first).isdisjoint(claimed(second))

    third = on_two_gpus(editor_actor, tells, "third")
    third = drive.until(third, lambda item: item.reason_code == "no_capacity")
    assert third.status == "PENDING"
    assert describe(third.reason_code, third.reason_params).message == (
        "It needs 2 × rtx2080ti in HCM; 0 free of 4: pair/r1 and pair/r2 hold the rest."
    )
    third = drive.until(
        third, lambda item: item.conditions[1]["status"]
    )  # its (empty) route is known everywhere
    written = third.updated_at
    for _ in range(3):
        drive.step(third)
    third.refresh_from_db()
    assert third.updated_at == written  # nothing changed, nothing was written

    hints: list[str] = []
    real = queue._send
    monkeypatch.setattr(
        queue, "_send", lambda task, argument, delay: (hints.append(argument), real(task, argument, delay))
    )
    services.pause_endpoint(actor=editor_actor, endpoint=pair)
    hints.clear()
    drive.until(pair, lambda item: item.reason_code == "paused")
    assert third.id in hints  # nobody has to ask again: what was released looks who waits
    third = drive.to(third, "ACTIVE")
    replica = third.replicas.get()
    assert gpus_inside(replica) == set(replica.gpu_ids) == claimed(replica)
    assert Gpu.objects.exclude(replica=None).count() == 2


def test_the_ledger_sees_who_is_really_on_a_gpu(
    drive: Driver, runtime: DockerRuntime, editor_actor: Actor, tells: RegisteredModel, image: str
) -> None:
    serving = drive.to(on_two_gpus(editor_actor, tells, "serving"), "ACTIVE")
    replica = serving.replicas.get()
    stranger = DockerRuntime(f"{runtime._owner}-foreign")
    leak = f"{runtime._owner}-leak"
    try:
        runtime.start(by_hand(leak, image, "GPU-local-rtx2080ti-2"))
        stranger.start(by_hand(f"{runtime._owner}-else", image, "3"))  # by its index
        refresh(runtime)
    finally:
        remove_all(f"{runtime._owner}-foreign")
    found = {entry.gpu.index: entry for entry in ledger.gpus()}
    assert [found[index].state for index in range(4)] == ["used", "used", "leaked", "foreign"]
    assert found[0].gpu.replica == replica
    assert found[2].leaks == (leak,)
    runtime.remove(leak)
    refresh(runtime)
    found = {entry.gpu.index: entry for entry in ledger.gpus()}
    assert [found[index].state for index in range(4)] == ["used", "used", "free", "free"]
