"""Replicas in files of their own: what is written, what an agent that was killed leaves, and what a gateway of another
version does with it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from gateway import assignments, clusters, consistency, defaults, names, snapshot
from gateway.apply import steps
from gateway.shelf import Shelf
from tests.unit.test_gateway_snapshot import asleep, ready, targets

BEFORE = snapshot.build(
    targets(ready("me-a", 1, max_concurrency=3), ready("me-b", 2, max_concurrency=1))
).resources
AFTER = snapshot.build(
    targets(ready("me-a", 5, 6, max_concurrency=2), ready("me-c", 4, max_concurrency=1))
).resources


def shelf(home: Path) -> Shelf:
    found = Shelf(home)
    found.read()
    return found


def lying(home: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (home / "xds" / assignments.DIRECTORY).iterdir()}


def spread(resources: dict[str, Any]) -> dict[str, bytes]:
    documents = resources[names.ASSIGNMENTS]["resources"]
    return {f"{assignments.name_of(one)}.pb": assignments.encoded(one) for one in documents}


def test_replicas_and_limit_are_no_part_of_the_cluster() -> None:
    (one,), (other,) = (
        [c for c in found[names.CLUSTERS]["resources"] if c["name"] == "me-a"] for found in (BEFORE, AFTER)
    )
    assert one == other
    (free,) = (
        c
        for c in snapshot.build(targets(ready("me-a", 1))).resources[names.CLUSTERS]["resources"]
        if c["name"] == "me-a"
    )
    kept = {key: value for key, value in free.items() if key not in ("type", "load_assignment")}
    assert kept == {key: value for key, value in one.items() if key not in ("type", "eds_cluster_config")}
    (limits,) = AFTER[names.AT_ONCE]["resources"]
    assert limits["layer"] == {
        "circuit_breakers.me-a.default.max_requests": 2,
        "circuit_breakers.me-c.default.max_requests": 1,
    }


def test_one_that_is_not_served_keeps_its_cluster_and_its_limit() -> None:
    built = snapshot.build(targets(asleep("me-a", max_concurrency=3)))
    assert consistency.check(built.resources) == []
    assert "me-a" in {c["name"] for c in built.resources[names.CLUSTERS]["resources"]}
    assert clusters.addresses(built.resources[names.CLUSTERS], built.resources[names.ASSIGNMENTS]) == {
        "127.0.0.1:8000"
    }


@pytest.mark.parametrize("killed_after", range(7))
def test_a_killed_agent_leaves_every_cluster_its_replicas(tmp_path: Path, killed_after: int) -> None:
    first = shelf(tmp_path)
    for name in names.FILES:
        first.put(name, BEFORE[name])
    first.took(names.FILES)
    for name, content in steps(first.good, AFTER, names.ROUTING)[:killed_after]:
        first.put(name, content)
    own = tmp_path / "xds" / assignments.DIRECTORY
    (own / "me-a.pb").write_bytes(b"\x0a")  # half of it
    (own / ".me-a.pb.123").write_bytes(b"")
    second = shelf(tmp_path)
    assert consistency.check(second.present) == []
    assert lying(tmp_path) == spread(second.present)


def test_a_disk_from_before_there_were_such_files_serves_on(tmp_path: Path) -> None:
    old = snapshot.build(targets(ready("me-a", 1))).resources
    first = shelf(tmp_path)
    for name in (names.CLUSTERS, names.ROUTES):
        first.put(name, old[name])
    second = shelf(tmp_path)
    assert {names.CLUSTERS, names.ROUTES} <= second.present.keys()
    second.fill()
    assert second.present[names.AT_ONCE]["resources"][0]["layer"] == {}


def test_an_older_control_planes_limits_are_those_of_its_clusters() -> None:
    given = {name: AFTER[name] for name in (names.CLUSTERS, names.ROUTES)}
    found = defaults.complete(given, BEFORE)
    assert found[names.AT_ONCE]["resources"][0]["layer"] == {}
    assert found[names.ASSIGNMENTS]["resources"] == []


@pytest.mark.parametrize("name", ["../me-a", "me-a/b", "control-plane", "", "me-" + "a" * 90, "me-a\n"])
def test_a_name_that_is_no_endpoints_is_no_file(name: str) -> None:
    broken = copy.deepcopy(BEFORE)
    broken[names.ASSIGNMENTS]["resources"][0]["resources"][0]["cluster_name"] = name
    assert names.ASSIGNMENTS in consistency.problems(broken)


def test_clusters_that_look_elsewhere_or_find_nothing_are_found() -> None:
    broken = copy.deepcopy(BEFORE)
    found = {c["name"]: c for c in broken[names.CLUSTERS]["resources"]}
    found["me-a"]["eds_cluster_config"] = found["me-b"]["eds_cluster_config"]
    assert consistency.check(broken) == ["cluster me-a has its replicas elsewhere"]
    broken = copy.deepcopy(BEFORE)
    broken[names.ASSIGNMENTS]["resources"].pop()
    assert consistency.check(broken) == [
        "cluster me-b has no replicas assigned",
        "route me-b leads to the cluster me-b, which has no address",
    ]
