"""Rollouts: the planner against a small world that does what it says, with containers that come and go as they like."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from endpoints.conditions import derive
from endpoints.reconciler.plan import plan
from endpoints.reconciler.rollout import TRIES
from endpoints.reconciler.state import (
    Create,
    Desired,
    Drain,
    Fail,
    Healthy,
    Observed,
    Place,
    Ready,
    ReplicaView,
    Routed,
    Start,
    Stop,
    TakeBack,
)
from runtimes.contract import Address, ContainerState, Observation

START = datetime(2026, 1, 1, tzinfo=UTC)
OLD, NEW = 6, 7


class World:
    """Rows and containers; `step` plans once and does what the plan says, as the reconciler would."""

    def __init__(self, desired: Desired, seed: int = 0, *, crash: bool = False) -> None:
        self.desired = desired
        self.rows: dict[str, ReplicaView] = {}
        self.containers: dict[str, Observation] = {}
        self.now = START
        self.random = random.Random(seed)
        self.crash = crash  # replicas of NEW end before they are healthy
        self.taken_back: TakeBack | None = None
        self.settled = False

    def add_ready(self, slot: int, revision: int) -> None:
        name = f"r{slot}-1-v{revision}"
        self.rows[name] = ReplicaView(
            name, name, slot, 1, revision, 1, "ready", ready_at=START, routed_at=START
        )
        self.containers[name] = _running(name)

    def step(self) -> None:
        self.now += timedelta(seconds=1)
        starting = [item.name for item in self.rows.values() if item.state == "starting"]
        healthy = frozenset(name for name in starting if self.random.random() < 0.5)
        if self.crash:
            healthy = frozenset(name for name in healthy if not name.endswith(f"v{NEW}"))
            for name in starting:
                if name.endswith(f"v{NEW}") and self.random.random() < 0.5:
                    self.containers[name] = _running(name, ContainerState.EXITED)
        drained = frozenset(
            item.name
            for item in self.rows.values()
            if item.state == "draining" and self.random.random() < 0.3
        )
        observed = Observed(
            containers=dict(self.containers),
            healthy=healthy,
            image_present=True,
            gateways=1,
            route_applied=self.random.random() < 0.5,
            drained=drained,
        )
        outcome = plan(self.desired, list(self.rows.values()), observed, self.now)
        self.settled = outcome.settled
        self.status = derive(replace(self.desired, was_serving=True), outcome.conditions)
        for action in outcome.actions:
            self._do(action)

    def _do(self, action: object) -> None:
        match action:
            case Create(slot, attempt):
                revision = self.desired.revision_id
                assert revision is not None
                name = f"r{slot}-{attempt}-v{revision}"
                assert name not in self.rows
                self.rows[name] = ReplicaView(
                    name, name, slot, attempt, revision, 1, "waiting", epoch=self.desired.epoch, placed=False
                )
            case Place(replica):
                self._set(replica, placed=True)
            case Start(replica):
                self.containers[replica.name] = _running(replica.name)
                self._set(replica, state="starting", started_at=self.now)
            case Healthy(replica):
                self._set(replica, healthy_since=self.now)
            case Ready(replica):
                self._set(replica, state="ready", ready_at=self.now)
            case Routed(replica):
                self._set(replica, routed_at=self.now)
            case Drain(replica):
                self._set(replica, state="draining", drain_started_at=self.now)
            case Stop(replica):
                self.containers.pop(replica.name, None)
                self._set(replica, state="stopped", ended_at=self.now)
            case Fail(replica, code, _):
                self.containers.pop(replica.name, None)
                self._set(replica, state="failed", ended_at=self.now, reason_code=code)
            case TakeBack():
                self.taken_back = action
                self.desired = replace(self.desired, revision_id=self.desired.stable_revision_id)
            case _:
                raise AssertionError(action)

    def _set(self, replica: ReplicaView, **fields: object) -> None:
        self.rows[replica.name] = replace(self.rows[replica.name], **fields)

    def live(self) -> list[ReplicaView]:
        return [item for item in self.rows.values() if item.state in ("waiting", "starting", "ready")]

    def serving(self) -> list[ReplicaView]:
        """Those that requests are sent to, as far as every gateway is known to have been told."""
        return [item for item in self.rows.values() if item.state == "ready" and item.routed_at]


def _running(name: str, state: ContainerState = ContainerState.RUNNING) -> Observation:
    return Observation(name, "id", state, {}, address=Address("10.0.0.2", 8000), exit_code=1)


def updating(wanted: int, seed: int, **fields: object) -> World:
    desired = Desired(
        "me-1", 1, wanted, NEW, stable_revision_id=OLD, revised_at=START, start_timeout_s=60, **fields
    )
    world = World(desired, seed)
    for slot in range(1, wanted + 1):
        world.add_ready(slot, OLD)
    return world


@given(wanted=st.integers(1, 5), seed=st.integers(0, 2**16))
@settings(max_examples=60, deadline=None)
def test_a_rollout_never_serves_with_less_than_wanted_nor_runs_more_than_one_too_many(
    wanted: int, seed: int
) -> None:
    world = updating(wanted, seed)
    for _ in range(400):
        world.step()
        assert len(world.serving()) >= wanted
        assert len(world.live()) <= wanted + 1
        if world.settled and len(world.live()) == wanted:
            break
    assert {item.revision_id for item in world.live()} == {NEW}
    assert sorted(item.slot for item in world.live()) == list(range(1, wanted + 1))


@given(wanted=st.integers(1, 4), seed=st.integers(0, 2**16))
@settings(max_examples=40, deadline=None)
def test_with_an_interruption_allowed_it_never_needs_more_room_than_before(wanted: int, seed: int) -> None:
    world = updating(wanted, seed, surge=0)
    for _ in range(600):
        world.step()
        assert len(world.containers) <= wanted
        assert len(world.serving()) >= wanted - 1
        if world.settled:
            break
    assert {item.revision_id for item in world.live()} == {NEW}


@given(wanted=st.integers(1, 4), seed=st.integers(0, 2**16))
@settings(max_examples=40, deadline=None)
def test_a_revision_that_does_not_get_healthy_is_taken_back_and_nobody_notices(
    wanted: int, seed: int
) -> None:
    world = updating(wanted, seed)
    world.crash = True
    for _ in range(600):
        world.step()
        assert len(world.serving()) >= wanted
        if world.taken_back and len(world.live()) == wanted:
            break
    assert world.taken_back is not None
    assert world.taken_back.code == "container_exited"
    assert {item.revision_id for item in world.live()} == {OLD}
    attempts = [item for item in world.rows.values() if item.revision_id == NEW and item.state == "failed"]
    assert len(attempts) >= TRIES


@given(wanted=st.integers(1, 3), seed=st.integers(0, 2**16))
@settings(max_examples=30, deadline=None)
def test_a_restart_replaces_every_replica_and_keeps_the_service_up(wanted: int, seed: int) -> None:
    world = updating(wanted, seed)
    world.desired = replace(world.desired, revision_id=OLD, epoch=1)
    for _ in range(400):
        world.step()
        assert len(world.serving()) >= wanted
        if world.settled and len(world.live()) == wanted:
            break
    assert {item.epoch for item in world.live()} == {1}


@given(before=st.integers(1, 5), after=st.integers(0, 5), seed=st.integers(0, 2**16))
@settings(max_examples=60, deadline=None)
def test_scaling_during_an_update_ends_with_the_wanted_number(before: int, after: int, seed: int) -> None:
    world = updating(before, seed)
    for _ in range(seed % 7):
        world.step()
    world.desired = replace(world.desired, wanted=after)
    for _ in range(600):
        world.step()
        assert len(world.serving()) >= min(before, after)
        if len(world.containers) == after and (world.settled or not after):
            break
    assert sorted((item.slot, item.revision_id) for item in world.live()) == [
        (slot, NEW) for slot in range(1, after + 1)
    ]


def test_two_updates_in_a_row_stop_what_the_first_one_began() -> None:
    world = updating(2, seed=1)
    while not any(item.state == "starting" for item in world.rows.values()):
        world.step()
    world.desired = replace(world.desired, revision_id=8)
    for _ in range(400):
        world.step()
        assert len(world.serving()) >= 2
        if world.settled and len(world.live()) == 2:
            break
    assert {item.revision_id for item in world.live()} == {8}


@pytest.mark.parametrize("code", ["image_not_found", "command_not_found", "out_of_memory", "health_timeout"])
def test_an_update_that_cannot_work_is_taken_back_at_once(code: str) -> None:
    world = updating(1, seed=1)
    failed = ReplicaView(
        "n", "n", 1, 1, NEW, 1, "failed", ended_at=START, reason_code=code, evidence={"port": 8000}
    )
    world.rows["n"] = failed
    world.step()
    assert world.taken_back == TakeBack(code, {"port": 8000, "replica": "n"})


def test_an_update_without_end_is_taken_back_with_what_held_it_up() -> None:
    world = updating(1, seed=1, rollout_timeout_s=100)
    row = ReplicaView(
        "n", "n", 1, 1, NEW, 1, "waiting", reason_code="no_capacity", evidence={"needs": "1 GPU"}
    )
    observed = Observed(containers=dict(world.containers), gateways=1, image_present=False)
    rows = [*world.rows.values(), row]
    early = plan(world.desired, rows, observed, START + timedelta(seconds=99))
    assert not any(isinstance(action, TakeBack) for action in early.actions)
    verdict = derive(replace(world.desired, was_serving=True), early.conditions)
    assert (verdict.status, verdict.reason) == ("UPDATING", "no_capacity")
    late = plan(world.desired, rows, observed, START + timedelta(seconds=100))
    assert late.actions == (TakeBack("no_capacity", {"needs": "1 GPU", "replica": "n"}),)


def test_a_first_deployment_has_nothing_to_go_back_to() -> None:
    desired = Desired("me-1", 1, 1, NEW, revised_at=START)
    failed = ReplicaView("n", "n", 1, 1, NEW, 1, "failed", ended_at=START, reason_code="image_not_found")
    outcome = plan(desired, [failed], Observed(gateways=1), START)
    assert outcome.actions == ()
    assert derive(desired, outcome.conditions).status == "FAILED"


def test_an_update_that_was_taken_back_leaves_its_reason() -> None:
    told = {"revision": 7, "code": "out_of_memory", "params": {"memory": "4 GiB"}, "at": "…"}
    desired = Desired("me-1", 1, 1, OLD, stable_revision_id=OLD, failed_update=told)
    world = World(desired)
    world.add_ready(1, OLD)
    world.step()
    assert (world.status.status, world.status.reason) == ("DEGRADED", "out_of_memory")
    assert world.status.params == {"memory": "4 GiB", "revision": 7}


def test_a_replica_that_is_frozen_does_not_count_as_serving_during_an_update() -> None:
    world = updating(2, seed=1)
    frozen = world.rows["r1-1-v6"]
    world.rows["r1-1-v6"] = replace(frozen, unhealthy_since=START)
    new = ReplicaView("n", "n", 2, 1, NEW, 1, "ready", ready_at=START, routed_at=START)
    world.rows["n"], world.containers["n"] = new, _running("n")
    observed = Observed(containers=world.containers, gateways=1, route_applied=True)
    outcome = plan(world.desired, list(world.rows.values()), observed, START)
    drained = [action.replica.name for action in outcome.actions if isinstance(action, Drain)]
    assert drained == ["r1-1-v6"], "the frozen one goes, the good old one stays"


def test_scaling_down_spares_one_that_serves_in_place_of_a_lower_one_that_does_not() -> None:
    def drained(*rows: ReplicaView) -> list[str]:
        containers = {item.name: _running(item.name) for item in rows}
        outcome = plan(Desired("me-1", 2, 1, NEW), rows, Observed(containers, gateways=1), START)
        return [action.replica.name for action in outcome.actions if isinstance(action, Drain)]

    def ready(slot: int, **fields: object) -> ReplicaView:
        fields = {"routed_at": START, **fields}
        return ReplicaView(f"r{slot}", f"r{slot}", slot, 1, NEW, 1, "ready", ready_at=START, **fields)

    coming = ReplicaView("r1", "r1", 1, 9, NEW, 2, "starting", started_at=START)
    assert drained(coming, ready(2), ready(3)) == ["r3"]
    assert drained(ready(1, unhealthy_since=START), ready(2), ready(3)) == ["r3"]
    assert drained(ready(1, routed_at=None), ready(2), ready(3)) == ["r3"], "nobody is sent to it yet"
    assert drained(ready(1), ready(2), ready(3)) == ["r2", "r3"]
