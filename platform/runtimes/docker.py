"""Replicas as containers of a Docker Engine, 20.10 or newer.

Where the host reaches containers' addresses (an engine on this Linux machine), each project's network is internal:
no way out, and only the host comes in. Elsewhere (Docker Desktop, a rootless or remote engine) the port is published
on the loopback address, which an internal network would silently drop: the network then has a way out, and `info()`
says so.
"""

from __future__ import annotations

import builtins
import contextlib
import logging
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Set
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import docker
import docker.errors

from runtimes import gpus, images, listening
from runtimes.contract import (
    LABEL_OWNER,
    LOCAL_NODE,
    ContainerSpec,
    ContainerState,
    GpuLoad,
    GpuUse,
    Listener,
    LogLine,
    NodeFacts,
    Observation,
    PullProgress,
    RegistryAuth,
    RuntimeEvent,
    RuntimeInfo,
    Usage,
)
from runtimes.docker_client import Client, connect, is_local_socket
from runtimes.docker_errors import from_api, is_address_taken, is_missing, is_missing_network, translated
from runtimes.docker_gpus import uses
from runtimes.docker_logs import follow, whole
from runtimes.docker_network import Networks
from runtimes.docker_observe import chosen_address, container_state, is_unexplained, observation
from runtimes.docker_pull import pull_image
from runtimes.docker_spec import container_config
from runtimes.docker_usage import Usages
from runtimes.errors import InvalidSpec, RuntimeFailure, RuntimeUnreachable

log = logging.getLogger(__name__)
Reach = Literal["auto", "address", "published"]
_Facts = dict[str, Any]  # of an inspect
WEAKER = (
    "This machine cannot reach containers by their own address, so replicas are published on 127.0.0.1 and their"
    " networks have a way out: isolation is weaker than on Linux with a local Docker Engine."
)
_EVENT_KINDS = ("start", "die", "oom", "destroy")
_MAX_LOG_BYTES = 2_000_000
_LOG_SILENCE_S = 3.0
_EXPLANATION_S = 0.3  # why a container was killed is told apart from that it was
_SILENCE_S = 600.0  # pulls, imports and builds say something more often than that


DEFAULT_POOL = "10.213.0.0/16"


