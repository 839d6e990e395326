"""Four workers reconcile the same endpoints while three people change them, all as processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from runtimes.fake import FakeRuntime
from tests.support_crowd import PEOPLE, open_doors
from tests.support_days import Hand
from tests.support_platform import place
from tests.support_processes import PYTHONPATH, ROOT, python
from tests.support_redis import redis_at

pytestmark = [pytest.mark.any_database, pytest.mark.redis, pytest.mark.timeout(240)]
ENDPOINTS, WORKERS, CHANGES = 3, 4, 8
PATIENCE_S = 60.0

HISTORY = """
[{
    "id": e.id, "status": e.status, "reason": e.reason_code, "generation": e.generation,
    "observed": e.observed_generation, "paused": e.paused_at is not None, "lease": e.lease_token,
    "columns": {name: getattr(e, name) for name in ("cpu_percent", "memory_percent", "latency_ms")},
    "variables": sorted(e.revision.environment), "revision": e.revision_id, "wanted": e.wanted_replicas,
    "events": [
        (i.kind, i.actor.email if i.actor else "", i.params)
        for i in Event.objects.filter(target=e.id).select_related("actor").order_by("id")
    ],
    "replicas": [
        (r.name, r.state, r.revision_id, r.slot, r.created_at.timestamp(),
         min(at.timestamp() for at in (r.drain_started_at, r.ended_at, timezone.now()) if at))
        for r in e.replicas.order_by("created_at")
    ],
} for e in Endpoint.objects.order_by("name")]
"""


class Crowd:
    """One shared database, Redis and engine, and the processes around them."""

    def __init__(self, env: dict[str, str], address: str, runtime: FakeRuntime) -> None:
        self.env, self.address, self.runtime = env, address, runtime
        self._started: list[subprocess.Popen[str]] = []

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """One of them."""
        process = subprocess.Popen(
            python("-m", "tests.support_crowd", *arguments),
            cwd=ROOT,
            env=self.env,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._started.append(process)
        return process

    def answer(self, process: subprocess.Popen[str]) -> Any:
        """What it printed at its end."""
        out, _ = process.communicate(timeout=120)
        assert process.returncode == 0, out
        return json.loads(out.splitlines()[-1])

    def end(self) -> None:
        """Whatever still runs."""
        for process in self._started:
            process.kill()
            process.wait(10)
            assert process.stdout is not None
            process.stdout.close()


@pytest.fixture
def crowd(tmp_path: Path) -> Iterator[Crowd]:
    where = place(tmp_path)
    where.home.mkdir(parents=True)
    socket = tmp_path / "r.sock"
    env = {
        **os.environ,
        **where.env,
        "PYTHONPATH": PYTHONPATH,
        "REDIS_URL": f"unix://{socket}",
        "BERTH_LOG_LEVEL": "ERROR",
    }
    subprocess.run(python("manage.py", "migrate", "-v0"), cwd=ROOT, env=env, check=True)
    address = str(tmp_path / "engine.sock")
    runtime, server = open_doors(address)

    def serve() -> None:
        with suppress(SystemExit):  # its way to end
            server.serve_forever()

    threading.Thread(target=serve, daemon=True).start()
    found = Crowd(env, address, runtime)
    with redis_at(socket):
        try:
            yield found
        finally:
            found.end()
            server.stop_event.set()
            server.listener.close()


@pytest.fixture
def after(crowd: Crowd) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(what each person asked for, the endpoints' history once all is calm and resumed)."""
    crowd.answer(crowd.start("setup", crowd.address, str(ENDPOINTS)))
    workers = [crowd.start("work", crowd.address, "180") for _ in range(WORKERS)]
    gateway = crowd.start("gate", "180")
    people = [crowd.start("change", email, str(CHANGES)) for email in PEOPLE]
    asked = [crowd.answer(person) for person in people]
    hand = Hand(crowd.env)
    try:
        hand.do("from endpoints.models import Event")
        hand.do("from tests.support_console_seed import _actor")
        hand.do(
            f"[services.resume_endpoint(actor=_actor({PEOPLE[2]!r}), endpoint=e) for e in Endpoint.objects.all()]"
        )
        calm = "all(e.observed_generation == e.generation and e.status == 'ACTIVE' for e in Endpoint.objects.all())"
        hand.do(
            f"deadline = time.monotonic() + {PATIENCE_S}\n"
            f"while time.monotonic() < deadline and not {calm}:\n    time.sleep(0.1)\n"
        )
        # Old replicas may still be draining: calm is when nothing moves any more.
        for process in (*workers, gateway):
            assert process.poll() is None, "a worker died"
        hand.do(
            "moving = Replica.objects.filter(state__in=['waiting', 'starting', 'draining'])\n"
            "while time.monotonic() < deadline and moving.exists():\n    time.sleep(0.1)\n"
        )
        for process in workers:
            process.terminate()
            process.wait(20)
        return asked, hand.do(HISTORY)
    finally:
        hand.end()


