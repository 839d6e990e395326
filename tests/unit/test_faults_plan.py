"""The fault suite's pure parts: seeds into scenarios, and histories that must not have happened."""

from __future__ import annotations

import json
from itertools import count

from tests.faults import history
from tests.faults.load import Answer
from tests.faults.plan import FAULTS, STEPS, faults_at, scenario
from tests.faults.watch import Seen

moments = count()


def rows(kind: str, subject: str, old: str = "", new: str = "", endpoint: str = "me-1") -> Seen:
    return Seen(next(moments), "rows", kind, subject, endpoint, old, new)


def event(kind: str, **params: str) -> Seen:
    return rows("event", "me-1", kind, json.dumps(params))


def engine(kind: str, container: str, **labels: str) -> Seen:
    return Seen(next(moments), "engine", kind, container, "me-1", labels=labels)


def test_a_seed_is_always_the_same_scenario() -> None:
    assert scenario(4711) == scenario(4711)
    assert scenario(4711) != scenario(4712)


def test_any_hundred_seeds_in_a_row_hit_every_step_and_nearly_every_fault() -> None:
    for first in (0, 17, 999_900):
        found = [scenario(seed) for seed in range(first, first + 100)]
        assert {one.step for one in found} == set(STEPS)
        assert len({one.fault for one in found}) >= len(FAULTS) - 1


def test_in_time_every_point_is_hit() -> None:
    found = {(one.step, one.fault) for one in map(scenario, range(20 * len(STEPS)))}
    assert found == {(step, fault) for step in STEPS for fault in faults_at(step)}


def test_two_containers_of_one_replica_at_once() -> None:
    one_after_the_other = [
        engine("create", "a", **{"berth.replica": "r"}),
        engine("destroy", "a", **{"berth.replica": "r"}),
        engine("create", "b", **{"berth.replica": "r"}),
    ]
    both = [one_after_the_other[0], one_after_the_other[2]]
    life = ("create", "destroy")
    assert list(history.two_at_once(one_after_the_other, "berth.replica", life)) == []
    assert list(history.two_at_once(both, "berth.replica", life)) == [
        "2 containers with berth.replica=r at once"
    ]


def test_one_gpu_in_two_running_containers() -> None:
    given = [rows("replica.gpu_ids", name, "[]", '["GPU-1"]') for name in ("r1", "r2")]
    first, second = engine("start", "a", name="r1"), engine("start", "b", name="r2")
    assert list(history.gpu_twice([*given, first, engine("die", "a", name="r1"), second])) == []
    assert list(history.gpu_twice([*given, first, second])) == ["GPU-1 in two running containers, r1 and r2"]


def test_a_transition_needs_its_event_in_its_order() -> None:
    up = rows("endpoint.status", "me-1", "PENDING", "ACTIVE")
    down = rows("endpoint.status", "me-1", "ACTIVE", "FAILED")
    told_up = event("status.changed", before="PENDING", after="ACTIVE")
    told_down = event("status.changed", before="ACTIVE", after="FAILED")
    assert list(history.transitions_untold([up, told_up, down, told_down])) == []
    assert len(list(history.transitions_untold([up, told_up, down]))) == 1
    assert len(list(history.transitions_untold([up, told_down, down, told_up]))) == 1
    assert len(list(history.transitions_untold([rows("replica.state", "r", "ready", "failed")]))) == 1


def test_what_was_asked_for_needs_its_event() -> None:
    asked = rows("endpoint.deleting_at", "me-1", "", "now")
    assert list(history.requests_untold([asked, event("endpoint.delete_requested")])) == []
    assert len(list(history.requests_untold([asked]))) == 1
    first_revision = rows("endpoint.revision_id", "me-1", "", "1")
    assert list(history.requests_untold([first_revision])) == []


def test_another_endpoints_answer_and_a_lost_request() -> None:
    answers = [Answer(0, "me-1", "mine"), Answer(1, "me-1", "other"), Answer(2, "me-2", problem="503")]
    said = list(history.answered_by_another(answers, {"me-1": {"mine"}}))
    assert said == ["me-1 was answered by other, 1 times"]
    assert list(history.lost(answers, "me-1")) == []
    assert len(list(history.lost(answers, "me-2"))) == 1