class DockerRuntime:
    """One engine, one owner.

    owner         the installation's name; containers and networks of another owner are never touched
    base_url      the engine's address; None: DOCKER_HOST or the local socket
    subnet_pool   where projects' networks take their /26 from
    reach         how the host reaches replicas: by container address, by published port, or found out
    timeout_s     seconds without an answer after which the engine counts as unreachable
    """

    kind = "docker"

    def __init__(
        self,
        owner: str,
        *,
        base_url: str | None = None,
        subnet_pool: str = DEFAULT_POOL,
        reach: Reach = "auto",
        timeout_s: int = 30,
    ) -> None:
        self._owner = owner
        self._base_url = base_url
        self._pool = subnet_pool
        self._reach: Reach = reach
        self._timeout_s = timeout_s
        # One client a thread: a requests session is not made for several.
        self._clients = threading.local()
        # What containers were made with never changes: each is asked about once.
        self._containers: dict[str, dict[str, Any]] = {}
        self._usages = Usages(self._api, base_url)

    def info(self) -> RuntimeInfo:
        with translated():
            facts = self._api().info()
        return RuntimeInfo(
            kind=self.kind,
            version=str(facts.get("ServerVersion", "")),
            cpus=int(facts.get("NCPU", 0)),
            memory_bytes=int(facts.get("MemTotal", 0)),
            isolation=WEAKER if self._published() else "",
        )

    def architecture(self) -> str:
        """The engine's machine as it names it: x86_64, aarch64."""
        with translated():
            return str(self._api().info().get("Architecture", ""))

    def nodes(self) -> builtins.list[NodeFacts]:
        facts = self.info()
        # NVML knows this machine's GPUs: those of an engine elsewhere are entered by hand.
        try:
            found = gpus.gpus() if is_local_socket(self._base_url) else ()
        except RuntimeFailure as failure:
            log.warning("the GPUs are not known: %s", failure.evidence)
            found = None
        return [NodeFacts(LOCAL_NODE, facts.cpus, facts.memory_bytes, found)]

    def gpu_use(self) -> builtins.list[GpuUse]:
        with translated():
            running = [row["Id"] for row in self._api().containers()]
            known = {name: self._containers.get(name) or self._inspect(name) for name in running}
        self._containers = {name: facts for name, facts in known.items() if facts is not None}
        computing = gpus.processes() if is_local_socket(self._base_url) else ()
        return uses(self._containers.values(), computing, self._owner)

    def usage(self, names: Collection[str] | None = None) -> dict[str, Usage]:
        return self._usages.read(f"{LABEL_OWNER}={self._owner}", names)

    def gpu_load(self) -> dict[str, GpuLoad]:
        return gpus.loads() if is_local_socket(self._base_url) else {}

    # ---- images

    def has_image(self, image: str) -> bool:
        with translated():
            try:
                self._api().inspect_image(image)  # type: ignore[no-untyped-call]
            except docker.errors.APIError as error:
                if is_missing(error, "image"):
                    return False
                raise
        return True

    def pull(
        self, image: str, *, auth: RegistryAuth | None, progress: Callable[[PullProgress], None] | None = None
    ) -> None:
        if self.has_image(image):
            return
        if images.is_ours(image):
            images.ensure_llama_cpp(self, image)
            return
        pull_image(self._client(_SILENCE_S), image, auth, progress)

    def import_image(self, image: str, archive: Path, changes: list[str]) -> None:
        """Make an image of a root file system in a tar file; `changes` are Dockerfile instructions."""
        repository, _, tag = image.partition(":")
        with translated():
            answer = self._client(_SILENCE_S).import_image_from_file(
                str(archive), repository=repository, tag=tag or "latest", changes=changes
            )
        if '"error"' in answer:
            raise RuntimeFailure(answer.strip())

    def build_image(self, image: str, context: Path, arguments: dict[str, str]) -> None:
        """Build a Dockerfile's image, base image pulled if need be. Raises RuntimeFailure with the last lines."""
        lines: list[str] = []
        with translated():
            for step in self._client(_SILENCE_S).build(
                path=str(context), tag=image, buildargs=arguments, decode=True, rm=True, forcerm=True
            ):
                lines += [str(step[key]).strip() for key in ("stream", "error") if step.get(key)]
                if "error" in step:
                    raise RuntimeFailure("\n".join(lines[-10:]))

    # ---- containers

    def start(self, spec: ContainerSpec, *, avoid: frozenset[tuple[str, int]] = frozenset()) -> Observation:
        deadline = time.monotonic() + self._timeout_s
        taken: set[str] = set()  # addresses that somebody else was faster to get
        with translated():
            while time.monotonic() < deadline:
                facts = self._inspect(spec.name)
                if facts is None:
                    if not self._create(spec, taken.union(host for host, _ in avoid)):
                        time.sleep(0.02)  # the engine reserves a name well before it shows the container
                    continue
                if not self._is_mine(facts):
                    raise InvalidSpec(f"a container named {spec.name} exists and belongs to someone else")
                if container_state(facts) is not ContainerState.CREATED:
                    return observation(facts)
                made, chosen = facts["Id"], chosen_address(facts)
                if any(chosen == host for host, _ in avoid):  # chosen before it was to be avoided
                    self.remove(made)
                    continue
                if not self._start_created(made):
                    taken.add(chosen)
                    continue
                facts = self._inspect(spec.name)
                if facts is not None and self._is_avoided(observation(facts), avoid):
                    self.remove(made)
                elif facts is not None:
                    return observation(facts)
        raise RuntimeFailure(f"container {spec.name} was removed again and again while it was being started")

    def _create(self, spec: ContainerSpec, avoid: Set[str] = frozenset()) -> bool:
        """False when somebody else made one of that name, or removed the network, in between: look again.

        The container's address is chosen here, none of `avoid`: the engine itself would hand out any free one.
        """
        api = self._api()
        published = self._published()
        networks = Networks(self._owner, self._pool, internal=not published)
        network = networks.ensure(api, spec.network, avoid)
        config = container_config(
            spec,
            owner=self._owner,
            network_id=network["Id"],
            published=published,
            address="" if published else networks.free_address(api, network, spec.name, avoid),
        )
        try:
            api.create_container_from_config(config, spec.name)  # type: ignore[no-untyped-call]
        except docker.errors.APIError as error:
            if error.status_code == 409 or is_missing_network(error):
                return False
            raise
        return True

    def _is_avoided(self, seen: Observation, avoid: frozenset[tuple[str, int]]) -> bool:
        """Whether it came up where it must not: the engine itself chooses published ports, and chose the addresses
        of containers that an earlier version made."""
        if seen.address is None:
            return False
        if self._published():
            return (seen.address.host, seen.address.port) in avoid
        return any(seen.address.host == host for host, _ in avoid)

    def _start_created(self, name: str) -> bool:
        """False, and the container removed, when another one was faster to get its address.

        What the container itself is to blame for stays with it, to be observed; all else is raised, and the
        container removed, so that the next attempt makes it anew. `name` may be an id: then only that one is removed
        and not another worker's next attempt.
        """
        try:
            self._api().start(name)
        except docker.errors.APIError as error:
            if is_missing(error, "container"):
                return True
            if is_address_taken(error):
                self.remove(name)
                return False
            failure = from_api(error)
            unknown = type(failure) is RuntimeFailure and "oci runtime" in failure.evidence.lower()
            if isinstance(failure, InvalidSpec) or unknown:
                facts = self._inspect(name)
                if facts is not None and container_state(facts) is ContainerState.EXITED:
                    return True
            self.remove(name)
            raise failure from error
        return True

    def observe(self, name: str) -> Observation | None:
        with translated():
            (facts,) = self._explained([self._inspect(name)])
        return observation(facts) if facts is not None and self._is_mine(facts) else None

    def list(self, labels: Mapping[str, str] | None = None) -> list[Observation]:
        wanted = {**(labels or {}), LABEL_OWNER: self._owner}
        with translated():
            rows = self._api().containers(
                all=True, filters={"label": [f"{key}={value}" for key, value in wanted.items()]}
            )
            inspected = self._explained([self._inspect(row["Id"]) for row in rows])
        return [observation(facts) for facts in inspected if facts is not None]

    def _explained(self, inspected: builtins.list[_Facts | None]) -> builtins.list[_Facts | None]:
        """The same, and another look at those of which the engine may not know yet why they ended."""
        now = datetime.now(UTC)
        unexplained = {facts["Id"] for facts in inspected if facts is not None and is_unexplained(facts, now)}
        if not unexplained:
            return inspected
        time.sleep(_EXPLANATION_S)
        return [
            self._inspect(facts["Id"]) if facts and facts["Id"] in unexplained else facts
            for facts in inspected
        ]

    def listening(self, name: str) -> tuple[Listener, ...] | None:
        with translated():
            facts = self._inspect(name)
        if facts is None or not self._is_mine(facts) or not facts["State"].get("Running"):
            return None
        found = listening.of_container(int(facts["State"].get("Pid") or 0), facts["Id"])
        address = observation(facts).address
        if found is not None or address is None or self._published():
            return found
        exposed = [port.split("/") for port in facts["Config"].get("ExposedPorts") or {}]
        ports = {int(port) for port, kind in exposed if kind == "tcp"}
        return listening.by_trying(address.host, sorted(ports.union(listening.COMMON_PORTS)))

    def stop(self, name: str, *, grace_s: int = 10) -> None:
        if self.observe(name) is None:
            return
        with translated():
            try:
                self._api().stop(name, timeout=grace_s)
            except docker.errors.APIError as error:
                if not is_missing(error, "container"):
                    raise

    def remove(self, name: str) -> None:
        deadline = time.monotonic() + self._timeout_s
        while self.observe(name) is not None:
            with translated():
                try:
                    self._api().remove_container(name, force=True, v=True)
                except docker.errors.APIError as error:
                    # 409: another caller's removal is under way; it is done when the container is gone.
                    if error.status_code != 409 and not is_missing(error, "container"):
                        raise
            if time.monotonic() > deadline:
                raise RuntimeFailure(f"container {name} is still there {self._timeout_s} s after its removal")
            time.sleep(0.02)

    def networks(self) -> builtins.list[str]:
        with translated():
            return Networks(self._owner, self._pool, internal=True).keys(self._api())

    def remove_network(self, network: str) -> None:
        with translated():
            Networks(self._owner, self._pool, internal=True).remove(self._api(), network)

    # ---- what they say

    def logs(self, name: str, *, tail: int = 200) -> str:
        if self.observe(name) is None:
            return ""
        with translated():
            try:
                raw = self._api().logs(name, stdout=True, stderr=True, tail=tail)
            except docker.errors.APIError as error:
                if is_missing(error, "container"):
                    return ""
                raise
        return bytes(raw)[-_MAX_LOG_BYTES:].decode(errors="replace")

    def follow_logs(self, name: str, *, tail: int = 0, after: str = "") -> Iterator[LogLine]:
        if self.observe(name) is None:
            return
        with translated():
            yield from follow(self._client(None), name, tail=tail, after=after)

    def whole_log(self, name: str) -> Iterator[bytes]:
        if self.observe(name) is None:
            return
        with translated():
            yield from whole(self._client(_LOG_SILENCE_S), name)

    def events(self) -> Iterator[RuntimeEvent]:
        """Subscribed when this returns, so nothing that happens after the call is missed."""
        with translated():
            stream = self._client(None).events(
                decode=True,
                filters={
                    "type": "container",
                    "label": f"{LABEL_OWNER}={self._owner}",
                    "event": list(_EVENT_KINDS),
                },
            )
        return self._events(stream)

    def _events(self, stream: Any) -> Iterator[RuntimeEvent]:
        with translated(), contextlib.closing(stream):
            for message in stream:
                attributes = dict(message["Actor"]["Attributes"])
                yield RuntimeEvent(
                    kind=message["Action"],
                    name=attributes.get("name", ""),
                    labels=attributes,
                    at=datetime.fromtimestamp(message["timeNano"] / 1e9, UTC),
                )
        raise RuntimeUnreachable("the engine ended its stream of events")

    # ---- the engine

    def _api(self) -> Client:
        """This thread's client. Raises what docker-py raises: call it inside `translated()`."""
        client: Client | None = getattr(self._clients, "api", None)
        if client is None:
            client = self._clients.api = connect(self._base_url, self._timeout_s)
        return client

    def _client(self, silence_s: float | None) -> Client:
        """A client for one long call."""
        with translated():
            client = connect(self._base_url, self._timeout_s)
        client.silence_s = silence_s
        return client

    def _published(self) -> bool:
        """Whether replicas are reached through the loopback address. Asks the engine once."""
        if self._reach == "auto":
            with translated():
                facts = self._api().info()
            local = sys.platform == "linux" and is_local_socket(self._base_url)
            in_a_machine = "Docker Desktop" in str(facts.get("OperatingSystem", ""))
            rootless = any("rootless" in option for option in facts.get("SecurityOptions") or [])
            self._reach = "address" if local and not in_a_machine and not rootless else "published"
        return self._reach == "published"

    def _inspect(self, name: str) -> _Facts | None:
        try:
            return dict(self._api().inspect_container(name))
        except docker.errors.APIError as error:
            if is_missing(error, "container"):
                return None
            raise

    def _is_mine(self, facts: _Facts) -> bool:
        return (facts["Config"].get("Labels") or {}).get(LABEL_OWNER) == self._owner
