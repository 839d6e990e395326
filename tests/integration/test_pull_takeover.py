"""A pull whose worker dies, on the whole platform: another one takes it over, and never do two report for a replica."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import docker
import pytest
import redis

from config.places import socket_dir
from tests.contract.image_registry import Registry, running_registry
from tests.support import require
from tests.support_days import Day, day
from tests.support_line import Line, line_to
from tests.support_platform import Place, place
from tests.support_processes import ROOT, eventually
from tests.support_runtimes import clean_up, engine_answers

pytestmark = [pytest.mark.engine, pytest.mark.redis, pytest.mark.envoy, pytest.mark.timeout(300)]
LAYER = 12_000_000


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with running_registry(tmp_path / "registry") as registry:
        yield registry


@pytest.fixture
def line(registry: Registry) -> Iterator[Line]:
    with line_to(registry.address) as line:
        yield line


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    require("docker engine", engine_answers(), "docker ping failed")
    found = place(tmp_path_factory.mktemp("takeover"), "docker")
    yield found
    clean_up(found)


@pytest.fixture(scope="module")
def today(where: Place) -> Iterator[Day]:
    with day(where) as running:
        yield running


@pytest.fixture
def second(today: Day) -> Iterator[subprocess.Popen[bytes]]:
    """Another worker for transfers, beside the platform's own."""
    first = eventually(lambda: today.running.children().get("transfers"), "the worker runs", 30)
    command = [word.replace("transfers@berth", "second@berth") for word in first.cmdline()]
    with (today.where.home / "log" / "second.log").open("wb") as output:
        worker = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **first.environ()}, stdout=output, stderr=output
        )
    yield worker
    worker.kill()
    worker.wait(10)


def pulled(today: Day, name: str, image: str) -> str:
    """An endpoint of that image; returns its id."""
    return str(
        today.hand.do(
            f"ref = dict(image={image!r}, port=8080, health_path='/')\n"
            f"services.create_endpoint(actor=actor, spec=spec_for(ready_model(actor.project, {name!r}, 'custom',"
            f" source='image', source_ref=ref, entry_file=''), name={name!r})).id"
        )
    )


def pull_of(today: Day, endpoint: str) -> dict[str, Any]:
    """token: who pulls now; done: bytes; state of its one replica."""
    return dict(
        today.hand.do(
            f"(lambda r: dict(token=r.pull_token, state=r.state, done=r.phases.get(name='pulling').bytes_done,"
            f" tries=r.phases.get(name='pulling').tries))(get({endpoint!r}).replicas.get())"
        )
    )


def end(today: Day, endpoint: str, image: str) -> None:
    """Nothing of it stays."""
    today.delete(endpoint)
    today.until_gone(endpoint)
    with closing(docker.from_env()) as engine:
        engine.images.remove(image, force=True)


def test_a_dead_workers_pull_is_taken_over(
    where: Place, today: Day, registry: Registry, line: Line, second: subprocess.Popen[bytes]
) -> None:
    image = f"{line.address}/{registry.put(layers=[LAYER])}"
    line.bytes_per_s = 300_000
    endpoint = pulled(today, "dies", image)
    eventually(lambda: line.passed > 1_000_000, "it is being pulled", 60)
    before = pull_of(today, endpoint)
    assert before["token"]

    # Both workers that could have it end at once, and Redis forgets every claim, task and message. The front starts
    # one of the two again.
    died = time.monotonic()
    second.kill()
    today.running.children()["transfers"].kill()
    with closing(redis.Redis(unix_socket_path=str(socket_dir(where.home) / "redis.sock"))) as client:
        client.flushall()
    another = eventually(
        lambda: (seen := pull_of(today, endpoint))["token"] not in ("", before["token"]) and seen,
        "another pull has begun",
        60,
    )
    assert time.monotonic() - died < 60
    assert another["tries"] == 2
    line.bytes_per_s = None
    eventually(lambda: "image.pulled" in today.events(endpoint), "it is there", 60)
    assert today.events(endpoint).count("image.pulled") == 1
    # It has nothing to run: what matters here is that the reconciler goes on with it.
    eventually(lambda: pull_of(today, endpoint)["state"] != "waiting", "it goes on", 30)
    end(today, endpoint, image)


def test_a_redis_that_forgets_starts_no_second_pull(
    where: Place, today: Day, registry: Registry, line: Line, second: subprocess.Popen[bytes]
) -> None:
    """Flushed again and again, with two workers and a sweep every five seconds."""
    image = f"{line.address}/{registry.put(layers=[LAYER])}"
    line.bytes_per_s = 500_000
    endpoint = pulled(today, "forgets", image)
    eventually(lambda: line.passed > 500_000, "it is being pulled", 60)
    holder = pull_of(today, endpoint)["token"]
    done = 0
    replica = today.hand.do(f"str(get({endpoint!r}).replicas.get().pk)")
    with closing(redis.Redis(unix_socket_path=str(socket_dir(where.home) / "redis.sock"))) as client:
        while line.passed < LAYER * 0.9:
            client.flushall()
            # As a broker does that delivers a task twice.
            today.hand.do(f"from endpoints.queue import pull_soon; pull_soon({replica!r})")
            seen = pull_of(today, endpoint)
            assert seen["token"] == holder
            assert seen["done"] >= done
            done = seen["done"]
            time.sleep(0.5)
    eventually(lambda: "image.pulled" in today.events(endpoint), "it is there", 60)
    assert today.events(endpoint).count("image.pulled") == 1
    assert line.passed < LAYER * 1.05  # every byte came once
    end(today, endpoint, image)
