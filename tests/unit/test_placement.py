"""Claims as rows: what is taken, given back, refused, and in which words."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from endpoints import queue
from endpoints.errors import describe
from endpoints.models import Gpu, InstanceType, Node, Region, Replica, ReplicaState
from endpoints.placement import NoRoom, Placed, Rooms, place, release, release_dead, room_for
from iam.actors import Actor
from tests.support_endpoints import load_data
from tests.support_placement import GIB, asks_for, gpu_rows, gpu_size, node_row, size_row, waiting

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _data(db: None) -> None:
    load_data()


@pytest.fixture
def hints(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which endpoints were asked to be looked at, in order."""
    sent: list[str] = []
    monkeypatch.setattr(queue, "_send", lambda task, argument, delay: sent.append(argument))
    return sent


def now_placed(replica: Replica) -> Placed:
    answer = place(replica, now=timezone.now())
    assert isinstance(answer, Placed), answer
    return answer


def refused(replica: Replica, **later: float) -> NoRoom:
    answer = place(replica, now=timezone.now() + timedelta(**later))
    assert isinstance(answer, NoRoom), answer
    json.dumps(dict(answer.params), allow_nan=False)
    return answer


def words(answer: NoRoom | None) -> str:
    assert answer is not None
    return describe("no_capacity", answer.params).message


def test_a_claim_is_written_everywhere_and_is_the_same_when_asked_again(editor_actor: Actor) -> None:
    gpu_rows(node_row(), 4)
    size = InstanceType.objects.get(name="g1-standard-8x32-2rtx2080ti")
    replica = waiting(asks_for(editor_actor, size))
    placed = now_placed(replica)
    assert placed == Placed("local", ("GPU-local-rtx2080ti-0", "GPU-local-rtx2080ti-1"))
    assert now_placed(replica) == placed
    assert (replica.node_id, replica.claimed, tuple(replica.gpu_ids)) == ("local", True, placed.gpu_ids)
    row = Replica.objects.get(pk=replica.pk)
    assert (row.node_id, row.claimed, tuple(row.gpu_ids)) == ("local", True, placed.gpu_ids)
    assert (row.cpus, row.memory_bytes) == (8, 32 * GIB)
    assert set(Gpu.objects.filter(replica=replica).values_list("uuid", flat=True)) == set(placed.gpu_ids)


def test_what_is_released_is_whole_again_and_who_waits_is_looked_at_oldest_first(
    editor_actor: Actor, hints: list[str], django_capture_on_commit_callbacks: Any
) -> None:
    gpu_rows(node_row(), 2)
    size = gpu_size(2)
    holder = waiting(asks_for(editor_actor, size, "a"), ago_s=50)
    now_placed(holder)
    young = waiting(asks_for(editor_actor, size, "young"), ago_s=10)
    old = waiting(asks_for(editor_actor, size, "old"), ago_s=20)
    refused(old)
    Replica.objects.filter(pk=holder.pk).update(state=ReplicaState.STOPPED)
    with django_capture_on_commit_callbacks(execute=True):
        assert release(holder.pk)
    assert hints == [old.endpoint_id, young.endpoint_id]
    assert not Gpu.objects.exclude(replica=None).exists()
    row = Replica.objects.get(pk=holder.pk)
    assert (row.claimed, len(row.gpu_ids), row.node_id) == (False, 2, "local")  # for people
    assert not release(holder.pk)
    assert refused(young).kind == "turn"
    now_placed(old)
    assert refused(young).kind == "gpus"


def test_the_arithmetic_in_words(editor_actor: Actor, outsider_actor: Actor) -> None:
    gpu_rows(node_row(), 4)
    for slot in (1, 2):
        now_placed(waiting(asks_for(editor_actor, gpu_size(1), f"own-{slot}", max_replicas=2), slot))
    now_placed(waiting(asks_for(outsider_actor, gpu_size(1), "secret")))
    mine = waiting(asks_for(editor_actor, gpu_size(2), "mine"))
    answer = refused(mine)
    assert words(answer) == (
        "It needs 2 × rtx2080ti in HCM; 1 free of 4: own-1/r1, own-2/r2 and 1 other hold the rest."
    )
    assert refused(mine) == answer  # nothing to write while nothing changes
    theirs = refused(waiting(asks_for(outsider_actor, gpu_size(2), "theirs")))
    assert (
        words(theirs) == "It needs 2 × rtx2080ti in HCM; 1 free of 4: secret/r1 and 2 others hold the rest."
    )
    assert "own" not in json.dumps(dict(theirs.params))
    assert describe("no_capacity", answer.params).fix == "edit"
    assert "by itself" in describe("no_capacity", answer.params).action


