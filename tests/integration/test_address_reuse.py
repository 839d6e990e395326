"""A gateway that is kept from following still leads to where an endpoint's replica was. Whose replica is there now?

Everything is real: engine, containers or processes, Envoy, its agent, web's answers to it. The reconciler's part is
played, so that the test says exactly what happens while the gateway stands still.
"""

from __future__ import annotations

import hashlib
import itertools
import secrets
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
import redis
from django.conf import settings
from django.db import OperationalError, transaction
from django.utils import timezone

from config.keyfiles import read_or_create
from endpoints import addresses, gateway_feed
from endpoints.models import Endpoint, HeldAddress, Replica, ReplicaState
from iam.actors import Actor
from runtimes import images
from runtimes.contract import ContainerSpec, Runtime
from runtimes.docker import DockerRuntime
from runtimes.docker_network import network_name
from runtimes.errors import RuntimeFailure
from runtimes.process import PORTS, ProcessRuntime
from tests.support import require
from tests.support_endpoints import load_data, new_endpoint, ready_model
from tests.support_gateway import Gateway, until
from tests.support_runtimes import remove_all

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.redis, pytest.mark.envoy]
REAL = [pytest.param("docker", marks=pytest.mark.engine), "process"]
POOL = "10.214.254.128/25"  # room for two networks
# Says its name to whoever comes.
WHO = """
import http.server, os, signal
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(os.environ["WHO"].encode())
    def log_message(self, *_):
        pass
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
http.server.HTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Handler).serve_forever()
"""


@dataclass(frozen=True)
class Place:
    """Where replicas run, and how to give two of them the same first choice of an address.

    choice   of a container's name and its network's key: what the driver tries first
    """

    runtime: Runtime
    image: str
    choice: Callable[[str, str], tuple[int, ...]]


@pytest.fixture(params=REAL)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    owner = f"test-{secrets.token_hex(6)}"
    if request.param == "process":
        processes = ProcessRuntime(
            tmp_path / "home", owner, programs={"who": (sys.executable, "-I", "-c", WHO)}
        )
        yield Place(processes, "any", lambda name, _: (number_of(name) % len(PORTS),))
        for item in processes.list():
            processes.remove(item.name)
        return
    runtime = DockerRuntime(owner, subnet_pool=POOL)
    try:
        image = images.ensure_llama_cpp(runtime)
    except RuntimeFailure as error:
        require("docker engine", False, error.evidence)
    # Two subnets of 61 addresses: both follow from names.
    yield Place(runtime, image, lambda name, key: (number_of(network_name(key)) % 2, number_of(name) % 61))
    remove_all(owner)


