"""The part of the benchmark of many deployments that runs with the platform's own settings. Prints one line of JSON."""

from __future__ import annotations

import json
import sys
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import django

django.setup()

import docker  # noqa: E402
from django.conf import settings  # noqa: E402
from django.utils import timezone  # noqa: E402

from endpoints.models import Endpoint, InstanceType, Node, Replica, Status  # noqa: E402
from endpoints.services import create_endpoint, delete_endpoint  # noqa: E402
from launcher.demo import first_admin  # noqa: E402
from registry.models import RegisteredModel  # noqa: E402
from tests.support_endpoints import ready_model, spec_for  # noqa: E402
from tests.support_models import tiny_llama  # noqa: E402

PATIENCE_S = 240.0
LOOK_EVERY_S = 0.05
SIZE = "bench-tiny"


def until(done: Callable[[], bool], what: str) -> None:
    """Look again and again until `done()`."""
    deadline = time.monotonic() + PATIENCE_S
    while not done():
        assert time.monotonic() < deadline, f"not within {PATIENCE_S} s: {what}"
        time.sleep(LOOK_EVERY_S)


def prepare() -> str:
    """A tiny model, and an instance type of which this machine may hold as many as are asked for; the model's id."""
    InstanceType.objects.create(name=SIZE, family="BENCH", vcpu=1, memory_gib=0.25)
    until(Node.objects.exists, "the sweep has found this machine")
    Node.objects.update(cpu_overcommit=40)
    weights = settings.BERTH_WEIGHTS_DIR / "bench"
    tiny_llama(weights / "tiny.gguf")
    model = ready_model(first_admin().project, weights_path=str(weights), entry_file="tiny.gguf")
    return str(model.pk)


def ours(model_id: str, count: int, round_number: int) -> tuple[list[Endpoint], float]:
    """(they, seconds from the first request until all are ACTIVE)."""
    model = RegisteredModel.objects.get(pk=model_id)
    actor = first_admin()
    began = time.perf_counter()
    made = [
        create_endpoint(
            actor=actor, spec=spec_for(model, name=f"many-{round_number}-{number}", instance_type=SIZE)
        )
        for number in range(count)
    ]
    asked = time.perf_counter() - began
    until(lambda: Endpoint.objects.filter(status=Status.ACTIVE).count() == count, "all are ACTIVE")
    took = time.perf_counter() - began
    print(f"ours: asked for within {asked:.2f} s, ACTIVE after {took:.2f} s", file=sys.stderr)
    spread(made)
    return made, took


def spread(made: list[Endpoint]) -> None:
    """Where the time went, for the reader of standard error."""
    phases: dict[str, list[float]] = {}
    for endpoint in made:
        for phase in endpoint.replicas.get().phases.all():
            end = phase.finished_at or timezone.now()
            phases.setdefault(phase.name, []).append((end - phase.started_at).total_seconds())
    for name, seconds in phases.items():
        seconds.sort()
        middle = seconds[len(seconds) // 2]
        print(f"  {name:<14} {seconds[0]:6.2f} {middle:6.2f} {seconds[-1]:6.2f} s", file=sys.stderr)


Configuration = tuple[dict[str, Any], int]


def configuration(engine: docker.DockerClient, replica: Replica) -> Configuration:
    """(what to give the engine to get such a container again, its port)."""
    seen = engine.api.inspect_container(replica.name)
    config = {**seen["Config"], "Labels": {}, "HostConfig": seen["HostConfig"]}
    config.pop("Hostname", None)
    return config, replica.port


def bare(engine: docker.DockerClient, configs: list[Configuration], round_number: int) -> float:
    """Seconds until as many of the same containers, without our labels, answer healthy; all started side by side."""
    made: list[str] = []
    # The platform removes the project's own with its last endpoint.
    network = engine.networks.create(f"berth-bench-{time.time_ns()}", internal=True)

    def one(number: int) -> None:
        config, port = configs[number]
        config["HostConfig"]["NetworkMode"] = network.name
        name = f"berth-bench-{round_number}-{number}-{time.time_ns()}"
        made.append(name)
        container = engine.api.create_container_from_config(config, name=name)
        engine.api.start(container)
        address = engine.api.inspect_container(container)["NetworkSettings"]["Networks"][network.name][
            "IPAddress"
        ]
        until(lambda: _healthy(f"http://{address}:{port}/health"), "healthy")

    began = time.perf_counter()
    try:
        with ThreadPoolExecutor(len(configs)) as starters:
            list(starters.map(one, range(len(configs))))
        took = time.perf_counter() - began
        print(f"bare: healthy after {took:.2f} s", file=sys.stderr)
        return took
    finally:
        for name in made:
            engine.api.remove_container(name, force=True)
        network.remove()


def _healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def main(count: int, rounds: int) -> None:
    """In turns, never side by side."""
    model_id = prepare()
    engine = docker.DockerClient.from_env(max_pool_size=count)
    times: dict[str, list[float]] = {"ours": [], "bare": []}
    for number in range(rounds):
        made, took = ours(model_id, count, number)
        times["ours"].append(took)
        configs = [configuration(engine, endpoint.replicas.get()) for endpoint in made]
        for endpoint in made:
            delete_endpoint(actor=first_admin(), endpoint=endpoint)
        until(lambda: not Endpoint.objects.exists(), "deleted")
        times["bare"].append(bare(engine, configs, number))
    print(json.dumps(times))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