def test_free_gpus_on_different_machines_are_said_to_be(editor_actor: Actor) -> None:
    for name in ("a", "b"):
        gpu_rows(node_row(name), 2)
        now_placed(waiting(asks_for(editor_actor, gpu_size(1), f"on-{name}")))
    assert words(refused(waiting(asks_for(editor_actor, gpu_size(2), "two")))) == (
        "It needs 2 × rtx2080ti on one machine in HCM; 2 of 4 are free, but not together:"
        " on-a/r1 and on-b/r1 hold the rest."
    )


def test_a_gpu_in_use_from_outside_is_not_given_away_and_said_so(editor_actor: Actor) -> None:
    gpu, _ = gpu_rows(node_row(), 2)
    Gpu.objects.filter(pk=gpu.pk).update(use=[{"kind": "foreign", "name": "python", "pid": 7}])
    assert words(refused(waiting(asks_for(editor_actor, gpu_size(2))))) == (
        "It needs 2 × rtx2080ti in HCM; 1 free of 2. 1 of these GPUs is in use from outside the platform."
    )
    assert now_placed(waiting(asks_for(editor_actor, gpu_size(1), "one"))).gpu_ids == (
        "GPU-local-rtx2080ti-1",
    )


def test_cpus_and_memory_in_words(editor_actor: Actor) -> None:
    node_row(cpus=2, memory_bytes=8 * GIB, cpu_overcommit=2)
    size = InstanceType.objects.get(name="local-cpu")
    now_placed(waiting(asks_for(editor_actor, size, "one")))
    now_placed(waiting(asks_for(editor_actor, size, "two")))
    third = waiting(asks_for(editor_actor, size, "three"))
    assert words(refused(third)) == (
        "It needs 2 CPUs and 4 GiB RAM in HCM; free now: 0 of 4 CPUs and 0 of 8 GiB RAM."
        " one/r1 and two/r1 hold the rest."
    )
    node_row("other", cpus=2, memory_bytes=6 * GIB, cpu_overcommit=0.5)
    assert "one machine in HCM; none has more free than 1 of 1 CPUs." in words(refused(third))


def test_what_no_machine_could_ever_hold_is_said_differently(editor_actor: Actor) -> None:
    def say(size: InstanceType) -> str:
        return words(refused(waiting(asks_for(editor_actor, size, size.name.replace(".", "-")))))

    assert say(gpu_size(1)) == "No machine in HCM takes replicas."
    gpu_rows(node_row("a", cpus=4), 2)
    gpu_rows(node_row("b", memory_bytes=8 * GIB), 4, "a40")
    assert say(gpu_size(3)) == ("It needs 3 × rtx2080ti; no machine in HCM has more than 2 of these GPUs.")
    assert say(gpu_size(1, "h100")) == "It needs 1 × h100; no machine in HCM has a GPU of this model."
    assert say(size_row("big", vcpu=65)) == "It needs 65 CPUs; the largest machine in HCM has 64 CPUs."
    assert say(size_row("wide", memory_gib=257)) == (
        "It needs 257 GiB RAM; the largest machine in HCM has 256 GiB."
    )
    assert say(size_row("both", vcpu=8, memory_gib=16)) == (
        "It needs 8 CPUs and 16 GiB RAM; no machine in HCM has all of that together."
    )


def test_no_limit_claims_nothing_and_is_never_refused(editor_actor: Actor) -> None:
    node_row(cpus=1, memory_bytes=GIB)
    free = size_row("free")
    for number in range(5):
        replica = waiting(asks_for(editor_actor, free, f"e{number}"))
        now_placed(replica)
        assert (replica.cpus, replica.memory_bytes, replica.claimed) == (0, 0, True)


def test_what_an_admin_says_wins_over_what_was_found(editor_actor: Actor) -> None:
    node_row(cpus=2, cpus_set=16, memory_bytes=2 * GIB, memory_gib_set=64, cpu_overcommit=1)
    size = InstanceType.objects.get(name="a1-standard-16x64")
    now_placed(waiting(asks_for(editor_actor, size)))
    Node.objects.update(schedulable=False)
    assert refused(waiting(asks_for(editor_actor, size, "next"))).kind == "no_node"


def test_only_machines_and_gpus_that_may_be_used_are(editor_actor: Actor) -> None:
    Region.objects.create(code="HN", name="Hanoi")
    gpu_rows(node_row("elsewhere", region_id="HN"), 2)
    gpu_rows(node_row("cordoned", schedulable=False), 2)
    gpu_rows(node_row("off"), 2, enabled=False)
    long_ago = timezone.now() - timedelta(minutes=5)
    gpu_rows(node_row("away", seen_at=long_ago), 2)
    here = node_row("here", seen_at=timezone.now())
    gpu_rows(here, 2, found=True, seen_at=long_ago)  # the driver no longer names them
    assert refused(waiting(asks_for(editor_actor, gpu_size(1)))).kind == "too_big"
    Gpu.objects.filter(node=here).update(seen_at=timezone.now())
    assert now_placed(waiting(asks_for(editor_actor, gpu_size(1), "next"))).node == "here"