def number_of(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")


def spec_of(place: Place, name: str, network: str, who: str) -> ContainerSpec:
    return ContainerSpec(
        name=name,
        image=place.image,
        port=8080,
        program="who",
        entrypoint=(images.PYTHON, "-c", WHO) if place.runtime.kind == "docker" else None,
        env={"WHO": who, "HOST": "{{host}}", "PORT": "{{port}}"},
        network=network,
    )


def rival_of(place: Place, spec: ContainerSpec, who: str) -> ContainerSpec:
    """Another project's container whose first choice of an address is that of `spec`."""
    wanted = place.choice(spec.name, spec.network or "")
    names = ((f"rival-{secrets.token_hex(3)}-{n}", f"p{n}") for n in itertools.count())
    name, network = next(pair for pair in names if place.choice(*pair) == wanted)
    return replace(spec_of(place, name, network, who), name=name)


class Control:
    """Web's address and token, as a gateway wants them."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.token = read_or_create(settings.BERTH_GATEWAY_TOKEN_FILE)


T = TypeVar("T")


def written(work: Callable[[], T]) -> T:
    """Done in one transaction, as soon as web's thread reads none of its tables: of an SQLite database in memory they
    have locks that nobody waits for."""

    def tried() -> tuple[T] | None:
        try:
            with transaction.atomic():
                return (work(),)
        except OperationalError as error:
            if "table is locked" not in str(error):
                raise
            return None

    done: tuple[T] = until(tried, what="nobody reads its tables")
    return done[0]


@dataclass
class Stage:
    """An endpoint of one project, open to everybody, and a gateway before it."""

    endpoint: Endpoint
    gateway: Gateway
    place: Place

    def ask(self) -> tuple[int, bytes]:
        try:
            answer = self.gateway.get(f"/v1/{self.endpoint.id}/who")
        except OSError:
            return 0, b""
        return answer.status, answer.body

    def ready(self, spec: ContainerSpec) -> Replica:
        """Start a replica of the endpoint, and wait until it answers through the gateway."""
        address = self.place.runtime.start(spec, avoid=addresses.held()).address
        assert address is not None
        values: dict[str, Any] = {"state": ReplicaState.READY, "ready_at": timezone.now()}
        values |= {"host": address.host, "port": address.port}
        attempt = self.endpoint.replicas.count() + 1
        row = written(
            lambda: Replica.objects.create(
                endpoint=self.endpoint,
                revision=self.endpoint.revision,
                slot=1,
                attempt=attempt,
                name=spec.name,
                **values,
            )
        )
        gateway_feed.changed()
        until(lambda: self.ask() == (200, spec.env["WHO"].encode()), what=f"{spec.name} answers")
        return row

    def ended(self, row: Replica, *, hold: bool = True) -> None:
        """Its container has died, and what belongs to it goes."""

        def end() -> None:
            Replica.objects.filter(pk=row.pk).update(state=ReplicaState.FAILED, ended_at=timezone.now())
            if hold:
                addresses.hold(row)

        written(end)
        gateway_feed.changed()
        self.place.runtime.remove(row.name)
        self.place.runtime.remove_network(self.endpoint.project_id)


@pytest.fixture
def stage(place: Place, redis_server: redis.Redis, live_server: Any, editor_actor: Actor) -> Iterator[Stage]:
    load_data()
    redis_server.set("berth:gateway:counting", "1", ex=10**9 - 60)  # a platform that has been up for a while
    endpoint = new_endpoint(editor_actor, ready_model(editor_actor.project), private=False)
    gateway = Gateway(Control(live_server.url)).start()  # type: ignore[arg-type]
    try:
        until(lambda: gateway_feed.cluster().live_gateways(), what="the gateway asks")
        yield Stage(endpoint, gateway, place)
    finally:
        gateway.close()


def first(stage: Stage) -> ContainerSpec:
    return spec_of(stage.place, f"first-{secrets.token_hex(4)}", stage.endpoint.project_id, "ours")


def stand_still(stage: Stage) -> None:
    """The gateway serves what it has, and follows no more."""
    assert stage.gateway.agent is not None
    stage.gateway.agent.send_signal(signal.SIGSTOP)


def go_on(stage: Stage) -> None:
    assert stage.gateway.agent is not None
    stage.gateway.agent.send_signal(signal.SIGCONT)


def strangers_answer(stage: Stage, place: Place, rival: ContainerSpec) -> bool:
    """Whether a call to the endpoint is answered by the other project's replica, once that is up."""
    address = place.runtime.observe(rival.name)
    assert address is not None
    assert address.address is not None
    host, port = address.address.host, address.address.port
    until(lambda: _answers(host, port), what="the other project's replica is up")
    return any(stage.ask() == (200, b"theirs") for _ in range(5))


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


def test_the_control_without_holds_a_stranger_answers(stage: Stage, place: Place) -> None:
    """What the test below would see if addresses were not held back: it can fail."""
    spec = first(stage)
    row = stage.ready(spec)
    stand_still(stage)
    stage.ended(row, hold=False)
    rival = rival_of(place, spec, "theirs")
    place.runtime.start(rival, avoid=frozenset())
    assert strangers_answer(stage, place, rival)
    go_on(stage)


def test_a_stale_route_never_reaches_another_projects_replica(stage: Stage, place: Place) -> None:
    spec = first(stage)
    row = stage.ready(spec)
    stand_still(stage)
    stage.ended(row)
    rival = rival_of(place, spec, "theirs")
    seen = place.runtime.start(rival, avoid=addresses.held())
    assert seen.address is not None
    assert (seen.address.host, seen.address.port) != (row.host, row.port)
    assert not strangers_answer(stage, place, rival)
    assert addresses.release_left() == 0  # the gateway has been silent, and may still lead there
    place.runtime.remove(rival.name)
    place.runtime.remove_network(rival.network or "")
    go_on(stage)
    until(addresses.release_left, what="the gateway has followed")
    assert not HeldAddress.objects.exists()
    again = place.runtime.start(rival, avoid=addresses.held()).address
    assert again is not None
    assert (again.host, again.port) == (row.host, row.port)
    assert not strangers_answer(stage, place, rival)


def test_a_stopped_gateway_starts_with_the_newest_word(stage: Stage, place: Place) -> None:
    """Its files lead to an address that has another owner by now."""
    spec = first(stage)
    row = stage.ready(spec)
    assert stage.gateway.signal(signal.SIGTERM) == 0
    stage.ended(row)
    assert addresses.release_left() == 0  # it would start from its files
    HeldAddress.objects.all().delete()  # as after KNOWN_S
    rival = rival_of(place, spec, "theirs")
    place.runtime.start(rival, avoid=addresses.held())
    stage.gateway.start()
    until(lambda: _answers("127.0.0.1", stage.gateway.port), what="the gateway is back")
    assert not strangers_answer(stage, place, rival)
