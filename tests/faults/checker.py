"""Whether what is there is what was asked for, and nothing else. Each function answers with one sentence for each thing
that is wrong; none of them knows how the platform gets there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from config.places import socket_dir
from tests.faults import gateway, rows
from tests.faults.engine import EngineAway
from tests.faults.gateway import GatewayAway
from tests.faults.rows import LIVE, Rows
from tests.faults.story import Story
from tests.faults.world import BYSTANDER, OTHER, World


@dataclass(frozen=True, slots=True)
class Observed:
    """What is there at one moment.

    containers, networks   of this installation, as the engine tells of them
    serves                 endpoint id → addresses that Envoy sends its requests to
    routed                 endpoint ids that any of Envoy's routes names
    foreign                names of another installation's containers that run
    """

    rows: Rows
    containers: list[Any]
    networks: list[str]
    serves: dict[str, set[str]]
    routed: set[str]
    foreign: set[str]


def observe(world: World) -> Observed:
    """Raises EngineAway, GatewayAway."""
    found = rows.read(world.database)
    containers = world.engine.api.containers("berth.owner")
    return Observed(
        rows=found,
        containers=[one for one in containers if _label(one, "owner") == world.owner],
        networks=[one["Name"] for one in world.engine.api.networks(f"berth.owner={world.owner}")],
        serves=gateway.clusters(world.where.home),
        routed=gateway.routes(world.where.home),
        foreign={
            _name(one)
            for one in containers
            if _label(one, "owner") != world.owner and one["State"]["Running"]
        },
    )


def differences(story: Story) -> list[str]:
    """Between what is wanted and what is observed, now."""
    world = story.world
    try:
        seen = observe(world)
        return _compare(story, seen)
    except (EngineAway, GatewayAway, redis.RedisError) as error:
        return [f"not to be seen: {error}"]


def _compare(story: Story, seen: Observed) -> list[str]:
    world = story.world
    return [
        *_target(story, seen),
        *served(seen, world.bystander, 1, BYSTANDER),
        *answered(world, world.bystander, BYSTANDER),
        *without_owner(seen),
        *claims(seen),
        *(
            f"{name} belongs to another installation and was ended"
            for name in story.strangers
            if name.endswith(OTHER) and name not in seen.foreign
        ),
    ]


def _target(story: Story, seen: Observed) -> Iterator[str]:
    wanted, endpoint = story.wanted, story.endpoint
    row = seen.rows.endpoints.get(endpoint)
    if not endpoint:
        return
    if wanted.gone:
        if row:
            yield f"deleted, and still there: {row.status} {row.reason}"
        home = story.world.where.home
        yield from (f"file left: {path.relative_to(home)}" for path in home.rglob(f"*{endpoint}*"))
        yield from (f"key left in Redis: {key}" for key in keys_for_ever(home, endpoint))
    elif row is None:
        yield "the endpoint is gone"
    elif wanted.paused:
        if row.status != "INACTIVE":
            yield f"paused, and {row.status} {row.reason}"
        mine = [one for one in seen.containers if _label(one, "endpoint") == endpoint]
        yield from (f"paused, and has {_name(one)}" for one in mine)
    else:
        yield from served(seen, endpoint, wanted.replicas, wanted.identity)
        yield from answered(story.world, endpoint, wanted.identity, story.token)


def served(seen: Observed, endpoint: str, replicas: int, identity: str) -> Iterator[str]:
    """As many replicas as are wanted, of the wanted kind, known to the rows and served by the gateway."""
    row = seen.rows.endpoints.get(endpoint)
    if row is None:
        yield f"{identity}: no row"
        return
    if (row.status, row.ready) != ("ACTIVE", replicas):
        yield f"{identity}: {row.status} {row.reason}, {row.ready} of {replicas} ready"
    mine = [one for one in seen.containers if _label(one, "endpoint") == endpoint]
    said = [f"{_name(one)} {one['State']['Status']} {one['Config']['Cmd'][1]}" for one in mine]
    right = [one for one in mine if one["State"]["Running"] and one["Config"]["Cmd"][1] == identity]
    if len(mine) != replicas or len(right) != replicas:
        yield f"{identity}: {replicas} wanted, there are {said or 'none'}"
    live = {one.id: one for one in seen.rows.replicas if one.endpoint == endpoint and one.state in LIVE}
    labels = {_label(one, "replica") for one in mine}
    if labels != set(live) or any(one.state != "ready" for one in live.values()):
        yield f"{identity}: rows {sorted((one.name, one.state) for one in live.values())}, containers {said}"
    addresses = {address for one in right for address in _addresses(one)}
    if seen.serves.get(endpoint, set()) != addresses:
        yield f"{identity}: routed to {seen.serves.get(endpoint)}, containers at {addresses}"


def answered(world: World, endpoint: str, identity: str, token: str = "") -> Iterator[str]:
    """A request through the gateway is answered by the right replica."""
    answer = world.ask(endpoint, token)
    if answer.identity != identity:
        yield f"{identity}: answered {answer.identity or answer.problem}"


def without_owner(seen: Observed) -> Iterator[str]:
    """Containers, networks, routes, rows and held addresses that belong to nothing."""
    live = {one.name for one in seen.rows.replicas if one.state in LIVE}
    for one in seen.containers:
        if _name(one) not in live:
            yield f"container {_name(one)} has no live row"
    used = {name for one in seen.containers for name in one["NetworkSettings"]["Networks"]}
    yield from (f"network {name} has nobody on it" for name in seen.networks if name not in used)
    yield from (f"cluster {name} has no endpoint" for name in set(seen.serves) - set(seen.rows.endpoints))
    yield from (f"route {name} has no endpoint" for name in seen.routed - set(seen.rows.endpoints))
    yield from (f"rows without their endpoint: {one}" for one in seen.rows.loose)
    yield from (f"address held: {one}" for one in seen.rows.held)


def claims(seen: Observed) -> Iterator[str]:
    """Who lives holds what it was given, nobody else holds anything, and nothing is given twice."""
    found = seen.rows
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
    for container in seen.containers:
        row = by_id.get(_label(container, "replica"))
        if row and row.gpus != devices(container):
            yield f"{_name(container)} has {sorted(devices(container))}, its row {sorted(row.gpus)}"
    twice = Counter(uuid for one in found.replicas if one.claimed for uuid in one.gpus)
    yield from (f"{uuid} claimed {count} times" for uuid, count in twice.items() if count > 1)


def told_in_order(story: Story) -> Iterator[str]:
    """Everything that happened to the endpoint stands in the API, the newest first."""
    path = f"/api/v1/endpoints/{story.endpoint}/events/"
    told = [event["kind"] for event in story.world.person.call("GET", path)["results"]]
    happened = rows.events(story.world.database, story.endpoint)[::-1][: len(told)]
    if not told or told != happened:
        yield f"events in the API {told}, in the rows {happened}"


def keys_for_ever(home: Path, endpoint: str) -> list[str]:
    """Keys in Redis that name the endpoint and never expire."""
    with redis.Redis(unix_socket_path=str(socket_dir(home) / "redis.sock"), decode_responses=True) as client:
        found = client.scan_iter(f"*{endpoint}*", count=1000)
        return [str(key) for key in found if client.ttl(key) == -1]


def devices(container: Any) -> frozenset[str]:
    """The ids of the GPUs that the engine gave it."""
    requests = container["HostConfig"].get("DeviceRequests") or []
    return frozenset(id_ for one in requests for id_ in one.get("DeviceIDs") or [])


def _addresses(container: Any) -> list[str]:
    port = container["Config"]["Cmd"][0]
    networks = container["NetworkSettings"]["Networks"].values()
    return [f"{one['IPAddress']}:{port}" for one in networks if one["IPAddress"]]


def _label(container: Any, name: str) -> str:
    return str(container["Config"]["Labels"].get(f"berth.{name}", ""))


def _name(container: Any) -> str:
    return str(container["Name"]).lstrip("/")
