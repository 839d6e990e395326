"""Where a replica fits: the arithmetic and whose turn it is, without a database."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from endpoints.placement.fit import (
    Choice,
    GpuRoom,
    Need,
    NodeRoom,
    Turn,
    Waiting,
    choose,
    choose_in_turn,
    could_hold,
    take,
)

GIB = 2**30


def gpus(node: str, count: int, model: str = "rtx2080ti", taken: int = 0) -> tuple[GpuRoom, ...]:
    return tuple(
        GpuRoom(f"{node}-{index}", model, index, holder="somebody" if index < taken else "")
        for index in range(count)
    )


def node(name: str = "a", **fields: object) -> NodeRoom:
    return replace(NodeRoom(name, cpus=8, memory_bytes=32 * GIB), **fields)  # type: ignore[arg-type]


def test_the_node_with_the_fewest_replicas_of_the_endpoint_comes_first_then_the_emptiest() -> None:
    need = Need(1, GIB)
    full = node("a", memory_claimed=16 * GIB)
    assert choose(need, "me", [full, node("b")]) == Choice("b")
    assert choose(need, "me", [full, node("b", endpoints={"me": 1})]) == Choice("a")
    assert choose(need, "other", [full, node("b", endpoints={"me": 1})]) == Choice("b")
    assert choose(need, "me", [node("b"), node("a")]) == Choice("a")  # by name, always the same


def test_gpus_of_one_replica_come_from_one_node_and_are_of_its_model() -> None:
    two = Need(gpu="rtx2080ti", gpu_count=2)
    halves = [node("a", gpus=gpus("a", 2, taken=1)), node("b", gpus=gpus("b", 2, taken=1))]
    assert choose(two, "me", halves) is None
    other = node("c", gpus=gpus("c", 4, "a40"))
    assert choose(two, "me", [*halves, other]) is None
    assert choose(two, "me", [*halves, other, node("d", gpus=gpus("d", 3, taken=1))]) == Choice(
        "d", ("d-1", "d-2")
    )


def test_a_gpu_that_somebody_from_outside_computes_on_is_left_alone() -> None:
    one = Need(gpu="a40", gpu_count=1)
    busy = GpuRoom("x", "a40", 0, foreign=True)
    assert choose(one, "me", [node(gpus=(busy,))]) is None
    assert choose(one, "me", [node(gpus=(busy, GpuRoom("y", "A40", 1)))]) == Choice("a", ("y",))


@pytest.mark.parametrize(
    ("need", "room", "fits"),
    [
        (Need(cpus=8), node(), True),
        (Need(cpus=8.5), node(), False),  # more than there is, however many may be promised
        (Need(cpus=8), node(overcommit=4, cpus_claimed=24), True),
        (Need(cpus=8), node(overcommit=4, cpus_claimed=24.5), False),
        (Need(memory_bytes=32 * GIB), node(), True),
        (Need(memory_bytes=32 * GIB), node(memory_claimed=1), False),
        (Need(), node(cpus_claimed=8, memory_claimed=32 * GIB), True),  # no limit claims nothing
        (Need(cpus=64, memory_bytes=2**50), NodeRoom("unknown"), True),  # what is not known limits nothing
        (Need(cpus=0.1), node(overcommit=1, cpus_claimed=0.1 * 79), True),  # sums of floats
    ],
)
def test_room(need: Need, room: NodeRoom, fits: bool) -> None:
    assert (choose(need, "me", [room]) is not None) == fits


def test_an_older_replica_that_could_use_the_room_now_comes_first() -> None:
    one, there = Need(gpu="a40", gpu_count=1), [node(gpus=gpus("a", 1, "a40"))]
    assert choose_in_turn(one, "young", there, []) == Choice("a", ("a-0",))
    assert choose_in_turn(one, "young", there, [Waiting("old", one)]) == Turn(1)
    two = [node(gpus=gpus("a", 2, "a40"))]
    assert choose_in_turn(one, "young", two, [Waiting("old", one)]) == Choice("a", ("a-1",))


def test_one_that_cannot_use_the_room_is_overtaken_until_it_becomes_patient() -> None:
    one, four = Need(gpu="a40", gpu_count=1), Need(gpu="a40", gpu_count=4)
    there = [node(gpus=gpus("a", 4, "a40", taken=2))]
    assert choose_in_turn(one, "young", there, [Waiting("old", four)]) == Choice("a", ("a-2",))
    assert choose_in_turn(one, "young", there, [Waiting("old", four, patient=True)]) == Turn(1)
    # Only among those that compete for the same; and nobody waits behind what can never be.
    assert choose_in_turn(Need(1), "young", there, [Waiting("old", four, patient=True)]) == Choice("a")
    never = Need(gpu="a40", gpu_count=5)
    assert choose_in_turn(one, "young", there, [Waiting("old", never, patient=True)]) == Choice("a", ("a-2",))
    assert choose_in_turn(four, "young", there, [Waiting("old", one)]) is None


NEEDS = st.builds(
    Need,
    cpus=st.sampled_from([0, 0.5, 1, 2, 4, 8, 16]),
    memory_bytes=st.sampled_from([0, 1, 4, 8, 16, 64]).map(lambda gib: gib * GIB),
    gpu=st.sampled_from(["a40", "rtx2080ti"]),
    gpu_count=st.integers(0, 3),
)
NODES = st.lists(
    st.builds(
        lambda name, cpus, memory, overcommit, a40, rtx: NodeRoom(
            name,
            cpus=cpus,
            memory_bytes=memory * GIB,
            overcommit=overcommit,
            gpus=gpus(f"{name}-a40", a40, "a40") + gpus(f"{name}-rtx", rtx),
        ),
        st.sampled_from("abcd"),
        st.sampled_from([1, 2, 8]),
        st.sampled_from([2, 16, 32]),
        st.sampled_from([1, 2, 4]),
        st.integers(0, 3),
        st.integers(0, 3),
    ),
    max_size=4,
    unique_by=lambda node: node.name,
)


@given(NODES, st.lists(NEEDS, max_size=30))
def test_nothing_is_promised_twice_and_nothing_is_refused_that_fits(
    nodes: list[NodeRoom], needs: list[Need]
) -> None:
    """Placed one after the other, counted by hand."""
    left = tuple(nodes)
    given_gpus: set[str] = set()
    cpus: dict[str, float] = dict.fromkeys((item.name for item in nodes), 0.0)
    memory = dict.fromkeys(cpus, 0)
    by_name = {item.name: item for item in nodes}
    for need in needs:
        choice = choose(need, "me", left)
        if choice is None:
            for item in nodes:
                free = [g for g in item.gpus if g.uuid not in given_gpus and g.model == need.gpu]
                assert (
                    not could_hold(need, item)
                    or cpus[item.name] + need.cpus > item.cpus * item.overcommit
                    or memory[item.name] + need.memory_bytes > item.memory_bytes
                    or len(free) < need.gpu_count
                )
            continue
        chosen = by_name[choice.node]
        assert len(set(choice.gpu_ids)) == need.gpu_count
        assert given_gpus.isdisjoint(choice.gpu_ids)
        assert {g.uuid for g in chosen.gpus if g.model == need.gpu}.issuperset(choice.gpu_ids)
        given_gpus.update(choice.gpu_ids)
        cpus[choice.node] += need.cpus
        memory[choice.node] += need.memory_bytes
        assert cpus[choice.node] <= chosen.cpus * chosen.overcommit
        assert memory[choice.node] <= chosen.memory_bytes
        left = take(left, choice, need, "me")