def test_replicas_of_an_endpoint_spread(editor_actor: Actor) -> None:
    for name in ("a", "b", "c"):
        gpu_rows(node_row(name), 2)
    endpoint = asks_for(editor_actor, gpu_size(1), max_replicas=6)
    nodes = [now_placed(waiting(endpoint, slot)).node for slot in range(1, 7)]
    assert nodes == ["a", "b", "c", "a", "b", "c"]


def test_whoever_waits_longest_comes_first_if_the_room_is_enough_for_it(editor_actor: Actor) -> None:
    gpu_rows(node_row(), 2)
    holder = waiting(asks_for(editor_actor, gpu_size(1), "holder"), ago_s=900)
    now_placed(holder)
    big = waiting(asks_for(editor_actor, gpu_size(2), "big"), ago_s=300)
    small = waiting(asks_for(editor_actor, gpu_size(1), "small"), ago_s=100)
    # Ten minutes are not over: the big one is overtaken. Then it is not.
    assert refused(small, minutes=6) == refused(small, minutes=6)
    assert words(refused(small, minutes=6)) == ("Room in HCM goes to 1 replica first that has waited longer.")
    assert refused(big).kind == "gpus"
    now_placed(small)
    assert refused(big).params["free"] == 0


@pytest.mark.parametrize(
    "state",
    ["paused", "deleting", "surge", "pulling", "troubled", "outdated"],
)
def test_who_cannot_use_the_room_now_holds_up_nobody(state: str, editor_actor: Actor) -> None:
    gpu_rows(node_row(), 1)
    endpoint = asks_for(editor_actor, gpu_size(1), "old")
    old = waiting(endpoint, ago_s=3000)
    young = waiting(asks_for(editor_actor, gpu_size(1), "young"))
    assert refused(young).kind == "turn"
    now = timezone.now()
    match state:
        case "paused":
            type(endpoint).objects.filter(pk=endpoint.pk).update(paused_at=now)
        case "deleting":
            type(endpoint).objects.filter(pk=endpoint.pk).update(deleting_at=now)
        case "surge":
            waiting(endpoint, attempt=7, state=ReplicaState.READY)
        case "pulling":
            Replica.objects.filter(pk=old.pk).update(pull_beat_at=now)
        case "troubled":
            Replica.objects.filter(pk=old.pk).update(reason_code="registry_unreachable")
        case "outdated":
            assert endpoint.revision is not None
            copy = type(endpoint.revision).objects.get(pk=endpoint.revision_id)
            copy.pk, copy.number = None, 2
            copy.save()
            type(endpoint).objects.filter(pk=endpoint.pk).update(revision=copy)
    now_placed(young)


def test_a_replica_that_has_ended_claims_nothing(editor_actor: Actor) -> None:
    gpu_rows(node_row(), 1)
    replica = waiting(asks_for(editor_actor, gpu_size(1)))
    Replica.objects.filter(pk=replica.pk).update(state=ReplicaState.STOPPED)
    assert refused(replica).kind == "ended"
    assert not Gpu.objects.exclude(replica=None).exists()


def test_claims_of_the_dead_are_found_and_given_back(editor_actor: Actor, hints: list[str]) -> None:
    gpu_rows(node_row(), 2)
    dead, alive = (waiting(asks_for(editor_actor, gpu_size(1), name)) for name in ("dead", "alive"))
    now_placed(dead)
    now_placed(alive)
    Replica.objects.filter(pk=dead.pk).update(state=ReplicaState.FAILED)
    assert release_dead() == [dead.name]
    assert release_dead() == []
    assert Gpu.objects.exclude(replica=None).get().replica_id == alive.pk


def test_a_deleted_replica_holds_nothing(editor_actor: Actor) -> None:
    gpu_rows(node_row(), 1)
    replica = waiting(asks_for(editor_actor, gpu_size(1)))
    now_placed(replica)
    replica.delete()
    now_placed(waiting(asks_for(editor_actor, gpu_size(1), "next")))


def test_would_there_be_room(editor_actor: Actor, django_assert_max_num_queries: Any) -> None:
    gpu_rows(node_row(), 4)
    one = gpu_size(1)
    holder = waiting(asks_for(editor_actor, one))
    now_placed(holder)
    assert room_for(one, "HCM", count=3) is None
    assert words(room_for(one, "HCM", count=4)) == (
        "There is room for 3 of 4 replicas in HCM now; each needs 1 × rtx2080ti."
    )
    assert room_for(one, "HCM", count=4, releasing=[holder.pk]) is None
    four = room_for(gpu_size(4), "HCM", project_id=editor_actor.project.id)
    assert words(four) == "It needs 4 × rtx2080ti in HCM; 3 free of 4: embed-01/r1 holds the rest."
    assert not Gpu.objects.exclude(replica=None).exclude(replica=holder).exists()
    sizes = list(InstanceType.objects.all())
    with django_assert_max_num_queries(4):
        rooms = Rooms("HCM")
    for size in sizes:
        rooms.room_for(size)
