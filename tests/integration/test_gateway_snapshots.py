"""Snapshots of other versions, and those that must not be served, at a real agent with a real Envoy."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from gateway import files, names, rejections, snapshot
from gateway.targets import Caller, Limits
from tests.support_gateway import Gateway, World, endpoint, is_running, until

pytestmark = pytest.mark.envoy

NAME = "me-00000000-0000-4000-8000-000000000210"
SECOND = "me-00000000-0000-4000-8000-000000000211"


@pytest.fixture
def world() -> Iterator[World]:
    with contextlib.closing(World()) as world:
        world.plane.publish(endpoint(NAME, world.replica()))
        yield world


# --- versions apart ---------------------------------------------------------------------------------------


def lose(gateway: Gateway, *lost: str) -> None:
    for name in lost:
        for directory in ("xds", "good"):
            (gateway.home / directory / name).unlink()


def test_a_disk_with_fewer_files_is_served_while_nobody_answers(world: World) -> None:
    public = endpoint(SECOND, world.replica(), private=False)
    world.plane.publish(endpoint(NAME, world.replica()), public, revoked=("gone-0:1",))
    gateway = world.gateway.ready()
    world.plane.stop()
    gone = world.key.token(grant="gone-0:1")
    for lost, private in (
        ((names.BODY_LIMIT, names.LIMITS), 200),
        ((names.ACCESS,), 503),  # whom to refuse is not known: nobody is let through
    ):
        gateway.signal(signal.SIGTERM)
        lose(gateway, *lost)
        gateway.start()
        until(lambda: world.serves(SECOND, gateway), what=f"without {lost}")
        assert gateway.get(f"/v1/{NAME}/x", world.key.token()).status == private
        assert gateway.get(f"/v1/{NAME}/x", gone).status == (401 if private == 200 else 503)
        assert f"until the control plane sends these files: {', '.join(sorted(lost))}" in gateway.output()
    assert gateway.get(f"/v1/{NAME}/x", world.key.token()).code == "gateway_not_informed"
    world.plane.start()
    until(lambda: world.serves(NAME, gateway), what="all is there again")
    assert is_revoked(gateway, gone)


def test_more_files_and_fewer_are_taken_as_they_are(world: World) -> None:
    world.plane.publish(max_request_bytes=10)
    gateway = world.gateway.ready()
    built = snapshot.build(replace(world.plane.targets, revoked=("gone-0:1",)))
    resources = {**built.resources, "../quota.json": {"version_info": "1", "resources": []}}
    del resources[names.BODY_LIMIT]
    world.plane.publish_raw("v-apart", resources)
    until(lambda: world.plane.applied("v-apart"))
    assert is_revoked(gateway, world.key.token(grant="gone-0:1"))
    answer = gateway.call("POST", f"/v1/{NAME}/x", token=world.key.token(), body=b"x" * 11)
    assert answer.status == 413  # as on the disk
    assert not world.plane.polls[-1].rejected
    assert not list(gateway.home.rglob("quota.json"))
    world.plane.publish_raw("v-again", resources)
    until(lambda: world.plane.applied("v-again"))
    for said in ("does not know and leaves out: '../quota.json'", "the snapshot lacks 'body-limit.json'"):
        assert gateway.output().count(said) == 1
    assert len(gateway.status()["odd"]) == 2


def test_an_envoy_of_another_agent_goes_on_until_there_is_something_to_start_a_new_one_from(
    world: World,
) -> None:
    gateway = world.gateway.ready()
    pid = gateway.envoy_pid()
    gateway.signal(signal.SIGHUP)
    world.plane.stop()
    lose(gateway, names.ROUTES)
    noted = json.loads((gateway.home / "envoy.json").read_text())
    files.write_json(gateway.home / "envoy.json", {**noted, "config": "of yesterday"})
    gateway.start()
    until(lambda: "goes on for now" in gateway.output())
    assert world.serves(NAME, gateway)
    assert gateway.envoy_pid() == pid
    version = world.plane._served[0]
    polls = len(world.plane.polls)
    world.plane.start()
    until(lambda: any(p.applied == version for p in world.plane.polls[polls:]), what="a new Envoy follows")
    assert gateway.envoy_pid() != pid
    assert not is_running(pid)
    assert world.serves(NAME, gateway)


# --- snapshots that must not be served --------------------------------------------------------------------


def spoiled(world: World, spoil: Callable[[dict[str, Any]], None]) -> tuple[str, dict[str, Any]]:
    """The present snapshot and a second endpoint, spoiled."""
    built = snapshot.build(world.plane.targets)
    resources = copy.deepcopy(built.resources)
    spoil(resources)
    for document in resources.values():
        document["version_info"] += "-spoiled"
    return f"{built.version}-spoiled", resources


def bad_cluster(resources: dict[str, Any]) -> None:
    resources[names.CLUSTERS]["resources"][-1]["lb_policy"] = "BY_MOON_PHASE"


def refused_cluster(resources: dict[str, Any]) -> None:
    resources[names.CLUSTERS]["resources"][-1]["outlier_detection"]["max_ejection_percent"] = 1000


def bad_route(resources: dict[str, Any]) -> None:
    resources[names.ROUTES]["resources"][0]["virtual_hosts"][0]["domains"] = ["*", "*"]


def bad_keys(resources: dict[str, Any]) -> None:
    provider = resources[names.TOKENS]["resources"][0]["typed_config"]["providers"]["iam"]
    provider["local_jwks"]["inline_string"] = "no keys"


@pytest.mark.parametrize(
    ("spoil", "file"),
    [
        (bad_cluster, names.CLUSTERS),
        (refused_cluster, names.CLUSTERS),
        (bad_keys, names.TOKENS),
    ],
)
def test_what_envoy_refuses_keeps_the_last_good_one(
    world: World, spoil: Callable[[dict[str, Any]], None], file: str
) -> None:
    gateway = world.gateway.ready()
    good = world.plane.polls[-1].applied
    before = {p.name: p.read_bytes() for p in (gateway.home / "xds").iterdir() if p.is_file()}
    world.plane.publish_raw(*spoiled(world, spoil))

    def is_told() -> bool:
        """A filter's refusal is told before the routing behind it is taken."""
        last = world.plane.polls[-1]
        return file in last.rejected and (last.applied == good) is (file in names.ROUTING)

    until(is_told, what=f"a rejection is reported\n{gateway.output()}")
    (said,) = gateway.status()["rejected"]
    assert said["file"] == file
    assert len(said["evidence"]) > 20
    evidence = " ".join(said["evidence"].split())  # told in one line
    assert rejections.read(world.plane.polls[-1].rejected) == [rejections.Rejection(file, evidence)]
    assert world.serves(NAME, gateway)
    kept = names.ROUTING if file in names.ROUTING else (file,)
    for name, content in before.items():  # all else is the newest
        changes = name not in (*kept, names.DENIALS)
        assert ((gateway.home / "xds" / name).read_bytes() != content) is changes, name
    pid = gateway.envoy_pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)  # a new Envoy does not meet the bad file either
    until(lambda: gateway.envoy_pid() != pid and world.serves(NAME, gateway))
    version = world.plane.publish(endpoint(NAME, world.replica()), endpoint(SECOND, world.replica()))
    until(lambda: world.plane.applied(version), what="a good one is taken again")
    until(lambda: world.plane.polls[-1].rejected == "" and gateway.status()["rejected"] == [])
    assert world.serves(SECOND, gateway)


