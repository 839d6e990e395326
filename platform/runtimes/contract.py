"""The contract between the reconciler and a place where replicas run.

A driver holds no state that matters: what runs is what the engine says. Every call returns soon or raises a
`RuntimeFailure`; only `pull` may take minutes. `tests/contract/` runs one suite against every driver.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol

LABEL_OWNER = "berth.owner"  # which installation a container belongs to; foreign ones are never touched
LABEL_ENDPOINT = "berth.endpoint"
LABEL_REPLICA = "berth.replica"
LABEL_REVISION = "berth.revision"

# Stand in commands and environment for what only the driver knows. A driver replaces them in every argument.
PORT_PLACEHOLDER = "{{port}}"
HOST_PLACEHOLDER = "{{host}}"


@dataclass(frozen=True, slots=True)
class Mount:
    """A host path (absolute) seen by the replica at `target`. Always read-only for replicas."""

    source: str
    target: str
    read_only: bool = True


@dataclass(frozen=True, slots=True)
class RegistryAuth:
    """Credentials for a pull. Never logged, never part of a spec's hash."""

    username: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """Everything a replica is made of. Two equal specs start the same container.

    name            deterministic and unique: starting the same name twice gives one container
    program         for the process runtime: a name from `runtimes.process.PROGRAMS`, or None where the
                    framework cannot run without a container
    command         arguments after the image's entrypoint (None: the image's own)
    entrypoint      replaces the image's entrypoint (None: the image's own)
    port            the TCP port the model server listens on inside the container
    cpus            cores, fractions allowed; 0 means no limit
    memory_bytes    hard limit, swap included; 0 means no limit
    gpu_ids         engine device ids (NVIDIA UUIDs or indices) this replica owns
    node            where to start it: a name from `nodes()`; "" where there is only one
    network         key of the isolated network, one per project; None means the driver's default
    tmpfs           writable paths in a read-only root → size in bytes
    stop_grace_s    seconds between SIGTERM and SIGKILL
    log_bytes       how much of its latest output the runtime keeps at least, in its own form; twice that at most
    """

    name: str
    image: str
    port: int
    labels: Mapping[str, str] = field(default_factory=dict)
    program: str | None = None
    entrypoint: tuple[str, ...] | None = None
    command: tuple[str, ...] | None = None
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    cpus: float = 0
    memory_bytes: int = 0
    shm_bytes: int = 0
    pids_limit: int = 4096
    gpu_ids: tuple[str, ...] = ()
    node: str = ""
    mounts: tuple[Mount, ...] = ()
    network: str | None = None
    read_only_root: bool = True
    tmpfs: Mapping[str, int] = field(default_factory=dict)
    user: str | None = None
    stop_grace_s: int = 10
    log_bytes: int = 10_000_000


class ContainerState(StrEnum):
    CREATED = "created"
    RUNNING = "running"
    EXITED = "exited"


@dataclass(frozen=True, slots=True)
class Address:
    """Where the gateway and our probe reach a running replica."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Observation:
    """What the runtime says about one container, now.

    address      None unless running
    exit_code    None unless exited; 128 + n when signal n ended it
    oom_killed   the kernel ended it for exceeding its memory limit
    error        the runtime's own words on why it could not start or was lost, or ""; a replica that started and
                 ended by itself has none
    """

    name: str
    runtime_id: str
    state: ContainerState
    labels: Mapping[str, str]
    address: Address | None = None
    exit_code: int | None = None
    oom_killed: bool = False
    error: str = ""
    started_at: datetime | None = None
    finished_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Listener:
    """A TCP port that a replica listens on. loopback: only for itself, so that neither gateway nor probe get there."""

    port: int
    loopback: bool = False


@dataclass(frozen=True, slots=True)
class PullProgress:
    """Bytes over all layers whose size is known; `waiting` counts the others, so `total` is final once it is 0."""

    done: int
    total: int
    waiting: int = 0


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line that a replica printed.

    text   without its newline; cut at LOG_LINE_BYTES, bytes that are no UTF-8 replaced, otherwise as it was printed
    mark   its place in the log, for `follow_logs(after=)`; only the same driver can read it
    at     when it was printed, as a number of seconds; 0 where the runtime does not know
    gap    there were lines between the one before (or `after`) and this one that were not handed out
    """

    text: str
    mark: str = ""
    at: float = 0.0
    gap: bool = False


LOG_LINE_BYTES = 16_000


@dataclass(frozen=True, slots=True)
class RuntimeEvent:
    """A hint that something happened to a container of ours: look again. kind: start, die, oom, destroy."""

    kind: str
    name: str
    labels: Mapping[str, str]
    at: datetime


@dataclass(frozen=True, slots=True)
class RuntimeInfo:
    """For people and for capacity. `isolation` is one sentence when it is weaker than on Linux, else ""."""

    kind: str
    version: str
    cpus: int
    memory_bytes: int
    isolation: str = ""


LOCAL_NODE = "local"  # the one node of a runtime that has no others


@dataclass(frozen=True, slots=True)
class GpuFacts:
    """A GPU as its driver tells it.

    uuid    what `ContainerSpec.gpu_ids` names it by
    model   as instance types write it ("rtx2080ti")
    """

    uuid: str
    index: int
    name: str
    model: str
    vram_bytes: int


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """A machine that runs replicas. gpus: None when its driver is there and fails, so that nothing is known."""

    name: str
    cpus: float
    memory_bytes: int
    gpus: tuple[GpuFacts, ...] | None = ()


