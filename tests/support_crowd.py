"""Workers, people and a gateway as processes around one fake engine, and a database and a Redis that they share.

`python -m tests.support_crowd ROLE …` is one of them; the engine lives in the test's own process.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Iterator
from multiprocessing.managers import BaseManager
from typing import Any

from runtimes.contract import NodeFacts
from runtimes.fake import FakeEngine, FakeRuntime

AUTHKEY = b"crowd"
PEOPLE = ("ann@example.org", "bob@example.org", "cid@example.org")
# Each person changes a column of their own, one also what the replicas are made of, another pauses and resumes.
COLUMNS = dict(zip(PEOPLE, ("cpu_percent", "memory_percent", "latency_ms"), strict=True))


class Doors(BaseManager):
    """How other processes reach the engine."""


class Remote:
    """The fake engine's driver, from another process. Its answers are copies."""

    kind = FakeRuntime.kind

    def __init__(self, address: str) -> None:
        Doors.register("runtime")
        doors = Doors(address=address, authkey=AUTHKEY)
        doors.connect()
        self._proxy = doors.runtime()  # type: ignore[attr-defined]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._proxy, name)

    def whole_log(self, name: str) -> Iterator[bytes]:
        """A generator does not travel."""
        return iter([self._proxy.logs(name, tail=1000).encode()])


def open_doors(address: str) -> tuple[FakeRuntime, Any]:
    """(the engine's driver, its server; call `serve_forever` in a thread, it ends with the process)."""
    engine = FakeEngine()
    engine.nodes = [NodeFacts("local", 4096, 2**45)]
    engine.address = None  # each container has an address of its own
    runtime = FakeRuntime("crowd", engine)
    Doors.register("runtime", callable=lambda: runtime)
    return runtime, Doors(address=address, authkey=AUTHKEY).get_server()


def setup(address: str, count: int) -> list[str]:
    """People of one project and their endpoints, with two replicas each; the ids."""
    from endpoints import placement
    from tests import support_console_seed as seed

    seed.load_data()
    for email in PEOPLE:
        seed.member(email)
    placement.refresh(Remote(address))  # type: ignore[arg-type]
    return [seed.new(f"shared-{n}", PEOPLE[0], min_replicas=2, max_replicas=2) for n in range(count)]


def work(address: str, seconds: float) -> None:
    """A worker: looks at one endpoint after the other, as fast as it can."""
    from endpoints.models import Endpoint
    from endpoints.reconciler import apply, probe
    from endpoints.reconciler.run import reconcile

    apply.DEAD_KEPT = 100_000  # the test reads the whole history
    probe.healthy = lambda urls: frozenset(urls)
    runtime, end = Remote(address), time.monotonic() + seconds
    ids = list(Endpoint.objects.values_list("pk", flat=True))
    while time.monotonic() < end:
        random.shuffle(ids)
        for endpoint_id in ids:
            reconcile(endpoint_id, runtime)  # type: ignore[arg-type]
            time.sleep(0.005)


def gate(seconds: float) -> None:
    """A gateway that takes each snapshot at once and holds no connection."""
    from django.conf import settings
    from redis import Redis

    from endpoints import gateway_feed
    from gateway.control import Report

    Redis.from_url(settings.REDIS_URL).set("berth:gateway:counting", "1", ex=10**9 - 60)
    applied, end = "", time.monotonic() + seconds
    while time.monotonic() < end:
        given = gateway_feed.poll("crowd", Report(etag=applied, applied=applied, counted=True, streams={}))
        applied = given.version if given else applied
        time.sleep(0.05)


def change(email: str, changes: int) -> dict[str, Any]:
    """A person: so many changes of the endpoints in turn. What they asked for last, by endpoint, and how often."""
    from endpoints import services
    from endpoints.models import Endpoint
    from tests.support_console_seed import _actor

    actor, column = _actor(email), COLUMNS[email]
    ids = list(Endpoint.objects.order_by("name").values_list("pk", flat=True))
    last: dict[str, Any] = {}
    for number in range(changes):
        for endpoint_id in ids:
            endpoint = Endpoint.objects.get(pk=endpoint_id)
            if email == PEOPLE[2] and number % 2:
                switch = services.pause_endpoint if number % 4 == 1 else services.resume_endpoint
                switch(actor=actor, endpoint=endpoint)
                continue
            wanted: dict[str, Any] = {column: number + 1}
            if email == PEOPLE[1] and number % 3 == 1:
                wanted["environment"] = {f"STEP_{number}": "x"}
            services.update_endpoint(actor=actor, endpoint=endpoint, changes=wanted)
            last[endpoint_id] = number + 1
        time.sleep(random.uniform(0.05, 0.3))
    return {"column": column, "last": last}


def main(role: str, *arguments: str) -> Any:
    """What one process does."""
    match role:
        case "setup":
            return setup(arguments[0], int(arguments[1]))
        case "work":
            return work(arguments[0], float(arguments[1]))
        case "gate":
            return gate(float(arguments[0]))
        case "change":
            return change(arguments[0], int(arguments[1]))
        case _:
            raise SystemExit(f"no such role: {role}")


if __name__ == "__main__":
    import django

    django.setup()
    print(json.dumps(main(*sys.argv[1:])))
