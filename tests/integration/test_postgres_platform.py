"""A whole platform on PostgreSQL, as real processes: deploy and call, a killed worker, a database that crashes, the
number of connections that it holds."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import httpx
import psycopg
import pytest

from tests.support import require
from tests.support_days import Day, Load, day
from tests.support_platform import Place, place
from tests.support_postgres import ROLE, Server, new_database, programs, server
from tests.support_processes import eventually

pytestmark = [pytest.mark.redis, pytest.mark.envoy, pytest.mark.timeout(300)]
CALLERS = 24
# Of web, one for each caller and a hidden one; of worker, transfers and watcher, one for each thread. PostgreSQL as
# installed allows 100.
CONNECTIONS = 2 * CALLERS
MODELS = "/v1/{endpoint}/v1/models"


@pytest.fixture(scope="module")
def postgres() -> Iterator[Server]:
    """A server that the tests may crash."""
    require("PostgreSQL", programs() is not None, "no initdb")
    with server() as made:
        yield made


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory, postgres: Server) -> Place:
    found = place(tmp_path_factory.mktemp("on-postgres"))
    return replace(found, database=new_database(postgres.url("postgres")))


@pytest.fixture(scope="module")
def today(where: Place) -> Iterator[Day]:
    """A platform on it, with one endpoint that serves. The tests below follow one another."""
    with day(where) as running:
        yield running


@pytest.fixture(scope="module")
def served(today: Day) -> str:
    """Its id."""
    endpoint = today.create("served")
    today.until(endpoint, "ACTIVE")
    return endpoint


def sessions(postgres: Server, where: Place) -> int:
    """How many connections the platform holds now."""
    with psycopg.connect(host=str(postgres.folder), user=ROLE, dbname="postgres") as connection:
        found = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = %s", [where.database_name]
        ).fetchone()
    assert found is not None
    return int(found[0])


def test_an_endpoint_deploys_and_answers(where: Place, today: Day, served: str) -> None:
    url = f"http://localhost:{where.gateway_port}{MODELS.format(endpoint=served)}"
    headers = {"Authorization": f"Bearer {today.token()}"}
    answer = httpx.get(url, headers=headers, timeout=10)
    assert answer.status_code == 200
    assert today.events(served)[0] == "endpoint.created"
    assert today.events(served).count("replica.started") == 1
    assert not list(where.home.glob("*.sqlite3*"))


def test_a_worker_killed_in_the_middle_loses_nothing(today: Day, served: str) -> None:
    before = eventually(lambda: today.running.children().get("worker"), "the worker runs", 30)
    endpoint = today.create("interrupted")
    eventually(lambda: (today.row(endpoint) or {}).get("replicas"), "it has been taken up", 30)
    before.kill()
    row = today.until(endpoint, "ACTIVE")
    assert [state for state, *_ in row["replicas"]] == ["ready"]
    assert today.events(endpoint).count("replica.started") == 1
    today.delete(endpoint)
    today.until_gone(endpoint)


def test_many_callers_share_few_connections(postgres: Server, where: Place, today: Day, served: str) -> None:
    highest = 0
    headers = {"Authorization": f"Bearer {today.token()}"}

    def look(_: int) -> int:
        return httpx.get(f"{where.console}/api/v1/endpoints/", headers=headers, timeout=30).status_code

    with ThreadPoolExecutor(CALLERS) as callers:
        answers = [callers.submit(look, number) for number in range(400)]
        while not all(answer.done() for answer in answers):
            highest = max(highest, sessions(postgres, where))
            time.sleep(0.05)
    assert {answer.result() for answer in answers} == {200}
    assert highest <= CONNECTIONS


def test_a_database_that_crashes_and_returns(postgres: Server, where: Place, today: Day, served: str) -> None:
    url = f"http://localhost:{where.gateway_port}{MODELS.format(endpoint=served)}"
    pids = {name: one.pid for name, one in today.running.children().items()}
    with Load(url, today.token()) as load:
        load.more(5)
        postgres.stop(signal.SIGQUIT)
        load.more(30)
        page = httpx.get(f"{where.console}/accounts/login/", timeout=30)
        api = httpx.get(f"{where.console}/readyz", timeout=30)
        postgres.start()
        eventually(today.ready, "every part is ready again", 60)
        load.more(10)
    assert load.failures == [], "what serves needs no database"
    assert api.json()["checks"]["database"] != "ok"
    assert page.status_code in (200, 503)
    endpoint = today.create("after-the-crash")
    today.until(endpoint, "ACTIVE")
    today.delete(endpoint)
    today.until_gone(endpoint)
    assert {name: one.pid for name, one in today.running.children().items()} == pids, "nothing had to restart"
