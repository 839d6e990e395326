"""The planner: what it does about every state a replica can be found in."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from endpoints.conditions import derive
from endpoints.reconciler.plan import LEAVE_LIMIT_S, PULL_BEAT_LIMIT, UNRESPONSIVE_LIMIT, plan
from endpoints.reconciler.retries import BACK_OFF, BACK_OFF_LIMIT, CALM
from endpoints.reconciler.state import (
    Create,
    Desired,
    Drain,
    Fail,
    Finish,
    Healthy,
    Observed,
    Place,
    Pull,
    Ready,
    Recovered,
    RemoveOrphan,
    ReplicaView,
    Routed,
    Start,
    Stop,
)
from runtimes.contract import Address, ContainerState, Observation

NOW = datetime(2026, 1, 1, tzinfo=UTC)
WANT_ONE = Desired("me-1", generation=2, wanted=1, revision_id=7, start_timeout_s=60)
GONE = replace(WANT_ONE, wanted=0, deleting=True)


def row(state: str, slot: int = 1, attempt: int = 1, revision: int = 7, **fields: object) -> ReplicaView:
    name = f"r{slot}-{attempt}-v{revision}"
    return ReplicaView(name, name, slot, attempt, revision, generation=2, state=state, **fields)


def container(name: str, state: ContainerState = ContainerState.RUNNING, **fields: object) -> Observation:
    address = Address("10.0.0.2", 8000) if state == ContainerState.RUNNING else None
    return Observation(name, "id", state, {}, address=address, **fields)


def seen(*containers: Observation, **fields: object) -> Observed:
    return Observed(containers={item.name: item for item in containers}, gateways=1, **fields)


def test_a_new_endpoint_gets_one_replica_a_slot() -> None:
    assert plan(replace(WANT_ONE, wanted=2), [], seen(), NOW).actions == (Create(1, 1), Create(2, 1))


@pytest.mark.parametrize(("present", "action"), [(True, Start), (False, Pull)])
def test_a_waiting_replica_is_started_when_its_image_is_there(present: bool, action: type) -> None:
    waiting = row("waiting")
    assert plan(WANT_ONE, [waiting], seen(image_present=present), NOW).actions == (action(waiting),)


def test_a_pull_that_reports_is_left_alone_and_a_silent_one_is_taken_over() -> None:
    fresh = row("waiting", pull_beat_at=NOW)
    silent = row("waiting", pull_beat_at=NOW - PULL_BEAT_LIMIT - timedelta(seconds=1))
    assert plan(WANT_ONE, [fresh], seen(image_present=False), NOW).actions == ()
    assert plan(WANT_ONE, [silent], seen(image_present=False), NOW).actions == (Pull(silent),)


def test_a_container_whose_start_nobody_recorded_is_adopted() -> None:
    waiting = row("waiting")
    assert plan(WANT_ONE, [waiting], seen(container(waiting.name)), NOW).actions == (Start(waiting),)


def test_two_healthy_answers_make_a_replica_ready() -> None:
    once, twice = row("starting", started_at=NOW), row("starting", started_at=NOW, healthy_since=NOW)
    observed = seen(container(once.name), healthy=frozenset({once.name}))
    assert plan(WANT_ONE, [once], observed, NOW).actions == (Healthy(once),)
    assert plan(WANT_ONE, [twice], observed, NOW).actions == (Ready(twice),)


def test_a_replica_that_never_gets_healthy_fails_after_its_deadline_and_not_before() -> None:
    early = row("starting", started_at=NOW - timedelta(seconds=59))
    late = row("starting", started_at=NOW - timedelta(seconds=61))
    assert plan(WANT_ONE, [early], seen(container(early.name)), NOW).actions == ()
    assert plan(WANT_ONE, [late], seen(container(late.name)), NOW).actions == (
        Fail(late, "health_timeout", {"seconds": 60}),
    )


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"exit_code": 1}, "container_exited"),
        ({"exit_code": 137, "oom_killed": True}, "out_of_memory"),
        ({"exit_code": 127, "error": "executable file not found"}, "command_not_found"),
    ],
)
def test_a_container_that_ended_is_a_failure_with_its_cause(fields: dict[str, object], code: str) -> None:
    starting = row("starting", started_at=NOW)
    observed = seen(container(starting.name, ContainerState.EXITED, **fields))
    (action,) = plan(WANT_ONE, [starting], observed, NOW).actions
    assert isinstance(action, Fail)
    assert (action.code, action.params["exit_code"]) == (code, fields["exit_code"])


def test_what_only_a_person_can_mend_waits_for_one() -> None:
    failed = row("failed", reason_code="command_not_found", ended_at=NOW, evidence={"exit_code": 127})
    outcome = plan(WANT_ONE, [failed], seen(), NOW + timedelta(days=1))
    assert outcome.actions == ()
    assert outcome.look_again_s is None
    verdict = derive(WANT_ONE, outcome.conditions)
    assert (verdict.status, verdict.reason, verdict.params["exit_code"]) == (
        "FAILED",
        "command_not_found",
        127,
    )
    retried = replace(WANT_ONE, generation=3)
    assert plan(retried, [failed], seen(), NOW).actions == (Create(1, attempt=2),)


def test_what_never_got_ready_is_tried_again_more_and_more_seldom_and_stays_failed() -> None:
    attempts: list[ReplicaView] = []
    waits = []
    for number in range(1, 9):
        attempts.append(row("failed", attempt=number, reason_code="container_exited", ended_at=NOW))
        outcome = plan(WANT_ONE, attempts, seen(), NOW)
        assert outcome.actions == ()
        assert derive(WANT_ONE, outcome.conditions).status == "FAILED"
        wait = next(
            s
            for s in (10, 20, 40, 80, 160, 300)
            if plan(WANT_ONE, attempts, seen(), NOW + timedelta(seconds=s)).actions
        )
        waits.append(wait)
        assert outcome.look_again_s == pytest.approx(wait, abs=0.1)
    assert waits == [10, 20, 40, 80, 160, 300, 300, 300]
    trying = [*attempts, row("starting", attempt=9, started_at=NOW)]
    verdict = derive(WANT_ONE, plan(WANT_ONE, trying, seen(container("r1-9-v7")), NOW).conditions)
    assert (verdict.status, verdict.params["tries"]) == ("FAILED", 8)


def test_what_ended_after_it_was_ready_is_replaced_at_once_and_then_more_slowly() -> None:
    first = row("failed", ready_at=NOW, ended_at=NOW)
    again = row("failed", attempt=2, ready_at=NOW, ended_at=NOW)
    assert plan(WANT_ONE, [first], seen(), NOW).actions == (Create(1, attempt=2),)
    assert plan(WANT_ONE, [first, again], seen(), NOW).actions == ()
    assert plan(WANT_ONE, [first, again], seen(), NOW + BACK_OFF).actions == (Create(1, attempt=3),)
    many = [row("failed", attempt=n, ready_at=NOW, ended_at=NOW) for n in range(1, 12)]
    assert plan(WANT_ONE, many, seen(), NOW + BACK_OFF_LIMIT - timedelta(seconds=1)).actions == ()
    assert plan(WANT_ONE, many, seen(), NOW + BACK_OFF_LIMIT).actions == (Create(1, attempt=12),)


def test_ten_minutes_of_service_make_up_for_earlier_failures() -> None:
    bad = [row("failed", attempt=n, ready_at=NOW, ended_at=NOW) for n in (1, 2, 3)]
    calm = row("failed", attempt=4, ready_at=NOW, ended_at=NOW + CALM)
    assert plan(WANT_ONE, [*bad, calm], seen(), NOW + CALM).actions == (Create(1, attempt=5),)


def test_one_replica_that_keeps_failing_leaves_the_others_alone() -> None:
    good = row("ready", ready_at=NOW, routed_at=NOW)
    bad = [row("failed", slot=2, attempt=n, reason_code="container_exited", ended_at=NOW) for n in (1, 2)]
    outcome = plan(replace(WANT_ONE, wanted=2), [good, *bad], seen(container(good.name)), NOW)
    assert outcome.actions == ()
    verdict = derive(replace(WANT_ONE, wanted=2), outcome.conditions)
    assert (verdict.status, verdict.reason) == ("DEGRADED", "container_exited")


def test_a_replica_is_placed_before_its_image_is_fetched() -> None:
    unplaced = row("waiting", placed=False)
    assert plan(WANT_ONE, [unplaced], seen(image_present=False), NOW).actions == (Place(unplaced),)
    waits = replace(unplaced, reason_code="no_capacity", evidence={"needs": "2 GPUs"})
    outcome = plan(WANT_ONE, [waits], seen(image_present=False), NOW)
    assert outcome.actions == (Place(waits),)
    verdict = derive(WANT_ONE, outcome.conditions)
    assert (verdict.status, verdict.reason, verdict.params) == ("PENDING", "no_capacity", {"needs": "2 GPUs"})


def test_a_replica_that_falls_silent_is_given_time_and_then_replaced() -> None:
    silent = row("ready", ready_at=NOW, routed_at=NOW, unhealthy_since=NOW)
    there = seen(container(silent.name))
    early = plan(WANT_ONE, [silent], there, NOW + UNRESPONSIVE_LIMIT - timedelta(seconds=1))
    assert early.actions == ()
    assert derive(WANT_ONE, early.conditions).reason == "unresponsive"
    (action,) = plan(WANT_ONE, [silent], there, NOW + UNRESPONSIVE_LIMIT).actions
    assert isinstance(action, Fail)
    assert action.code == "unresponsive"
    speaks_again = seen(container(silent.name), healthy=frozenset({silent.name}))
    assert plan(WANT_ONE, [silent], speaks_again, NOW + UNRESPONSIVE_LIMIT).actions == (Recovered(silent),)


def test_a_container_removed_by_someone_else_is_replaced() -> None:
    ready = row("ready", ready_at=NOW, routed_at=NOW)
    assert plan(WANT_ONE, [ready], seen(), NOW).actions == (Fail(ready, "container_gone"),)
    lost = row("failed", reason_code="container_gone", ended_at=NOW)
    assert plan(WANT_ONE, [lost], seen(), NOW).actions == (Create(1, attempt=2),)


def test_an_engine_that_does_not_answer_changes_nothing() -> None:
    ready = row("ready", ready_at=NOW, routed_at=NOW)
    outcome = plan(WANT_ONE, [ready], Observed(unreachable="engine_unreachable", route_applied=True), NOW)
    assert outcome.actions == ()
    assert outcome.look_again_s is not None
    assert derive(replace(WANT_ONE, was_serving=True), outcome.conditions).status == "ACTIVE"


def test_a_new_endpoint_says_that_the_engine_does_not_answer() -> None:
    outcome = plan(WANT_ONE, [], Observed(unreachable="engine_unreachable"), NOW)
    verdict = derive(WANT_ONE, outcome.conditions)
    assert (verdict.status, verdict.reason) == ("PENDING", "engine_unreachable")


def test_active_means_ready_and_confirmed_by_the_gateways() -> None:
    ready = row("ready", ready_at=NOW)
    waiting = plan(WANT_ONE, [ready], seen(container(ready.name)), NOW)
    assert derive(WANT_ONE, waiting.conditions).reason == "routing"
    routed = plan(WANT_ONE, [ready], seen(container(ready.name), route_applied=True), NOW)
    assert routed.actions == (Routed(ready),)
    assert derive(WANT_ONE, routed.conditions).status == "ACTIVE"


def test_the_old_revision_serves_until_the_new_one_is_ready() -> None:
    old, new = row("ready", revision=6, ready_at=NOW, routed_at=NOW), row("starting", started_at=NOW)
    both = seen(container(old.name), container(new.name), route_applied=True)
    outcome = plan(WANT_ONE, [old, new], both, NOW)
    assert outcome.actions == ()
    assert derive(replace(WANT_ONE, was_serving=True), outcome.conditions).status == "UPDATING"
    ready = replace(new, state="ready", ready_at=NOW, routed_at=NOW)
    assert plan(WANT_ONE, [old, ready], both, NOW).actions == (Drain(old),)


def test_a_draining_replica_stops_when_nobody_uses_it_or_its_time_is_up() -> None:
    draining = row("draining", slot=2, drain_started_at=NOW)
    there = seen(container(draining.name), container("r1-1-v7"))
    good = row("ready", ready_at=NOW, routed_at=NOW)
    assert plan(WANT_ONE, [good, draining], there, NOW).actions == ()
    assert plan(WANT_ONE, [good, draining], there, NOW + timedelta(seconds=599)).actions == ()
    assert plan(WANT_ONE, [good, draining], there, NOW + timedelta(seconds=600)).actions == (Stop(draining),)
    drained = replace(there, drained=frozenset({draining.name}))
    assert plan(WANT_ONE, [good, draining], drained, NOW).actions == (Stop(draining),)
    ended = seen(container(draining.name, ContainerState.EXITED, exit_code=0), container("r1-1-v7"))
    assert plan(WANT_ONE, [good, draining], ended, NOW).actions == (Stop(draining),)


def test_whoever_deletes_does_not_wait_for_long_streams() -> None:
    draining = row("draining", drain_started_at=NOW)
    there = seen(container(draining.name))
    assert plan(GONE, [draining], there, NOW).actions == ()
    assert plan(GONE, [draining], there, NOW + timedelta(seconds=LEAVE_LIMIT_S)).actions == (Stop(draining),)


def test_deleting_ends_when_nothing_is_left() -> None:
    starting, stopped = row("starting", started_at=NOW), row("stopped")
    assert plan(GONE, [starting], seen(container(starting.name)), NOW).actions == (Stop(starting),)
    assert plan(GONE, [stopped], seen(container(stopped.name)), NOW).actions == (RemoveOrphan(stopped.name),)
    assert plan(GONE, [stopped], seen(), NOW).actions == (Finish(),)


_STATES = st.sampled_from(["waiting", "starting", "ready", "draining", "stopped", "failed"])
_ROWS = st.lists(
    st.tuples(_STATES, st.integers(1, 3), st.integers(1, 3), st.sampled_from([6, 7])),
    unique_by=lambda item: item[1:],
    max_size=8,
)


@given(rows=_ROWS, wanted=st.integers(0, 3), present=st.booleans())
def test_never_two_live_replicas_of_one_revision_in_a_slot(
    rows: list[tuple[str, int, int, int]], wanted: int, present: bool
) -> None:
    replicas = [row(state, slot, attempt, revision, ended_at=NOW) for state, slot, attempt, revision in rows]
    outcome = plan(replace(WANT_ONE, wanted=wanted), replicas, seen(image_present=present), NOW)
    created = [action for action in outcome.actions if isinstance(action, Create)]
    live = {
        item.slot
        for item in replicas
        if item.revision_id == 7 and item.state in ("waiting", "starting", "ready")
    }
    assert not live & {action.slot for action in created}
    assert all(action.slot <= wanted for action in created)
    taken = {(item.slot, item.attempt) for item in replicas if item.revision_id == 7}
    assert not taken & {(action.slot, action.attempt) for action in created}


def test_a_silent_replica_that_answers_again_is_taken_in_though_no_watcher_says_so() -> None:
    silent = row("ready", ready_at=NOW, routed_at=NOW, unhealthy_since=NOW - timedelta(minutes=5))
    outcome = plan(WANT_ONE, [silent], seen(container("r1-1-v7"), healthy=frozenset({"r1-1-v7"})), NOW)
    assert outcome.actions == (Recovered(silent),)


def test_a_clock_that_was_set_back_does_not_keep_a_retry_or_a_pull_waiting() -> None:
    ahead = NOW + timedelta(hours=1)
    failed = row("failed", ended_at=ahead, reason_code="container_exited")
    assert plan(WANT_ONE, [failed], seen(), NOW).actions == (Create(1, attempt=2),)
    pulled = row("waiting", pull_beat_at=ahead)
    assert plan(WANT_ONE, [pulled], seen(image_present=False), NOW).actions == (Pull(pulled),)


def test_one_that_served_and_ended_is_being_replaced_and_not_queued() -> None:
    once = row("failed", ready_at=NOW - timedelta(seconds=9), ended_at=NOW, reason_code="container_died")
    twice = replace(once, attempt=2, name="r1-2-v7")
    for rows in ([once], [once, twice]):
        verdict = derive(WANT_ONE, plan(WANT_ONE, rows, seen(), NOW).conditions)
        assert (verdict.status, verdict.reason) == ("DEPLOYING", "replacing")
