"""The part of the deploy benchmark that runs with the platform's own settings. Prints one line of JSON."""

from __future__ import annotations

import json
import sys
import time
import urllib.request
from typing import Any

import django

django.setup()

import docker  # noqa: E402

from endpoints.models import Endpoint, Replica, Status  # noqa: E402
from endpoints.services import EndpointSpec, create_endpoint, delete_endpoint  # noqa: E402
from launcher.demo import Demo, first_admin  # noqa: E402
from launcher.terminal import Terminal  # noqa: E402

PATIENCE_S = 60.0
LOOK_EVERY_S = 0.01


def until(done: Any, what: str) -> None:
    """Look again and again until `done()`."""
    deadline = time.monotonic() + PATIENCE_S
    while not done():
        assert time.monotonic() < deadline, f"not within {PATIENCE_S} s: {what}"
        time.sleep(LOOK_EVERY_S)


def deploy(model_id: str, number: int) -> tuple[Endpoint, float]:
    """Create an endpoint through the service that the page uses; (it, seconds to ACTIVE)."""
    began = time.perf_counter()
    spec = EndpointSpec(name=f"bench-{number}", region="HCM", model_id=model_id, instance_type="local-cpu")
    endpoint = create_endpoint(actor=first_admin(), spec=spec)

    def active() -> bool:
        endpoint.refresh_from_db(fields=["status"])
        assert endpoint.status != Status.FAILED, endpoint.reason_code
        return endpoint.status == Status.ACTIVE

    until(active, "ACTIVE")
    return endpoint, time.perf_counter() - began


def bare(engine: docker.DockerClient, replica: Replica, number: int) -> float:
    """Seconds from asking the engine for the same container, without our labels, to its healthy answer."""
    seen = engine.api.inspect_container(replica.name)
    network = next(iter(seen["NetworkSettings"]["Networks"]))
    config = {**seen["Config"], "Labels": {}, "HostConfig": seen["HostConfig"]}
    config.pop("Hostname", None)
    began = time.perf_counter()
    made = engine.api.create_container_from_config(config, name=f"berth-bench-{number}-{time.time_ns()}")
    try:
        engine.api.start(made)
        address = engine.api.inspect_container(made)["NetworkSettings"]["Networks"][network]["IPAddress"]
        until(lambda: _healthy(f"http://{address}:{replica.port}/health"), "healthy")
        return time.perf_counter() - began
    finally:
        engine.api.remove_container(made, force=True)


def _healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def main(rounds: int) -> None:
    """Import once, then deploy and start bare in turns; the first pair warms caches and is dropped."""
    demo = Demo(Terminal(sys.stderr), time.time(), ())
    demo.fetch_weights()
    demo.import_weights()
    assert demo.made.model is not None
    engine = docker.from_env()
    ours, alone = [], []
    for number in range(rounds + 1):
        endpoint, took = deploy(str(demo.made.model.pk), number)
        ours.append(took)
        alone.append(bare(engine, endpoint.replicas.get(), number))
        delete_endpoint(actor=first_admin(), endpoint=endpoint)
        until(lambda gone=endpoint.pk: not Endpoint.objects.filter(pk=gone).exists(), "deleted")
    print(json.dumps({"ours": ours[1:], "bare": alone[1:]}))


if __name__ == "__main__":
    main(int(sys.argv[1]))