def revoking(world: World, spoil: Callable[[dict[str, Any]], None], *grants: str) -> dict[str, Any]:
    """Publish a snapshot that is spoiled and has these tokens revoked."""
    built = snapshot.build(replace(world.plane.targets, revoked=grants))
    resources = copy.deepcopy(built.resources)
    spoil(resources)
    for name in names.ROUTING:
        resources[name]["version_info"] += "-spoiled"
    world.plane.publish_raw(f"{built.version}-spoiled", resources)
    return resources


def is_revoked(gateway: Gateway, token: str) -> bool:
    try:
        answer = gateway.get(f"/v1/{NAME}/x", token)
    except OSError:
        return False
    return answer.status == 401 and answer.code == "revoked_token"


def dangling_route(resources: dict[str, Any]) -> None:
    """What the agent finds by itself."""
    resources[names.CLUSTERS]["resources"] = resources[names.CLUSTERS]["resources"][:1]


@pytest.mark.parametrize("spoil", [bad_route, dangling_route])
def test_what_cannot_be_taken_holds_up_no_revocation(
    world: World, spoil: Callable[[dict[str, Any]], None]
) -> None:
    gateway = world.gateway.ready()
    good = world.plane.polls[-1].applied
    gone = [world.key.token(grant=f"gone-{n}:1") for n in range(2)]
    assert [gateway.get(f"/v1/{NAME}/x", token).status for token in gone] == [200, 200]
    revoking(world, spoil, "gone-0:1")
    until(lambda: is_revoked(gateway, gone[0]), 3, what="the first is refused")
    until(lambda: world.plane.polls[-1].rejected, what="the rejection is reported")
    assert world.plane.polls[-1].applied == good
    assert is_revoked(gateway, gone[0])
    assert gateway.get(f"/v1/{NAME}/x", gone[1]).status == 200
    spoiled = revoking(world, spoil, "gone-0:1", "gone-1:1")  # what is wrong with it stays
    until(lambda: is_revoked(gateway, gone[1]), 3, what="the second is refused")
    until(lambda: "gone-1:1" in (gateway.home / "xds" / names.ACCESS).read_text())
    assert world.plane.polls[-1].rejected
    world.plane.stop()
    assert gateway.agent is not None
    gateway.signal(signal.SIGKILL)
    for name in names.ROUTING:  # in the middle of taking it
        files.write_json(gateway.home / "xds" / name, spoiled[name])
    os.kill(gateway.envoy_pid() or 0, signal.SIGKILL)
    gateway.start()
    until(lambda: world.serves(NAME, gateway), what="a new agent and Envoy serve from the disk")
    assert all(is_revoked(gateway, token) for token in gone)
    world.plane.start()
    until(lambda: world.plane.polls[-1].applied == good and world.plane.polls[-1].rejected)
    version = world.plane.publish(revoked=("gone-0:1", "gone-1:1"))
    until(lambda: world.plane.applied(version) and not world.plane.polls[-1].rejected, what="it is mended")


