"""What the runtime says of its machines and GPUs, as rows that an admin may correct."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from endpoints.models import Gpu, Node, Region
from endpoints.placement import discovery, first_look, place, refresh
from iam.actors import Actor
from runtimes.contract import ALL_GPUS, GpuFacts, GpuUse, NodeFacts
from runtimes.errors import RuntimeUnreachable
from runtimes.fake import FakeRuntime
from tests.support_endpoints import load_data
from tests.support_placement import asks_for, gpu_rows, gpu_size, node_row, waiting

pytestmark = pytest.mark.django_db
GIB = 2**30


def facts(*uuids: str, model: str = "rtx2080ti") -> tuple[GpuFacts, ...]:
    return tuple(
        GpuFacts(uuid, index, "NVIDIA GeForce RTX 2080 Ti", model, 11 * GIB)
        for index, uuid in enumerate(uuids)
    )


@pytest.fixture
def runtime(db: None) -> FakeRuntime:
    """A runtime with one machine and two GPUs."""
    load_data()
    fake = FakeRuntime()
    fake.engine.nodes = [NodeFacts("local", 4, 8 * GIB, facts("GPU-0", "GPU-1"))]
    return fake


def later(monkeypatch: pytest.MonkeyPatch, **ahead: float) -> None:
    """From now on the clock of discovery goes ahead."""
    monkeypatch.setattr(discovery.timezone, "now", lambda: _now() + timedelta(**ahead))


_now = timezone.now


def test_what_is_found_becomes_rows(runtime: FakeRuntime) -> None:
    refresh(runtime)
    node = Node.objects.get()
    assert (node.name, node.region_id, node.cpus, node.memory_bytes) == ("local", "HCM", 4, 8 * GIB)
    rows = Gpu.objects.values_list("uuid", "index", "model", "vram_bytes", "found")
    assert list(rows) == [
        ("GPU-0", 0, "rtx2080ti", 11 * GIB, True),
        ("GPU-1", 1, "rtx2080ti", 11 * GIB, True),
    ]


def test_what_an_admin_has_set_stays(runtime: FakeRuntime) -> None:
    refresh(runtime)
    Region.objects.create(code="AAA", name="First by name")
    Node.objects.update(region="AAA", cpus_set=2, memory_gib_set=4, schedulable=False, cpu_overcommit=1)
    Gpu.objects.filter(uuid="GPU-0").update(model="rtx2080ti-modded", enabled=False)
    byhand = Gpu.objects.create(uuid="GPU-x", node_id="local", index=7, model="a40")
    runtime.engine.nodes = [NodeFacts("local", 8, 16 * GIB, facts("GPU-0", "GPU-1"))]
    refresh(runtime)
    node = Node.objects.get()
    assert (node.region_id, node.cpus_set, node.memory_gib_set) == ("AAA", 2, 4)
    assert (node.schedulable, node.cpu_overcommit) == (False, 1)
    assert (node.cpus, node.memory_bytes) == (8, 16 * GIB)  # found anew
    gpu = Gpu.objects.get(uuid="GPU-0")
    assert (gpu.model, gpu.enabled) == ("rtx2080ti-modded", False)
    byhand.refresh_from_db()
    assert (byhand.found, byhand.model) == (False, "a40")


def test_a_gpu_that_is_gone_is_not_given_away_and_forgotten_once_nobody_holds_it(
    runtime: FakeRuntime, editor_actor: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    refresh(runtime)
    claimed = waiting(asks_for(editor_actor, gpu_size(1), "holder"))
    place(claimed, now=_now())
    assert claimed.gpu_ids == ["GPU-0"]
    runtime.engine.nodes = [NodeFacts("local", 4, 8 * GIB, ())]
    later(monkeypatch, minutes=2)
    refresh(runtime)
    assert Gpu.objects.count() == 2
    answer: Any = place(waiting(asks_for(editor_actor, gpu_size(1), "next")), now=_now())
    assert answer.kind == "too_big"
    later(monkeypatch, days=2)
    refresh(runtime)
    assert list(Gpu.objects.values_list("uuid", flat=True)) == ["GPU-0"]
    Gpu.objects.update(replica=None)
    refresh(runtime)
    assert not Gpu.objects.exists()


def test_a_driver_that_fails_takes_nothing_away(
    runtime: FakeRuntime, editor_actor: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    refresh(runtime)
    runtime.engine.nodes = [NodeFacts("local", 4, 8 * GIB, None)]
    for minutes in (2, 4, 3000):
        later(monkeypatch, minutes=minutes)
        refresh(runtime)
    place(replica := waiting(asks_for(editor_actor, gpu_size(2))), now=_now())
    assert replica.claimed


def test_after_a_week_switched_off_everything_is_still_there(
    runtime: FakeRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    refresh(runtime)
    later(monkeypatch, days=7)
    refresh(runtime)
    assert Gpu.objects.count() == 2


def test_a_machine_that_is_no_longer_named_gets_nothing_new(
    runtime: FakeRuntime, editor_actor: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime.engine.nodes = [NodeFacts("a", 4, 8 * GIB), NodeFacts("b", 4, 8 * GIB)]
    refresh(runtime)
    runtime.engine.nodes = [NodeFacts("b", 4, 8 * GIB)]
    later(monkeypatch, minutes=2)
    refresh(runtime)
    size = gpu_size(0, "none")
    endpoint = asks_for(editor_actor, size, max_replicas=3)
    nodes = set()
    for slot in (1, 2, 3):
        place(replica := waiting(endpoint, slot), now=_now())
        nodes.add(replica.node_id)
    assert nodes == {"b"}


def test_an_engine_that_does_not_answer_changes_nothing(runtime: FakeRuntime) -> None:
    refresh(runtime)
    before = list(Gpu.objects.values()) + list(Node.objects.values())
    runtime.engine.unreachable()
    with pytest.raises(RuntimeUnreachable):
        refresh(runtime)
    assert list(Gpu.objects.values()) + list(Node.objects.values()) == before


def test_an_unchanged_machine_costs_few_queries_and_no_writes(
    runtime: FakeRuntime, django_assert_max_num_queries: Any
) -> None:
    refresh(runtime)
    before = list(Node.objects.values_list("seen_at", flat=True))
    time.sleep(0.01)
    with django_assert_max_num_queries(8):
        refresh(runtime)
    assert list(Node.objects.values_list("seen_at", flat=True)) == before


def test_who_is_on_a_gpu_is_kept(runtime: FakeRuntime) -> None:
    gpu_rows(node_row("other"), 1)
    refresh(runtime)
    runtime.engine.strangers = [
        GpuUse("local", "1", False, "jupyter"),
        GpuUse("local", "GPU-1", False, "python", pid=77, memory_bytes=3 * GIB + 1),
        GpuUse("local", "GPU-1", False, "trainer"),  # the same container, by what computes in it
        GpuUse("local", "GPU-1", False, "trainer", pid=78),
        GpuUse("local", ALL_GPUS, False, "dcgm-exporter"),
        GpuUse("other", "0", True, "ours"),
        GpuUse("nowhere", "0", False, "nobody"),
    ]
    refresh(runtime)
    use = {
        gpu.uuid: [(item["kind"], item["name"], item["pid"]) for item in gpu.use] for gpu in Gpu.objects.all()
    }
    assert use == {
        "GPU-0": [("foreign", "dcgm-exporter", 0)],
        "GPU-1": [
            ("foreign", "dcgm-exporter", 0),
            ("foreign", "jupyter", 0),
            ("foreign", "python", 77),
            ("foreign", "trainer", 78),
        ],
        "GPU-other-rtx2080ti-0": [("ours", "ours", 0)],
    }
    assert Gpu.objects.get(uuid="GPU-1").use[2]["memory_bytes"] == 3 * GIB
    runtime.engine.strangers = []
    refresh(runtime)
    assert not any(gpu.use for gpu in Gpu.objects.all())


def test_the_first_look_is_one(runtime: FakeRuntime) -> None:
    runtime.engine.unreachable()
    assert not first_look(runtime)
    runtime.engine.recovers()
    assert first_look(runtime)
    assert not first_look(runtime)  # known already: nothing to look at


def test_without_a_region_there_is_nowhere_to_put_them(db: None) -> None:
    refresh(FakeRuntime())
    assert not Node.objects.exists()
