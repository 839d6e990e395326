"""The contract between the reconciler and a place where replicas run.

A driver holds no state that matters: what runs is what the engine says. Every call returns soon or raises a
`RuntimeFailure`; only `pull` may take minutes. `tests/contract/` runs one suite against every driver.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
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
    network         key of the isolated network, one per project; None means the driver's default
    tmpfs           writable paths in a read-only root → size in bytes
    stop_grace_s    seconds between SIGTERM and SIGKILL
    """

    name: str
    image: str
    port: int
    labels: Mapping[str, str] = field(default_factory=dict)
    program: str | None = None
    entrypoint: tuple[str, ...] | None = None
    command: tuple[str, ...] | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    cpus: float = 0
    memory_bytes: int = 0
    shm_bytes: int = 0
    pids_limit: int = 4096
    gpu_ids: tuple[str, ...] = ()
    mounts: tuple[Mount, ...] = ()
    network: str | None = None
    read_only_root: bool = True
    tmpfs: Mapping[str, int] = field(default_factory=dict)
    user: str | None = None
    stop_grace_s: int = 10


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
class PullProgress:
    """Bytes over all layers; `total` grows while the registry still announces layers."""

    done: int
    total: int


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


class Runtime(Protocol):
    """Where replicas run."""

    kind: str

    def info(self) -> RuntimeInfo:
        """Who answers. Raises RuntimeUnreachable or RuntimeNotPermitted."""

    def has_image(self, image: str) -> bool:
        """Whether `start` could run without a pull. A runtime without images says True."""

    def pull(
        self, image: str, *, auth: RegistryAuth | None, progress: Callable[[PullProgress], None] | None = None
    ) -> None:
        """Fetch the image; may take minutes. An image that is there already is success.

        `progress` is called from the calling thread, at most about ten times a second, and may raise to abort.
        Raises ImageMissing, ImageDenied, RegistryUnreachable, NoSpace.
        """

    def start(self, spec: ContainerSpec) -> Observation:
        """Create and start the container, or adopt the one of that name if it is ours.

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

    def remove_network(self, network: str) -> None:
        """Remove a project's network if no container is on it. A missing one is success."""

    def logs(self, name: str, *, tail: int = 200) -> str:
        """The last `tail` lines of stdout and stderr, dead containers included; "" if there is none."""

    def follow_logs(self, name: str, *, tail: int = 0) -> Iterator[str]:
        """Lines without their newline, the last `tail` first, until the container ends."""

    def events(self) -> Iterator[RuntimeEvent]:
        """Blocks and yields events of our containers from now on; raises RuntimeUnreachable when cut off."""
