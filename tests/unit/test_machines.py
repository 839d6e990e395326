"""Machines and GPUs: the ledger, its page, its API and the admin, as every kind of person."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from endpoints import queue
from endpoints.models import Gpu, InstanceType, Node, Replica, ReplicaState
from endpoints.placement import ledger, place
from iam.actors import Actor
from iam.models import User
from tests.conftest import signed_in
from tests.support_endpoints import load_data
from tests.support_placement import GIB, asks_for, gpu_rows, gpu_size, node_row, waiting

pytestmark = pytest.mark.django_db
PAGE, NODES, GPUS = "/administration/machines/", "/api/v1/nodes/", "/api/v1/gpus/"


@pytest.fixture(autouse=True)
def _data(db: None) -> None:
    load_data()


@pytest.fixture
def staff_client() -> Client:
    """A platform admin, member of no project."""
    return signed_in(User.objects.create_user("staff@example.org", "-", is_staff=True, is_superuser=True))


@pytest.fixture
def hints(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    sent: list[str] = []
    monkeypatch.setattr(queue, "_send", lambda task, argument, delay: sent.append(argument))
    return sent


def placed(actor: Actor, name: str, gpus: int = 1) -> Replica:
    replica = waiting(asks_for(actor, gpu_size(gpus), name))
    place(replica, now=timezone.now())
    assert replica.claimed
    return replica


def states() -> list[str]:
    return [entry.state for entry in ledger.gpus()]


# -- the ledger -----------------------------------------------------------------------------------------------------


def test_every_state_of_a_gpu(editor_actor: Actor) -> None:
    rows = gpu_rows(node_row(seen_at=timezone.now()), 6)
    starting, serving = placed(editor_actor, "starting"), placed(editor_actor, "serving")
    ours: Any = {"kind": "ours", "name": serving.name, "pid": 0, "memory_bytes": 0}
    use(rows[1], ours)
    use(rows[2], {**ours, "name": "berth-unknown"})
    use(rows[3], {**ours, "kind": "foreign", "name": "jupyter"})
    Gpu.objects.filter(pk=rows[4].pk).update(enabled=False)
    Gpu.objects.filter(pk=rows[5].pk).update(found=True, seen_at=timezone.now() - timedelta(hours=1))
    assert states() == ["claimed", "used", "leaked", "foreign", "disabled", "missing"]
    entries = ledger.gpus()
    assert entries[0].gpu.replica == starting
    assert entries[2].leaks == ("berth-unknown",)
    assert entries[1].leaks == ()


def use(gpu: Gpu, *who: dict[str, Any]) -> None:
    Gpu.objects.filter(pk=gpu.pk).update(use=list(who))


def test_what_counts_as_leaked(editor_actor: Actor) -> None:
    first, second = gpu_rows(node_row(), 2)
    replica = placed(editor_actor, "one")
    on_it: Any = {"kind": "ours", "name": replica.name, "pid": 0, "memory_bytes": 0}
    use(second, on_it)  # a live replica, on a GPU that is not its own
    assert states() == ["claimed", "leaked"]
    # Ended a moment ago: its container is still being removed. Ended long ago: it leaks.
    use(second)
    use(first, on_it)
    now = timezone.now()
    Gpu.objects.update(replica=None)
    Replica.objects.update(state=ReplicaState.STOPPED, claimed=False, ended_at=now)
    assert states() == ["used", "free"]
    Replica.objects.update(ended_at=now - timedelta(minutes=1))
    assert states() == ["leaked", "free"]
    # A claim of the dead.
    use(first)
    Gpu.objects.filter(pk=first.pk).update(replica=replica)
    assert states() == ["leaked", "free"]
    assert ledger.gpus()[0].leaks == (replica.name,)


def test_the_ledger_costs_the_same_at_any_size(
    editor_actor: Actor, django_assert_max_num_queries: Any
) -> None:
    for name in ("a", "b", "c"):
        gpu_rows(node_row(name), 4)
    for number in range(6):
        replica = placed(editor_actor, f"e{number}")
        use(replica.gpus.get(), {"kind": "ours", "name": replica.name, "pid": 0, "memory_bytes": 0})
    with django_assert_max_num_queries(5):
        found = ledger.nodes()
    assert [(entry.node.name, entry.replicas, len(entry.gpus)) for entry in found] == [
        ("a", 2, 4),
        ("b", 2, 4),
        ("c", 2, 4),
    ]


# -- who may see it -------------------------------------------------------------------------------------------------


def test_only_the_platforms_staff_sees_machines(
    owner_client: Client,
    editor_client: Client,
    viewer_client: Client,
    outsider_client: Client,
    staff_client: Client,
    client: Client,
) -> None:
    node_row()
    for person in (owner_client, editor_client, viewer_client, outsider_client):
        assert [person.get(path).status_code for path in (PAGE, NODES, GPUS)] == [403, 403, 403]
        assert "Machines and GPUs" not in person.get("/").content.decode()
    assert [staff_client.get(path).status_code for path in (PAGE, NODES, GPUS)] == [200, 200, 200]
    assert [client.get(path).status_code for path in (NODES, GPUS)] == [401, 401]
    answer = client.get(PAGE)
    assert (answer.status_code, answer["Location"]) == (302, f"/accounts/login/?next={PAGE}")


def test_the_page_tells_claims_uses_and_leaks(staff_client: Client, editor_actor: Actor) -> None:
    rows = gpu_rows(node_row(cpus=8, memory_bytes=32 * GIB), 3, vram_bytes=11 * GIB)
    replica = placed(editor_actor, "embed-01")
    use(rows[1], {"kind": "ours", "name": "berth-leak<i>", "pid": 0, "memory_bytes": 0})
    use(rows[2], {"kind": "foreign", "name": "python", "pid": 42, "memory_bytes": 3 * GIB})
    page = staff_client.get(PAGE).content.decode()
    assert 'aria-current="page"' in page
    for text in ("embed-01/r1", "Alpha", "RTX2080TI", "Claimed", "Leaked", "Foreign", "PID 42", "3.0 GiB"):
        assert text in page
    assert "berth-leak&lt;i&gt;" in page
    assert replica.gpu_ids[0] in page
    part = staff_client.get(PAGE, HTTP_HX_REQUEST="true", HTTP_HX_TARGET="machines").content.decode()
    assert "<html" not in part
    assert "embed-01/r1" in part


def test_machines_without_gpus_and_no_machine_at_all_say_so(staff_client: Client) -> None:
    assert "No machine is known yet" in staff_client.get(PAGE).content.decode()
    node_row()
    assert "No GPU was found here" in staff_client.get(PAGE).content.decode()


def test_the_api_tells_the_same(staff_client: Client, editor_actor: Actor) -> None:
    gpu_rows(node_row(cpus=8, cpu_overcommit=2, memory_bytes=32 * GIB), 2)
    size = InstanceType.objects.get(name="g1-standard-4x16-1rtx2080ti")
    replica = waiting(asks_for(editor_actor, size))
    place(replica, now=timezone.now())
    (node,) = staff_client.get(NODES).json()["results"]
    assert node == {
        "name": "local",
        "region": "HCM",
        "state": "ready",
        "cpus": 8.0,
        "cpu_overcommit": 2.0,
        "cpus_promised": 16.0,
        "cpus_claimed": 4.0,
        "memory_bytes": 32 * GIB,
        "memory_claimed": 16 * GIB,
        "replicas": 1,
        "gpus": 2,
        "seen_at": None,
    }
    first, second = staff_client.get(GPUS).json()["results"]
    assert (first["state"], second["state"]) == ("claimed", "free")
    assert first["claimed_by"] == {
        "replica": replica.name,
        "endpoint": replica.endpoint_id,
        "endpoint_name": "embed-01",
        "project": editor_actor.project.id,
    }
    assert second["claimed_by"] is None
    schema = staff_client.get("/api/schema/?format=json").json()["paths"]
    assert {NODES, GPUS} <= set(schema)


# -- the admin ------------------------------------------------------------------------------------------------------


def test_an_admin_enters_a_gpu_and_who_waits_is_looked_at(
    staff_client: Client, editor_actor: Actor, hints: list[str]
) -> None:
    node_row()
    waits = waiting(asks_for(editor_actor, gpu_size(1)))
    hints.clear()
    entered = {
        "uuid": "GPU-by-hand",
        "node": "local",
        "index": "0",
        "model": "rtx2080ti",
        "name": "",
        "vram_bytes": "0",
        "enabled": "on",
    }
    answer = staff_client.post("/admin/endpoints/gpu/add/", entered)
    assert answer.status_code == 302, answer.context["errors"]
    assert Gpu.objects.get().found is False
    assert hints == [waits.endpoint_id]


def test_an_admin_corrects_what_was_found_and_no_claim_is_lost(
    staff_client: Client, editor_actor: Actor, hints: list[str]
) -> None:
    gpu = gpu_rows(node_row(), 1, found=True)[0]
    replica = placed(editor_actor, "holder")
    path = f"/admin/endpoints/gpu/{gpu.uuid}/change/"
    assert staff_client.get(path).status_code == 200
    answer = staff_client.post(path, {"model": "a40", "confirmed": "yes"})  # `enabled` unticked
    assert answer.status_code == 302, answer.context["errors"]
    gpu.refresh_from_db()
    assert (gpu.model, gpu.enabled, gpu.replica_id) == ("a40", False, replica.pk)
    assert staff_client.post(path.replace("change", "delete"), {"post": "yes"}).status_code == 403


def test_a_machine_is_corrected_and_cordoned_but_not_made(
    staff_client: Client, editor_actor: Actor, hints: list[str]
) -> None:
    gpu_rows(node_row(cpus=2), 1)
    placed(editor_actor, "holder")
    path = "/admin/endpoints/node/local/change/"
    assert staff_client.get(path).status_code == 200
    values = {
        "region": "HCM",
        "cpus_set": "16",
        "memory_gib_set": "",
        "cpu_overcommit": "2",
        "gpus-TOTAL_FORMS": "0",
        "gpus-INITIAL_FORMS": "0",
        "confirmed": "yes",
    }
    answer = staff_client.post(path, values)
    assert answer.status_code == 302, answer.context["errors"]
    node = Node.objects.get()
    assert (node.cpus, node.cpus_set, node.cpu_overcommit, node.schedulable) == (2, 16, 2, False)
    assert staff_client.get("/admin/endpoints/node/add/").status_code == 403
    assert staff_client.post(path.replace("change", "delete"), {"post": "yes"}).status_code == 403
    for name in ("region", "instancetype"):
        assert staff_client.get(f"/admin/endpoints/{name}/").status_code == 200
