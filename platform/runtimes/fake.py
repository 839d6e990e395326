"""A runtime in memory for tests: an engine whose containers, images and misfortunes a test writes down.

`FakeEngine` outlives its drivers as a real one does, so several `FakeRuntime`s can share it. Its containers end only
when the test says so, except for those whose command is one of the words below.
"""

from __future__ import annotations

import builtins
import itertools
import queue
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from runtimes.contract import (
    LABEL_OWNER,
    LOCAL_NODE,
    Address,
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
from runtimes.errors import (
    CommandNotFound,
    GpuUnavailable,
    ImageDenied,
    ImageMissing,
    InvalidSpec,
    NoSpace,
    RegistryUnreachable,
    RuntimeFailure,
    RuntimeUnreachable,
)

SIGKILL = 137


@dataclass(frozen=True)
class Work:
    """What a container does from `since` (steady seconds) on: how many cores it keeps busy, how much memory it holds.
    `done`: CPU-seconds before that."""

    cores: float = 0.0
    memory_bytes: int = 0
    done: float = 0.0
    since: float = field(default_factory=time.monotonic)

    def usage(self) -> Usage:
        now = time.monotonic()
        return Usage(self.done + self.cores * (now - self.since), self.memory_bytes, now)


@dataclass
class Container:
    """One container of the fake engine."""

    spec: ContainerSpec
    seen: Observation
    lines: list[str] = field(default_factory=list)
    work: Work = field(default_factory=lambda: Work())


class FakeEngine:
    """Where fake containers live. A test changes it; drivers read it.

    images          names that need no pull; `everything_is_here` makes all of them present
    outage          set: every call fails with it (UNREACHABLE, NO_SPACE …)
    nodes           its machines; none: one called "local", of `cpus` and `memory_bytes`
    strangers       who else is on its GPUs
    gpu_loads       how busy its GPUs are; set to a failure: the driver fails with it
    failing_starts  taken one a start of a new container, first come, first raised
    failing_pulls   taken one a pull
    pull_steps      what a successful pull reports
    address         where running containers are said to answer, all of them and whatever is to be avoided; None: each
                    has an address of its own, where nobody answers
    """

    def __init__(self, *, everything_is_here: bool = True) -> None:
        self.everything_is_here = everything_is_here
        self.images: set[str] = set()
        self.outage: RuntimeFailure | None = None
        self.failing_starts: list[RuntimeFailure] = []
        self.failing_pulls: list[RuntimeFailure] = []
        self.pull_steps: list[PullProgress] = [
            PullProgress(0, 100),
            PullProgress(50, 100),
            PullProgress(100, 100),
        ]
        self.address: Address | None = None
        self.cpus, self.memory_bytes = 64, 1 << 38
        self.nodes: list[NodeFacts] = []
        self.strangers: list[GpuUse] = []
        self.gpu_loads: dict[str, GpuLoad] | RuntimeFailure = {}
        self.containers: dict[str, Container] = {}
        self.open_ports: dict[str, tuple[Listener, ...]] = {}
        self.networks: set[tuple[str, str]] = set()  # (owner, key)
        self.lock = threading.RLock()
        self.ids = itertools.count(1)
        self.listeners: list[queue.SimpleQueue[RuntimeEvent | None]] = []

    # ---- misfortunes

    def unreachable(self, evidence: str = "connection refused") -> None:
        """From now on nothing is known; event streams are cut off."""
        self.outage = RuntimeUnreachable(evidence)
        for listener in self.listeners:
            listener.put(None)

    def recovers(self) -> None:
        self.outage = None

    def exits(self, name: str, code: int = 1, *, line: str = "") -> None:
        """The container's process ends by itself."""
        self._end(name, code, oom=False, line=line)

    def runs_out_of_memory(self, name: str) -> None:
        self._end(name, SIGKILL, oom=True)

    def listens(self, name: str, *ports: int, loopback: bool = False) -> None:
        """From now on the container is known to listen on these ports and on no other."""
        self.open_ports[name] = tuple(Listener(port, loopback) for port in sorted(ports))

    def works(self, name: str, *, cores: float = 0.0, memory_bytes: int = 0) -> None:
        """From now on the container keeps so many cores busy and holds so much memory."""
        container = self.containers[name]
        container.work = Work(cores, memory_bytes, container.work.usage().cpu_seconds)

    def counts_anew(self, name: str) -> None:
        """The container's counters begin at 0 again."""
        self.containers[name].work = replace(self.containers[name].work, done=0.0, since=time.monotonic())

    def vanishes(self, name: str) -> None:
        """Somebody removed the container behind our back."""
        with self.lock:
            container = self.containers.pop(name)
        self.tell("destroy", container.seen)

    def next_start_fails(self, failure: RuntimeFailure) -> None:
        self.failing_starts.append(failure)

    def next_pull_fails(self, failure: RuntimeFailure) -> None:
        self.failing_pulls.append(failure)

    def _end(self, name: str, code: int, *, oom: bool, line: str = "") -> None:
        with self.lock:
            container = self.containers[name]
            if container.seen.state is not ContainerState.RUNNING:
                return
            if line:
                container.lines.append(line)
            container.seen = replace(
                container.seen,
                state=ContainerState.EXITED,
                address=None,
                exit_code=code,
                oom_killed=oom,
                finished_at=datetime.now(UTC),
            )
        if oom:
            self.tell("oom", container.seen)
        self.tell("die", container.seen)

    def tell(self, kind: str, seen: Observation) -> None:
        for listener in self.listeners:
            listener.put(RuntimeEvent(kind, seen.name, seen.labels, datetime.now(UTC)))


# Misfortunes by name, for `next_start_fails`, `next_pull_fails` and `outage`.
NO_SPACE = NoSpace("write /var/lib/docker/overlay2: no space left on device")
NO_SUCH_IMAGE = ImageMissing("manifest unknown: manifest unknown")
PRIVATE_IMAGE = ImageDenied("unauthorized: authentication required")
REGISTRY_DOWN = RegistryUnreachable("dial tcp: lookup registry.invalid: no such host")
NO_GPU = GpuUnavailable('could not select device driver "" with capabilities: [[gpu]]')
BAD_SPEC = InvalidSpec("Minimum memory limit allowed is 6MB")


class FakeRuntime:
    """A driver of a `FakeEngine`. Commands that do something by themselves: ("exit", code), ("hog",), ("lines", n),
    ("burn", cores), ("hold", bytes), ("missing",) for a program that the image does not have.
    """

    kind = "fake"

    def __init__(self, owner: str = "test", engine: FakeEngine | None = None) -> None:
        self.engine = engine or FakeEngine()
        self._owner = owner

    def info(self) -> RuntimeInfo:
        self._reach()
        return RuntimeInfo(self.kind, "1", self.engine.cpus, self.engine.memory_bytes)

    def nodes(self) -> builtins.list[NodeFacts]:
        self._reach()
        local = NodeFacts(LOCAL_NODE, self.engine.cpus, self.engine.memory_bytes)
        return list(self.engine.nodes) or [local]

    def gpu_use(self) -> builtins.list[GpuUse]:
        self._reach()
        with self.engine.lock:
            running = [c for c in self.engine.containers.values() if c.seen.state is ContainerState.RUNNING]
        return [
            GpuUse(c.spec.node or LOCAL_NODE, gpu, c.seen.labels[LABEL_OWNER] == self._owner, c.spec.name)
            for c in running
            for gpu in c.spec.gpu_ids
        ] + self.engine.strangers

    def usage(self, names: Collection[str] | None = None) -> dict[str, Usage]:
        self._reach()
        with self.engine.lock:
            found = list(self.engine.containers.values())
        return {
            item.spec.name: item.work.usage()
            for item in found
            if item.seen.state is ContainerState.RUNNING and item.seen.labels[LABEL_OWNER] == self._owner
            if names is None or item.spec.name in names
        }

    def gpu_load(self) -> dict[str, GpuLoad]:
        if isinstance(self.engine.gpu_loads, RuntimeFailure):
            raise self.engine.gpu_loads
        return dict(self.engine.gpu_loads)

    def has_image(self, image: str) -> bool:
        self._reach()
        return self.engine.everything_is_here or image in self.engine.images

    def pull(
        self, image: str, *, auth: RegistryAuth | None, progress: Callable[[PullProgress], None] | None = None
    ) -> None:
        if self.has_image(image):
            return
        if self.engine.failing_pulls:
            raise self.engine.failing_pulls.pop(0)
        for step in self.engine.pull_steps:
            if progress:
                progress(step)
        self.engine.images.add(image)

    def start(self, spec: ContainerSpec, *, avoid: frozenset[tuple[str, int]] = frozenset()) -> Observation:
        self._reach()
        with self.engine.lock:
            existing = self.engine.containers.get(spec.name)
            if existing is not None:
                if existing.seen.labels[LABEL_OWNER] != self._owner:
                    raise InvalidSpec(f"a container named {spec.name} exists and belongs to someone else")
                return existing.seen
            if spec.node and spec.node not in {node.name for node in self.nodes()}:
                raise InvalidSpec(f"there is no node {spec.node}")
            if not self.has_image(spec.image):
                raise ImageMissing(f"No such image: {spec.image}")
            if self.engine.failing_starts:
                raise self.engine.failing_starts.pop(0)
            container = Container(spec, self._new(spec, avoid))
            self.engine.containers[spec.name] = container
            self.engine.networks.add((self._owner, spec.network or "default"))
        self.engine.tell("start", container.seen)
        self._live(container)
        return container.seen

    def _new(self, spec: ContainerSpec, avoid: frozenset[tuple[str, int]]) -> Observation:
        return Observation(
            name=spec.name,
            runtime_id=f"fake-{next(self.engine.ids)}",
            state=ContainerState.RUNNING,
            labels={**spec.labels, LABEL_OWNER: self._owner},
            address=self.engine.address or self._free_address(avoid),
            started_at=datetime.now(UTC),
        )

    def _free_address(self, avoid: frozenset[tuple[str, int]]) -> Address:
        """The lowest one that no running container has: what is not avoided is given away again at once."""
        taken = {item.seen.address for item in self.engine.containers.values()}
        hosts = (f"127.1.{high}.{low}" for high in range(256) for low in range(1, 255))
        return next(
            address
            for address in (Address(host, 9) for host in hosts)
            if address not in taken and (address.host, address.port) not in avoid
        )

    def _live(self, container: Container) -> None:
        match container.spec.command:
            case ("exit", code):
                self.engine.exits(container.spec.name, int(code))
            case ("hog",):
                self.engine.runs_out_of_memory(container.spec.name)
            case ("lines", count):
                container.lines += [f"line {number}" for number in range(int(count))]
                self.engine.exits(container.spec.name, 0)
            case ("burn", cores):
                self.engine.works(container.spec.name, cores=float(cores))
            case ("hold", size):
                self.engine.works(container.spec.name, memory_bytes=int(size))
            case ("missing",):
                error = CommandNotFound('exec: "missing": executable file not found in $PATH').evidence
                self.engine.exits(container.spec.name, 127)
                container.seen = replace(container.seen, error=error, started_at=None)

    def observe(self, name: str) -> Observation | None:
        self._reach()
        found = self._mine(name)
        return found.seen if found else None

    def list(self, labels: Mapping[str, str] | None = None) -> builtins.list[Observation]:
        self._reach()
        wanted = {**(labels or {}), LABEL_OWNER: self._owner}
        with self.engine.lock:
            seen = [container.seen for container in self.engine.containers.values()]
        return [item for item in seen if wanted.items() <= item.labels.items()]

    def listening(self, name: str) -> tuple[Listener, ...] | None:
        self._reach()
        found = self._mine(name)
        running = found is not None and found.seen.state is ContainerState.RUNNING
        return self.engine.open_ports.get(name) if running else None

    def stop(self, name: str, *, grace_s: int = 10) -> None:
        self._reach()
        if self._mine(name):
            self.engine.exits(name, 143)

    def remove(self, name: str) -> None:
        self._reach()
        if self._mine(name):
            self.engine.exits(name, SIGKILL)
            self.engine.vanishes(name)

    def networks(self) -> builtins.list[str]:
        self._reach()
        return sorted(key for owner, key in self.engine.networks if owner == self._owner)

    def remove_network(self, network: str) -> None:
        self._reach()
        if all(container.spec.network != network for container in self.engine.containers.values()):
            self.engine.networks.discard((self._owner, network))

    def logs(self, name: str, *, tail: int = 200) -> str:
        self._reach()
        found = self._mine(name)
        kept = found.lines[-tail:] if found and tail > 0 else []
        return "".join(line + "\n" for line in kept)

    def follow_logs(self, name: str, *, tail: int = 0, after: str = "") -> Iterator[LogLine]:
        self._reach()
        found = self._mine(name)
        position, gap = 0, False
        if found is not None:
            position = max(0, len(found.lines) - tail)
            if after:
                position, gap = max(int(after), position), position > int(after)
        while found is not None:
            ended = found.seen.state is not ContainerState.RUNNING
            for text in found.lines[position:]:
                position += 1
                yield LogLine(text, mark=str(position), gap=gap)
                gap = False
            if ended:
                return
            time.sleep(0.01)
            found = self._mine(name)

    def whole_log(self, name: str) -> Iterator[bytes]:
        self._reach()
        found = self._mine(name)
        for line in list(found.lines) if found else ():
            yield line.encode() + b"\n"

    def events(self) -> Iterator[RuntimeEvent]:
        self._reach()
        mine: queue.SimpleQueue[RuntimeEvent | None] = queue.SimpleQueue()
        self.engine.listeners.append(mine)
        return self._events(mine)

    def _events(self, mine: queue.SimpleQueue[RuntimeEvent | None]) -> Iterator[RuntimeEvent]:
        try:
            while (event := mine.get()) is not None:
                if event.labels.get(LABEL_OWNER) == self._owner:
                    yield event
        finally:
            self.engine.listeners.remove(mine)
        raise RuntimeUnreachable("the engine ended its stream of events")

    def _mine(self, name: str) -> Container | None:
        found = self.engine.containers.get(name)
        return found if found and found.seen.labels[LABEL_OWNER] == self._owner else None

    def _reach(self) -> None:
        if self.engine.outage is not None:
            raise self.engine.outage
