"""A few seeds in every test run, and the proof that the checker would notice. `make faults SEEDS=100` is the long run.

FAULTS_SEEDS   other seeds, separated by spaces
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from tests.faults import checker, history, report
from tests.faults.plan import scenario
from tests.faults.run import run
from tests.faults.story import Story, Wanted
from tests.faults.world import KEPT, PORT, World, Worlds
from tests.support import require
from tests.support_processes import eventually

pytestmark = [pytest.mark.engine, pytest.mark.envoy, pytest.mark.redis, pytest.mark.timeout(300)]
# A worker killed in a rollout, the engine killed, Redis emptied, a delete while the image is pulled, a full volume.
SEEDS = [int(seed) for seed in os.environ.get("FAULTS_SEEDS", "3 12 26 39 50").split()]


@pytest.fixture(scope="module")
def worlds() -> Iterator[Worlds]:
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    require("dockerd", shutil.which("dockerd", path=path) is not None, "not on PATH")
    require("a C compiler", shutil.which("cc") is not None, "not on PATH")
    require("root", os.geteuid() == 0, "an engine and a file system of our own need it")
    with Worlds() as found:
        yield found


@pytest.mark.parametrize("seed", SEEDS)
def test_a_seed(worlds: Worlds, seed: int) -> None:
    outcome = run(worlds.get(), scenario(seed))
    if not outcome.passed:
        worlds.get().keep(KEPT / f"seed-{seed}")
        worlds.throw_away()
    assert outcome.passed, f"logs in var/faults/seed-{seed}\n{report.line(outcome)}"
    assert outcome.reached


# -- the checker notices ----------------------------------------------------------------------------------------------


@pytest.fixture
def story(worlds: Worlds) -> Iterator[Story]:
    """Nothing is wanted but the bystander, and the platform can mend nothing: its way to the engine is shut."""
    found = Story(worlds.get(), scenario(0), "checked", Wanted(1, "nobody", gone=True))
    eventually(lambda: checker.differences(found) == [], "the world is as it should be", 60)
    found.world.door.shut()
    try:
        yield found
    finally:
        found.world.door.open()
    eventually(lambda: checker.differences(found) == [], "the platform has mended it", 60)


def noticed(story: Story) -> str:
    return "; ".join(checker.differences(story))


def test_a_container_without_a_row_is_noticed(story: Story) -> None:
    stray(story.world, "stray")
    assert "container stray has no live row" in noticed(story)


def test_a_network_that_nobody_is_on_is_noticed(story: Story) -> None:
    engine, labels = story.world.engine.api, {"berth.owner": story.world.owner}
    engine.create_network("berth-left-behind", labels)
    assert "network berth-left-behind has nobody on it" in noticed(story)


def test_a_bystander_that_is_not_there_is_noticed(story: Story) -> None:
    mine = story.world.engine.api.containers(f"berth.endpoint={story.world.bystander}")
    story.world.engine.api.remove(mine[0]["Id"])
    said = noticed(story)
    assert "bystander: 1 wanted, there are none" in said
    assert "bystander: answered 503" in said


def test_claims_of_the_dead_are_noticed(story: Story) -> None:
    with rows_of(story.world) as rows:
        owner = rows.execute("SELECT id, name FROM endpoints_replica WHERE state = 'ready'").fetchone()
        rows.execute("UPDATE endpoints_gpu SET replica_id = ? WHERE uuid = 'GPU-faults-0'", (owner[0],))
    assert f"{owner[1]} was given [] and owns ['GPU-faults-0']" in noticed(story)
    with rows_of(story.world) as rows:
        rows.execute("UPDATE endpoints_gpu SET replica_id = NULL WHERE uuid = 'GPU-faults-0'")


def test_an_address_held_for_nobody_is_noticed(story: Story) -> None:
    with rows_of(story.world) as rows:
        rows.execute(
            "INSERT INTO endpoints_heldaddress (host, port, replica, since)"
            " VALUES ('10.9.9.9', 1, 'nobody', '2020-01-01 00:00:00')"
        )
    assert "address held: 10.9.9.9:1 of nobody" in noticed(story)


def test_a_status_that_changed_without_an_event_is_noticed(story: Story) -> None:
    world = story.world
    place = world.watch.now()
    with rows_of(world) as rows:
        before = rows.execute("SELECT status FROM endpoints_endpoint").fetchone()[0]
        rows.execute("UPDATE endpoints_endpoint SET status = 'FAILED'")
        rows.execute("UPDATE endpoints_endpoint SET status = ?", (before,))
    assert world.watch.wait(place, lambda one: one.kind == "endpoint.status" and one.new == before, 5)
    time.sleep(0.1)
    said = list(history.transitions_untold(world.watch.since(place)))
    assert said
    assert f"('{before}', 'FAILED')" in said[0]


def stray(world: World, name: str) -> None:
    labels = {"berth.owner": world.owner, "berth.endpoint": world.bystander, "berth.replica": name}
    config = {"Image": world.registry.image("base"), "Cmd": [str(PORT), name, "0"], "Labels": labels}
    world.engine.api.create(name, {**config, "HostConfig": {"NetworkMode": "none"}})
    world.engine.api.start(name)


@contextmanager
def rows_of(world: World) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(world.database, timeout=20)) as rows, rows:
        yield rows