def test_no_change_is_lost_no_slot_is_held_twice_no_event_is_missing(
    crowd: Crowd, after: tuple[list[dict[str, Any]], list[dict[str, Any]]]
) -> None:
    asked, endpoints = after
    assert len(endpoints) == ENDPOINTS
    for endpoint in endpoints:
        ends_as_asked(endpoint, asked)
        tells_everything_in_order(endpoint)
        holds_each_slot_once(endpoint)
    runs_what_it_says(crowd.runtime, endpoints)


def ends_as_asked(endpoint: dict[str, Any], asked: list[dict[str, Any]]) -> None:
    assert (endpoint["status"], endpoint["reason"], endpoint["paused"]) == ("ACTIVE", "", False), endpoint
    assert endpoint["observed"] == endpoint["generation"]
    for person in asked:
        assert endpoint["columns"][person["column"]] == person["last"][endpoint["id"]], person
    assert endpoint["variables"] == sorted(f"STEP_{number}" for number in range(1, CHANGES, 3))


def tells_everything_in_order(endpoint: dict[str, Any]) -> None:
    """One event for each generation, each status where the one before it ended, each replica's life in its order."""
    events = endpoint["events"]
    kinds = [kind for kind, _, _ in events]
    assert kinds[0] == "endpoint.created"
    changes = ("endpoint.changed", "endpoint.revised", "endpoint.paused", "endpoint.resumed")
    assert sum(kinds.count(kind) for kind in changes) == endpoint["generation"] - 1
    switches = [kind for kind, who, _ in events if who == PEOPLE[2] and kind in changes[2:]]
    assert switches[:-1] == ["endpoint.paused", "endpoint.resumed"] * (CHANGES // 4)
    statuses = [params for kind, _, params in events if kind == "status.changed"]
    assert statuses[0]["before"] == "PENDING"
    for one, next_one in pairwise(statuses):
        assert one["after"] == next_one["before"], statuses
    assert statuses[-1]["after"] == "ACTIVE"
    lives: dict[str, list[str]] = defaultdict(list)
    for kind, _, params in events:
        if "replica" in params:
            lives[params["replica"]].append(kind)
    whole = ["replica.started", "replica.ready", "replica.stopped"]
    for name, life in lives.items():
        # Paused before it was ready, or before it was started.
        assert life in (whole, whole[:2], [whole[0], whole[2]], [whole[2]]), (name, life)


def holds_each_slot_once(endpoint: dict[str, Any]) -> None:
    """Replicas of one revision in one slot follow each other: the next one is made when the last one was given up."""
    slots = defaultdict(list)
    for _, _, revision, slot, began, ended in endpoint["replicas"]:
        slots[revision, slot].append((began, ended))
    for lives in slots.values():
        for (_, ended), (began, _) in pairwise(sorted(lives)):
            assert ended <= began, lives
    ready = [replica for replica in endpoint["replicas"] if replica[1] == "ready"]
    assert [(revision, slot) for _, _, revision, slot, *_ in ready] == [
        (endpoint["revision"], slot) for slot in range(1, endpoint["wanted"] + 1)
    ]


def runs_what_it_says(runtime: FakeRuntime, endpoints: list[dict[str, Any]]) -> None:
    """Exactly the containers of the ready replicas are left."""
    ready = {
        replica[0] for endpoint in endpoints for replica in endpoint["replicas"] if replica[1] == "ready"
    }
    assert set(runtime.engine.containers) == ready
