"""The create page: which instance types have room, and why the others don't."""

from __future__ import annotations

import re
from html import unescape

import pytest
from django.test import Client
from django.utils import timezone

from endpoints.models import InstanceType, Node, Region
from endpoints.placement import place
from iam.actors import Actor
from tests.support_endpoints import load_data
from tests.support_placement import GIB, asks_for, gpu_rows, node_row, waiting

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _data(db: None) -> None:
    load_data()


def types(client: Client, **query: str) -> dict[str, tuple[bool, bool, str]]:
    """Name → (greyed, can be chosen, reason), as the page has them."""
    page = client.get("/inference/create/instance-types/", {"region": "HCM", **query}).content.decode()
    found = {}
    for label in re.findall(r'<label class="type.*?</label>', page, re.DOTALL):
        name = re.search(r'value="([^"]+)"', label)
        reason = re.search(r"<small>(.*?)</small>", label)
        assert name is not None
        greyed = "is-off" in label or "is-busy" in label
        found[name[1]] = (greyed, " disabled" not in label, unescape(reason[1]) if reason else "")
    return found


def test_before_any_machine_is_known_nothing_is_greyed(editor_client: Client) -> None:
    assert set(types(editor_client).values()) == {(False, True, "")}


def test_types_without_room_are_greyed_with_the_reason(editor_client: Client, editor_actor: Actor) -> None:
    gpu_rows(node_row(cpus=8, memory_bytes=40 * GIB, cpu_overcommit=1), 2)
    found = types(editor_client)
    assert found["local-cpu"] == (False, True, "")
    assert found["g1-standard-8x32-2rtx2080ti"] == (False, True, "")
    # Never: it can't be chosen.
    assert found["a1-standard-16x64"] == (True, False, "the largest machine in HCM has 8 CPUs")
    assert found["g1-standard-8x64-1rtx2080ti"] == (True, False, "the largest machine in HCM has 40 GiB")
    assert found["g3-standard-16x64-1a40"] == (True, False, "no machine in HCM has this GPU")
    # Not now: who chooses it waits.
    size = InstanceType.objects.get(name="g1-standard-4x16-1rtx2080ti")
    place(waiting(asks_for(editor_actor, size)), now=timezone.now())
    found = types(editor_client)
    assert found["g1-standard-8x32-2rtx2080ti"] == (True, True, "no room now: 1 of 2 GPUs are free in HCM")
    assert found["a1-standard-8x32"] == (
        True,
        True,
        "no room now: 4 of 8 CPUs and 24 of 40 GiB RAM free",
    )
    assert found["g1-standard-4x16-1rtx2080ti"] == (False, True, "")


def test_another_region_has_other_machines(editor_client: Client) -> None:
    node_row()
    Region.objects.create(code="HN", name="Hanoi")
    assert types(editor_client, region="HN")["local-cpu"] == (True, False, "no machine in HN takes replicas")
    Node.objects.update(region="HN")
    assert types(editor_client, region="HN")["local-cpu"] == (False, True, "")
    page = editor_client.get("/inference/create/").content.decode()
    assert re.search(r'id="id_region" hx-get="/inference/create/instance-types/"', page)


def test_the_page_costs_the_same_with_many_types(
    editor_client: Client, django_assert_max_num_queries: object
) -> None:
    node_row()
    types(editor_client)
    for number in range(40):
        InstanceType.objects.create(name=f"t{number}", family="T", vcpu=1)
    with django_assert_max_num_queries(16):  # type: ignore[operator]
        types(editor_client)
