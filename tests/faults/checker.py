"""Whether what is there is what was asked for, and nothing else. Each function answers with one sentence for each thing
that is wrong; none of them knows how the platform gets there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from tests.faults import gateway, rows
from tests.faults.engine import EngineAway
from tests.faults.gateway import GatewayAway
from tests.faults.rows import LIVE, Rows
from tests.faults.story import Story
from tests.faults.world import BYSTANDER, World


def differences(story: Story) -> list[str]:
    """Between what is wanted and what is observed, now."""
    world = story.world
    try:
        found = rows.read(world.database)
        containers = [one for one in world.engine.api.containers("berth.owner") if _owner(one) == world.owner]
        serves = gateway.clusters(world.where.home)
        routed = gateway.routes(world.where.home)
    except (EngineAway, GatewayAway) as error:
        return [f"not to be seen: {error}"]
    return [
        *_target(story, found, containers, serves),
        *_running(world, world.bystander, 1, BYSTANDER, found, containers, serves),
        *_without_owner(world, found, containers, serves, routed),
        *_claims(found, containers),
        *_strangers(story),
    ]


def _target(story: Story, found: Rows, containers: list[Any], serves: dict[str, set[str]]) -> Iterator[str]:
    wanted, endpoint = story.wanted, story.endpoint
    if not endpoint:
        return
    if wanted.gone:
        if endpoint in found.endpoints:
            row = found.endpoints[endpoint]
            yield f"deleted, and still there: {row.status} {row.reason}"
        yield from _files(story)
        return
    if endpoint not in found.endpoints:
        yield "the endpoint is gone"
        return
    if wanted.paused:
        row = found.endpoints[endpoint]
        if row.status != "INACTIVE":
            yield f"paused, and {row.status} {row.reason}"
        yield from (f"paused, and has {_name(one)}" for one in containers if _endpoint(one) == endpoint)
        return
    yield from _running(
        story.world, endpoint, wanted.replicas, wanted.identity, found, containers, serves, story.token
    )


def _running(
    world: World,
    endpoint: str,
    replicas: int,
    identity: str,
    found: Rows,
    containers: list[Any],
    serves: dict[str, set[str]],
    token: str = "",
) -> Iterator[str]:
    row = found.endpoints.get(endpoint)
    if row is None:
        yield f"{identity}: no row"
        return
    if (row.status, row.ready) != ("ACTIVE", replicas):
        yield f"{identity}: {row.status} {row.reason}, {row.ready} of {replicas} ready"
    mine = [one for one in containers if _endpoint(one) == endpoint]
    said = [f"{_name(one)} {one['State']['Status']} {one['Config']['Cmd'][1]}" for one in mine]
    right = [one for one in mine if one["State"]["Running"] and one["Config"]["Cmd"][1] == identity]
    if len(mine) != replicas or len(right) != replicas:
        yield f"{identity}: {replicas} wanted, there are {said or 'none'}"
    live = {one.id: one for one in found.replicas if one.endpoint == endpoint and one.state in LIVE}
    labels = {one["Config"]["Labels"].get("berth.replica", "") for one in mine}
    if labels != set(live) or any(one.state != "ready" for one in live.values()):
        yield f"{identity}: rows {sorted((one.name, one.state) for one in live.values())}, containers {said}"
    addresses = {address for one in right for address in _addresses(one)}
    if serves.get(endpoint, set()) != addresses:
        yield f"{identity}: routed to {serves.get(endpoint)}, containers at {addresses}"
    answer = world.ask(endpoint, token)
    if answer.identity != identity:
        yield f"{identity}: answered {answer.identity or answer.problem}"


def _without_owner(
    world: World, found: Rows, containers: list[Any], serves: dict[str, set[str]], routed: set[str]
) -> Iterator[str]:
    """Containers, networks, routes, rows and held addresses that belong to nothing."""
    live = {one.name for one in found.replicas if one.state in LIVE}
    yield from (f"container {_name(one)} has no live row" for one in containers if _name(one) not in live)
    networks = world.engine.api.networks(f"berth.owner={world.owner}")
    used = {name for one in containers for name in one["NetworkSettings"]["Networks"]}
    yield from (f"network {one['Name']} has nobody on it" for one in networks if one["Name"] not in used)
    yield from (f"cluster {one} has no endpoint" for one in set(serves) - set(found.endpoints))
    yield from (f"route {one} has no endpoint" for one in routed - set(found.endpoints))
    yield from (f"rows without their endpoint: {one}" for one in found.loose)
    yield from (f"address held: {one}" for one in found.held)


def _claims(found: Rows, containers: list[Any]) -> Iterator[str]:
    by_id = {one.id: one for one in found.replicas}
    for one in found.replicas:
        has = {uuid for uuid, owner in found.gpus.items() if owner == one.id}
        if one.claimed != (one.state in LIVE):
            yield f"{one.name} is {one.state} and {'claims' if one.claimed else 'claims nothing'}"
        if one.state in LIVE and one.gpus != has:
            yield f"{one.name} was given {sorted(one.gpus)} and owns {sorted(has)}"
    for uuid, owner in found.gpus.items():
        if owner and (owner not in by_id or by_id[owner].state not in LIVE):
            yield f"{uuid} is claimed by {owner}, which does not live"
    for node, memory in found.memory.items():
        claimed = sum(one.memory for one in found.replicas if one.node == node and one.claimed)
        if claimed > memory:
            yield f"{claimed} bytes claimed on {node}, which has {memory}"
    given = {one.id: one.gpus for one in found.replicas}
    for one in containers:
        id_ = one["Config"]["Labels"].get("berth.replica", "")
        if id_ in given and given[id_] != frozenset(devices(one)):
            yield f"{_name(one)} has {sorted(devices(one))}, its row {sorted(given[id_])}"
    twice = Counter(uuid for one in found.replicas if one.claimed for uuid in one.gpus)
    yield from (f"{uuid} claimed {count} times" for uuid, count in twice.items() if count > 1)


def _strangers(story: Story) -> Iterator[str]:
    """Another installation's container is left as it was."""
    if not story.strangers:
        return
    names = {_name(one): one for one in story.world.engine.api.containers("berth.owner=faults-other")}
    for name in story.strangers:
        if name.endswith("faults-other") and not names.get(name, {}).get("State", {}).get("Running"):
            yield f"{name} belongs to another installation and was ended"


def _files(story: Story) -> Iterator[str]:
    home = story.world.where.home
    for path in home.rglob(f"*{story.endpoint}*"):
        yield f"file left: {path.relative_to(home)}"


def devices(container: Any) -> set[str]:
    """The ids of the GPUs that the engine gave it."""
    requests = container["HostConfig"].get("DeviceRequests") or []
    return {id_ for one in requests for id_ in one.get("DeviceIDs") or []}


def _addresses(container: Any) -> list[str]:
    port = container["Config"]["Cmd"][0]
    networks = container["NetworkSettings"]["Networks"].values()
    return [f"{one['IPAddress']}:{port}" for one in networks if one["IPAddress"]]


def _owner(container: Any) -> str:
    return str(container["Config"]["Labels"].get("berth.owner", ""))


def _endpoint(container: Any) -> str:
    return str(container["Config"]["Labels"].get("berth.endpoint", ""))


def _name(container: Any) -> str:
    return str(container["Name"]).lstrip("/")
