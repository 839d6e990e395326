"""The part of the fleet benchmarks that runs with the platform's own settings. Prints one line of JSON."""

from __future__ import annotations

import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import django

django.setup()

from django.conf import settings  # noqa: E402
from django.db import connection  # noqa: E402
from django.test import Client  # noqa: E402
from django.test.utils import CaptureQueriesContext  # noqa: E402

from config.keyfiles import read_or_create  # noqa: E402
from endpoints import gateway_feed, sweeping  # noqa: E402
from endpoints.models import Endpoint, Replica  # noqa: E402
from endpoints.reconciler import survey  # noqa: E402
from endpoints.reconciler.run import reconcile  # noqa: E402
from gateway.control import PATH, Report  # noqa: E402
from iam.actors import Actor, actor_for_user  # noqa: E402
from iam.models import Membership, Project, User  # noqa: E402
from iam.roles import Role  # noqa: E402
from runtimes.fake import FakeRuntime  # noqa: E402
from tests.support_fleet import GATEWAY, big_engine, polled, serving  # noqa: E402

ROUNDS = 5
POLLS = 200
PAGES = 20


def person() -> User:
    """An admin of a project of its own."""
    user = User.objects.create_user("bench@example.org", "correct horse battery staple")
    project = Project.objects.create(name="Bench")
    Membership.objects.create(user=user, project=project, role=Role.ADMIN)
    return user


def actor(user: User) -> Actor:
    """Acting in that project."""
    found = actor_for_user(user)
    assert found is not None
    return found


def browser() -> Client:
    """One that calls the console by its configured address."""
    return Client(HTTP_HOST=urlsplit(settings.BERTH_PUBLIC_URL).netloc)


def cpu_s() -> float:
    """Seconds of processor time of this process so far, all threads, user and system."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def timed(work: Callable[[], object], rounds: int) -> dict[str, Any]:
    """Medians of `rounds`: wall and processor seconds; and the queries of one more."""
    work()
    walls, cpus = [], []
    for _ in range(rounds):
        wall, cpu = time.perf_counter(), cpu_s()
        work()
        walls.append(time.perf_counter() - wall)
        cpus.append(cpu_s() - cpu)
    with CaptureQueriesContext(connection) as queries:
        work()
    return {"wall": statistics.median(walls), "cpu": statistics.median(cpus), "queries": len(queries)}


def sweep(runtime: FakeRuntime, user: User) -> dict[str, Any]:
    """A whole sweep over a fleet that is as it should be; and one reconcile of one of its endpoints."""
    one = Endpoint.objects.latest("name")

    def whole() -> None:
        polled()  # a gateway that lives has been heard of lately
        sweeping.sweep(runtime)

    polled()
    assert list(survey.unsettled(runtime)) == [], "the fleet is not as it should be"
    found, beside = timed(whole, ROUNDS), timed(polled, ROUNDS)
    looked = timed(lambda: reconcile(one.pk, runtime), POLLS)
    return {
        "replicas": Replica.objects.count(),
        "wall": found["wall"] - beside["wall"],
        "cpu": found["cpu"] - beside["cpu"],
        "queries": found["queries"] - beside["queries"],
        "reconcile": looked,
    }


def snapshot(runtime: FakeRuntime, user: User) -> dict[str, Any]:
    """Building the snapshot from the database as a poll does, and polls that change nothing, through web's view."""
    version = polled()

    def build() -> None:
        gateway_feed.cluster().invalidate()
        gateway_feed.poll(GATEWAY, Report(etag="other", applied=version, counted=True, streams={}))

    built = timed(build, ROUNDS)
    version = polled()
    report = Report(etag=version, applied=version, counted=True, streams={})
    token = read_or_create(settings.BERTH_GATEWAY_TOKEN_FILE)
    headers = {**report.headers(), "Authorization": f"Bearer {token}", "X-Berth-Gateway": GATEWAY}
    client = browser()

    def poll() -> None:
        answer = client.get(PATH, headers=headers)
        assert answer.status_code == 304, answer.status_code

    return {"build": built, "poll": timed(poll, POLLS)}


def listing(runtime: FakeRuntime, user: User) -> dict[str, Any]:
    """The list page at its largest page size and as it opens, and the API's list."""
    client = browser()
    client.force_login(user)

    def get(path: str) -> Callable[[], None]:
        def call() -> None:
            answer = client.get(path)
            assert answer.status_code == 200, (answer.status_code, answer.headers)

        return call

    paths = {
        "page": "/inference/",
        "page of 100": "/inference/?size=100",
        "search": "/inference/?search=fleet-09&size=100",
        "api": "/api/v1/endpoints/",
    }
    return {name: timed(get(path), PAGES) for name, path in paths.items()}


def main(what: str, endpoints: int, replicas: int) -> None:
    """Make the fleet and measure."""
    user = person()
    runtime = FakeRuntime("bench", big_engine(endpoints * replicas))
    serving(actor(user), runtime, endpoints, replicas)
    found = {"sweep": sweep, "snapshot": snapshot, "listing": listing}[what](runtime, user)
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