@dataclass(frozen=True, slots=True)
class GpuUse:
    """Somebody on a GPU: a running container that was given it, or a process that computes on it.

    gpu            its UUID, or what the container asked for instead: an index, or ALL_GPUS
    ours           a replica of this installation
    name           the container's name, the process's where it runs in none
    pid            of a process, as the host numbers it; 0 for a container that computes nothing as far as is known
    memory_bytes   of the GPU's, where known
    """

    node: str
    gpu: str
    ours: bool
    name: str
    pid: int = 0
    memory_bytes: int = 0


ALL_GPUS = "all"


@dataclass(frozen=True, slots=True)
class Usage:
    """What a running container has used.

    cpu_seconds    of all its processes since it started, the ended ones too where the runtime knows of them
    memory_bytes   without file pages that the kernel may drop: what `docker stats` shows
    at             when it was read, on this machine's steady clock (time.monotonic), seconds
    """

    cpu_seconds: float
    memory_bytes: int
    at: float


@dataclass(frozen=True, slots=True)
class GpuLoad:
    """How busy a GPU is. utilisation: per cent of the driver's last sample in which anything ran on it, whoever's."""

    utilisation: float
    memory_used: int
    memory_total: int


class Runtime(Protocol):
    """Where replicas run."""

    kind: str

    def info(self) -> RuntimeInfo:
        """Who answers. Raises RuntimeUnreachable or RuntimeNotPermitted."""

    def nodes(self) -> list[NodeFacts]:
        """The machines that replicas can run on. Raises RuntimeUnreachable or RuntimeNotPermitted."""

    def gpu_use(self) -> list[GpuUse]:
        """Who is on which GPU now, other owners' containers and the host's own programs included.

        Raises RuntimeUnreachable, or RuntimeFailure when the GPUs' driver fails.
        """

    def usage(self, names: Collection[str] | None = None) -> Mapping[str, Usage]:
        """What this installation's running containers have used, by name; of `names` only, where they are given.

        One that does not run, or ends meanwhile, is left out, as is one of which the system tells nothing.
        Raises RuntimeUnreachable.
        """

    def gpu_load(self) -> Mapping[str, GpuLoad]:
        """Load of the GPUs that this machine's driver tells of, by UUID; one that has no figure of its own (cut into
        MIG slices) is left out. Empty without a driver. Raises RuntimeFailure when the driver fails."""

    def has_image(self, image: str) -> bool:
        """Whether `start` could run without a pull. A runtime without images says True."""

    def pull(
        self, image: str, *, auth: RegistryAuth | None, progress: Callable[[PullProgress], None] | None = None
    ) -> None:
        """Fetch the image; may take minutes. An image that is there already is success.

        `progress` is called from the calling thread, at most about ten times a second and, where the registry is
        silent, every second or two all the same; it may raise to abort, which ends the transfer too.
        Raises ImageMissing, ImageDenied, RegistryUnreachable, NoSpace.
        """

    def start(self, spec: ContainerSpec, *, avoid: frozenset[tuple[str, int]] = frozenset()) -> Observation:
        """Create and start the container, or adopt the one of that name if it is ours.

        `avoid`: addresses (host, port) that a gateway may still be sending another endpoint's requests to. A new
        container gets none of them; a running one of that name is returned as it is.

        Idempotent: a running one is returned as it is; a created one is started; an exited one is returned as
        exited (a restart is a new name). Safe when two workers call it at once. Does not wait for health.
        What the replica itself is to blame for is no exception but an end: a program that its image does not
        have is EXITED with `error` and exit code 127, one that may not be executed 126. After an exception
        nothing of the replica is left, so that the same name can be tried again.
        Raises ImageMissing, InvalidSpec, NoSpace, GpuUnavailable, AddressPoolExhausted, PortTaken.
        """

    def observe(self, name: str) -> Observation | None:
        """The container of that name, None if the engine says that there is none."""

    def list(self, labels: Mapping[str, str] | None = None) -> list[Observation]:
        """All of this installation's containers, dead ones included, that carry all `labels`."""

    def stop(self, name: str, *, grace_s: int = 10) -> None:
        """SIGTERM, then SIGKILL after `grace_s`. A missing or stopped container is success."""

    def remove(self, name: str) -> None:
        """Remove the container and all that belongs to it alone, running or not. A missing one is success."""

    def networks(self) -> builtins.list[str]:
        """Keys of the projects' networks of this installation that are there. A runtime without any: none."""

    def remove_network(self, network: str) -> None:
        """Remove a project's network if no container is on it. A missing one is success."""

    def logs(self, name: str, *, tail: int = 200) -> str:
        """The last `tail` lines of stdout and stderr, dead containers included; "" if there is none."""

    def follow_logs(self, name: str, *, tail: int = 0, after: str = "") -> Iterator[LogLine]:
        """Lines as they are printed, the last `tail` first, until the container ends.

        after: go on behind the line with this mark; where that is more than about `tail` lines ago, with the last
        `tail`, the first of which has `gap`. One who closes the iterator ends the connection.
        """

    def whole_log(self, name: str) -> Iterator[bytes]:
        """All that the runtime still has of its output, oldest first, dead containers included, in pieces that end
        anywhere; nothing if there is none. Memory stays bounded however much it is."""

    def listening(self, name: str) -> tuple[Listener, ...] | None:
        """The TCP ports that a running replica listens on, in order; None where that can't be known.

        () says that it listens on none. Takes at most a second. A replica that is gone or does not run: None.
        """

    def events(self) -> Iterator[RuntimeEvent]:
        """Blocks and yields events of our containers from now on; raises RuntimeUnreachable when cut off."""
