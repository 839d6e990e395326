"""The fault suite's checker on states made up here: it says nothing of a sound one, and names what is wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.faults import checker
from tests.faults.checker import Observed
from tests.faults.rows import EndpointRow, ReplicaRow, Rows

ENDPOINT = "me-00000000-0000-4000-8000-000000000001"
REPLICA = ReplicaRow(
    *("r-1", ENDPOINT, "berth-1", "ready", "10.0.0.2:8000"),
    claimed=True,
    gpus=frozenset({"GPU-1"}),
    memory=100,
    node="here",
)
ROWS = Rows(
    endpoints={ENDPOINT: EndpointRow(ENDPOINT, "ACTIVE", "", 1, "")},
    replicas=[REPLICA],
    gpus={"GPU-1": "r-1", "GPU-2": ""},
    held=[],
    memory={"here": 150},
    loose=[],
)


def container(name: str = "berth-1", replica: str = "r-1", **changes: Any) -> dict[str, Any]:
    made = {
        "Name": f"/{name}",
        "State": {"Running": True, "Status": "running"},
        "Config": {"Cmd": ["8000", "mine"], "Labels": {"berth.endpoint": ENDPOINT, "berth.replica": replica}},
        "HostConfig": {"DeviceRequests": [{"DeviceIDs": ["GPU-1"]}]},
        "NetworkSettings": {"Networks": {"berth-p": {"IPAddress": "10.0.0.2"}}},
    }
    return made | changes


SOUND = Observed(
    rows=ROWS,
    containers=[container()],
    networks=["berth-p"],
    serves={ENDPOINT: {"10.0.0.2:8000"}},
    routed={ENDPOINT},
    foreign=set(),
)


def said(seen: Observed, replicas: int = 1, identity: str = "mine") -> list[str]:
    return [
        *checker.served(seen, ENDPOINT, replicas, identity),
        *checker.without_owner(seen),
        *checker.claims(seen),
    ]


def with_rows(**changes: Any) -> Observed:
    return replace(SOUND, rows=replace(ROWS, **changes))


def test_nothing_is_wrong_with_a_sound_state() -> None:
    assert said(SOUND) == []


def test_too_few_and_too_many() -> None:
    assert said(SOUND, replicas=2)[0] == "mine: ACTIVE , 1 of 2 ready"
    second = replace(SOUND, containers=[container(), container("berth-2", "r-2")])
    assert any("1 wanted, there are" in one for one in said(second))
    assert "container berth-2 has no live row" in said(second)


def test_an_old_revision_still_runs() -> None:
    assert any("new: 1 wanted" in one for one in said(SOUND, identity="new"))


def test_a_stale_route() -> None:
    stale = replace(SOUND, serves={ENDPOINT: {"10.0.0.2:8000", "10.0.0.3:8000"}})
    assert len(said(stale)) == 1
    assert "routed to" in said(stale)[0]


def test_a_route_a_cluster_a_network_a_row_and_an_address_of_nobody() -> None:
    assert said(replace(SOUND, routed={ENDPOINT, "me-2"})) == ["route me-2 has no endpoint"]
    assert said(replace(SOUND, serves={**SOUND.serves, "me-2": set()})) == ["cluster me-2 has no endpoint"]
    assert said(replace(SOUND, networks=["berth-p", "berth-q"])) == ["network berth-q has nobody on it"]
    assert said(with_rows(held=["10.0.0.9:1 of r"])) == ["address held: 10.0.0.9:1 of r"]
    assert said(with_rows(loose=["replica 1"])) == ["rows without their endpoint: replica 1"]


def test_the_dead_claim_nothing() -> None:
    dead = replace(REPLICA, id="r-0", name="berth-0", state="failed", gpus=frozenset({"GPU-2"}))
    both = with_rows(replicas=[REPLICA, dead], gpus={"GPU-1": "r-1", "GPU-2": "r-0"}, memory={"here": 1000})
    assert said(both) == [
        "berth-0 is failed and claims",
        "GPU-2 is claimed by r-0, which does not live",
    ]


def test_a_gpu_claimed_twice_and_one_that_the_container_does_not_have() -> None:
    twin = replace(REPLICA, id="r-2", name="berth-2", endpoint="me-2")
    twice = with_rows(replicas=[REPLICA, twin], memory={"here": 1000})
    assert "GPU-1 claimed 2 times" in said(twice)
    assert "berth-2 was given ['GPU-1'] and owns []" in said(twice)
    other = replace(SOUND, containers=[container(HostConfig={"DeviceRequests": None})])
    assert said(other) == ["berth-1 has [], its row ['GPU-1']"]


def test_more_memory_than_there_is() -> None:
    assert said(with_rows(memory={"here": 99})) == ["100 bytes claimed on here, which has 99"]