def test_an_inconsistent_snapshot_never_reaches_envoy(world: World) -> None:
    gateway = world.gateway.ready()
    good = world.plane.polls[-1].applied
    world.plane.publish_raw(*spoiled(world, lambda r: r[names.CLUSTERS]["resources"].pop()))
    until(lambda: world.plane.polls[-1].rejected)
    assert "which is not there" in world.plane.polls[-1].rejected
    assert world.plane.polls[-1].applied == good
    assert world.serves(NAME, gateway)


def test_after_a_long_silence_old_routes_lead_nowhere(world: World) -> None:
    """The addresses of a gateway that was silent for long are given to others."""
    gateway = world.gateway.ready()
    gateway.signal(signal.SIGTERM)
    old = time.time() - 2 * 3600
    os.utime(gateway.home / "status.json", (old, old))
    revoking(world, bad_route)
    gateway.start()
    until(lambda: names.ROUTES in world.plane.polls[-1].rejected, what=gateway.output())
    assert not world.serves(NAME, gateway)
    assert world.plane.polls[-1].applied == ""
    version = world.plane.publish()
    until(lambda: world.serves(NAME, gateway), what="a good one is taken")
    gateway.signal(signal.SIGTERM)
    revoking(world, bad_route)
    gateway.start()  # after a short one they are good
    until(lambda: world.serves(NAME, gateway), what="the last good ones are served")
    until(lambda: world.plane.polls[-1].applied == version and world.plane.polls[-1].rejected)


def test_denials_that_envoy_refuses_are_told_and_the_last_ones_stay(world: World) -> None:
    used_up = Limits(tokens_per_minute=-1)
    denied = Caller("sa-denied", used_up)
    token = world.key.token(sub="sa-denied")

    def is_denied() -> bool:
        try:
            return gateway.get(f"/v1/{NAME}/x", token).status == 429
        except OSError:
            return False

    world.plane.publish(callers=(denied,))
    gateway = world.gateway.ready()
    until(is_denied)
    good = gateway.envoy_pid()
    bad = world.plane.publish(callers=(denied, Caller("sa-\ud800", used_up)))  # no text that Envoy takes
    until(lambda: names.DENIALS in world.plane.polls[-1].rejected, what=gateway.output())
    (told,) = rejections.read(world.plane.polls[-1].rejected)
    assert (told.file, "Envoy" in told.evidence) == (names.DENIALS, False)  # but why
    assert world.plane.polls[-1].applied == bad  # the routes are
    assert [item["file"] for item in gateway.status()["rejected"]] == [names.DENIALS]
    os.kill(good or 0, signal.SIGKILL)
    until(lambda: gateway.envoy_pid() != good and is_denied(), what="a new Envoy has the last good ones")
    assert world.serves(NAME, gateway)
    world.plane.publish(callers=(denied,))
    until(lambda: not world.plane.polls[-1].rejected and gateway.status()["rejected"] == [])
    assert is_denied()
