"""Replicas as plain processes of this machine, where there is no container engine.

All state is files under home/replicas/<name>/, written by the replica's reaper (see reaper.py), so any worker sees
the same, today or after a restart. What this driver cannot do: isolate replicas from each other or from the network,
and run anything but the programs below. A CPU limit is a number of threads; a memory limit is enforced a few times a
second (Linux only) and counts what the process holds, not the weights it maps.
"""

from __future__ import annotations

import builtins
import contextlib
import fcntl
import hashlib
import json
import logging
import math
import os
import platform
import select
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence, Set
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from runtimes import gpus, listening
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
from runtimes.errors import InvalidSpec, PortTaken, RuntimeFailure, RuntimeUnreachable
from runtimes.images import LLAMA_CPP_SERVER
from runtimes.process_files import (
    HOST,
    can_bind,
    changes,
    checked_mounts,
    localise,
    lock_holder,
    machine_memory,
    moment,
    read_json,
    tail_of,
    translated,
)
from runtimes.process_gpus import uses
from runtimes.process_logs import follow, whole
from runtimes.process_usage import usage_of

log = logging.getLogger(__name__)
# Below the range from which kernels pick ports for outgoing connections (Linux 32768, macOS 49152).
PORTS = range(20000, 30000)
PROGRAMS: Mapping[str, tuple[str, ...]] = {"llama-cpp": (sys.executable, "-I", str(LLAMA_CPP_SERVER))}
_REAPER = Path(__file__).with_name("reaper.py")
_START_S = 20.0
_POLL_S = 0.05
ISOLATION = (
    "Replicas are plain processes of this user: they are not isolated from each other, from the network or from"
    " the files that this user may read."
)


class ProcessRuntime:
    """The replicas below one home folder.

    home      the installation's state folder
    owner     its name; replicas of another owner in the same folder are never touched
    programs  what may be started, by name: the command that comes before a specification's own arguments
    """

    kind = "process"

    def __init__(self, home: Path, owner: str, *, programs: Mapping[str, Sequence[str]] = PROGRAMS) -> None:
        self._replicas = home.resolve() / "replicas"
        self._owner = owner
        self._programs = programs
        # Made once, here: a folder that is missing later was taken away, and says nothing about replicas.
        with translated():
            self._replicas.mkdir(parents=True, exist_ok=True)

    def info(self) -> RuntimeInfo:
        return RuntimeInfo(
            self.kind, platform.python_version(), os.cpu_count() or 1, machine_memory(), ISOLATION
        )

    def nodes(self) -> builtins.list[NodeFacts]:
        facts = self.info()
        try:
            found = gpus.gpus()
        except RuntimeFailure as failure:
            log.warning("the GPUs are not known: %s", failure.evidence)
            found = None
        return [NodeFacts(LOCAL_NODE, facts.cpus, facts.memory_bytes, found)]

    def gpu_use(self) -> builtins.list[GpuUse]:
        groups = self._groups()
        with translated():
            given = {name: self._gpus_given(name) for name in groups}
        return uses(given, {group: name for name, group in groups.items()}, gpus.processes())

    def usage(self, names: Collection[str] | None = None) -> dict[str, Usage]:
        """Nothing where there is no /proc."""
        groups = self._groups()
        return usage_of({name: group for name, group in groups.items() if names is None or name in names})

    def gpu_load(self) -> dict[str, GpuLoad]:
        return gpus.loads()

    def _groups(self) -> dict[str, int]:
        """Our running replicas → the process group that each is."""
        running = [item.name for item in self.list() if item.state is ContainerState.RUNNING]
        with translated():
            return {
                name: int(began["pid"])
                for name in running
                if (began := read_json(self._folder(name) / "started.json"))
            }

    def _gpus_given(self, name: str) -> builtins.list[str]:
        run = read_json(self._folder(name) / "run.json") or {}
        given = run.get("environment", {}).get("CUDA_VISIBLE_DEVICES", "")
        return [gpu for gpu in given.split(",") if gpu]

    def has_image(self, image: str) -> bool:
        return True

    def pull(
        self, image: str, *, auth: RegistryAuth | None, progress: Callable[[PullProgress], None] | None = None
    ) -> None:
        """There is nothing to fetch."""

    # ---- replicas

    def start(self, spec: ContainerSpec, *, avoid: frozenset[tuple[str, int]] = frozenset()) -> Observation:
        with translated(), self._exclusive():
            found = self._read(spec.name)
            if found is None:
                self._launch(spec, {port for _, port in avoid})
                found = self._read(spec.name)
            elif found.labels.get(LABEL_OWNER) != self._owner:
                raise InvalidSpec(f"a replica named {spec.name} exists and belongs to someone else")
            elif found.state is ContainerState.CREATED:  # a worker died before it could start it
                self._run_reaper(self._folder(spec.name))
                found = self._read(spec.name)
        if found is None:
            raise RuntimeFailure(f"replica {spec.name} left no trace of its start")
        return found

    def _launch(self, spec: ContainerSpec, avoid: Set[int]) -> None:
        checked_mounts(spec)
        port = self._free_port(spec.name, avoid)
        folder = self._folder(spec.name)
        draft = self._replicas / f".{uuid.uuid4().hex}"
        draft.mkdir(mode=0o700)
        labels = {**spec.labels, LABEL_OWNER: self._owner}
        facts = {"id": draft.name[1:], "labels": labels, "port": port, "grace_s": spec.stop_grace_s}
        (draft / "spec.json").write_text(json.dumps(facts))
        (draft / "run.json").write_text(json.dumps(self._run(spec, port)))
        draft.rename(folder)
        self._run_reaper(folder)

    def _run(self, spec: ContainerSpec, port: int) -> dict[str, Any]:
        """What the reaper needs. The environment starts empty: the worker's holds the platform's secrets."""
        program = self._programs.get(spec.program or "")
        if program is None:
            raise InvalidSpec(f"{spec.image} runs in a container only, and there is no container engine")
        arguments = [localise(item, spec, port) for item in spec.command or ()]
        environment = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
        environment |= {"HOME": "/nonexistent", "PYTHONUNBUFFERED": "1"}
        environment |= {name: localise(value, spec, port) for name, value in spec.env.items()}
        if spec.gpu_ids:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(spec.gpu_ids)
        if spec.cpus:
            environment["BERTH_CPUS"] = environment["OMP_NUM_THREADS"] = str(math.ceil(spec.cpus))
        return {
            "command": [*program, *arguments],
            "environment": environment,
            "memory_bytes": spec.memory_bytes,
            "log_bytes": spec.log_bytes,
        }

    def _run_reaper(self, folder: Path) -> None:
        """Returns when the replica was started or could not be; either stands in the folder then."""
        command = [sys.executable, "-I", "-S", str(_REAPER), str(folder)]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            waiting = select.poll()
            waiting.register(process.stdout, select.POLLIN)
            readable = waiting.poll(_START_S * 1000)
            # It left our session with a fork: what we started has ended, what reads on is nobody's child.
            if not readable or not process.stdout.read(1):
                raise RuntimeFailure(
                    f"the replica's watcher did not start: {tail_of(folder / 'reaper.log', 5)}"
                )

    def observe(self, name: str) -> Observation | None:
        with translated():
            found = self._read(name)
        return found if found is not None and found.labels.get(LABEL_OWNER) == self._owner else None

    def list(self, labels: Mapping[str, str] | None = None) -> list[Observation]:
        wanted = {**(labels or {}), LABEL_OWNER: self._owner}
        with translated():
            found = [self._read(folder.name) for folder in self._folders()]
        return [item for item in found if item is not None and wanted.items() <= item.labels.items()]

    def listening(self, name: str) -> tuple[Listener, ...] | None:
        seen = self.observe(name)
        if seen is None or seen.state is not ContainerState.RUNNING:
            return None
        with translated():
            began = read_json(self._folder(name) / "started.json")
        return listening.of_group(int(began["pid"])) if began and began.get("pid") else None

    def stop(self, name: str, *, grace_s: int = 10) -> None:
        if self.observe(name) is None:
            return
        folder = self._folder(name)
        with translated():
            if self._signal(folder, signal.SIGTERM) and not self._wait_for_end(folder, grace_s):
                self._signal(folder, signal.SIGUSR1)
                if not self._wait_for_end(folder, 10):
                    self._kill_all(folder)

    def remove(self, name: str) -> None:
        if self.observe(name) is None:
            return
        with translated():
            folder = self._folder(name)
            if self._signal(folder, signal.SIGUSR1) and not self._wait_for_end(folder, 10):
                self._kill_all(folder)
            with self._exclusive():
                gone = self._replicas / f".{uuid.uuid4().hex}"
                with contextlib.suppress(FileNotFoundError):
                    folder.rename(gone)  # at once, so that nobody reads half of it
                shutil.rmtree(gone, ignore_errors=True)

    def networks(self) -> builtins.list[str]:
        """There are none."""
        return []

    def remove_network(self, network: str) -> None:
        """There are no networks."""

    def stop_all(self, *, grace_s: int = 5) -> None:
        """Stop every replica of ours, side by side: what the platform does when it is asked to stop."""
        running = [item.name for item in self.list() if item.state is ContainerState.RUNNING]
        with translated():
            for name in running:
                self._signal(self._folder(name), signal.SIGTERM)
        deadline = time.monotonic() + grace_s
        for name in running:
            self.stop(name, grace_s=max(0, math.ceil(deadline - time.monotonic())))

    # ---- what they say

    def logs(self, name: str, *, tail: int = 200) -> str:
        if self.observe(name) is None or tail <= 0:
            return ""
        with translated():
            return tail_of(self._folder(name) / "log", tail)

    def follow_logs(self, name: str, *, tail: int = 0, after: str = "") -> Iterator[LogLine]:
        if self.observe(name) is None:
            return
        folder = self._folder(name)
        with translated():
            yield from follow(
                folder,
                tail=tail,
                after=after,
                ended=lambda: self._read_state(folder) is not ContainerState.RUNNING,
            )

    def whole_log(self, name: str) -> Iterator[bytes]:
        if self.observe(name) is None:
            return
        with translated():
            yield from whole(self._folder(name))

    def events(self) -> Iterator[RuntimeEvent]:
        before = {item.name: item for item in self.list()}
        return self._events(before)

    def _events(self, before: dict[str, Observation]) -> Iterator[RuntimeEvent]:
        while True:
            after = {item.name: item for item in self.list()}
            for kind, item in changes(before, after):
                yield RuntimeEvent(kind, item.name, item.labels, datetime.now(UTC))
            before = after
            time.sleep(4 * _POLL_S)

    # ---- files

    def _folder(self, name: str) -> Path:
        if not name or name.startswith(".") or "/" in name or len(name) > 200:
            raise InvalidSpec(f"{name!r} is no name for a replica")
        return self._replicas / name

    def _folders(self) -> builtins.list[Path]:
        return [path for path in sorted(self._replicas.iterdir()) if not path.name.startswith(".")]

    def _read(self, name: str) -> Observation | None:
        folder = self._folder(name)
        if not self._replicas.is_dir():
            raise RuntimeUnreachable(
                f"{self._replicas} is missing or no folder: nothing is known about replicas"
            )
        spec = read_json(folder / "spec.json")
        if spec is None:
            return None
        # In this order: a reaper locks, says started, says ended, and dies.
        began = read_json(folder / "started.json")
        alive = lock_holder(folder) is not None
        end = read_json(folder / "exit.json")
        seen = Observation(
            name=name,
            runtime_id=spec["id"],
            state=ContainerState.CREATED,
            labels=spec["labels"],
            started_at=moment(began["at"]) if began else None,
        )
        if end is not None:
            return replace(
                seen,
                state=ContainerState.EXITED,
                exit_code=end["code"],
                oom_killed=end.get("oom", False),
                error=end.get("error", ""),
                finished_at=moment(end["at"]),
            )
        if began is None:
            return seen
        if alive:
            return replace(seen, state=ContainerState.RUNNING, address=Address(HOST, spec["port"]))
        return replace(
            seen,
            state=ContainerState.EXITED,
            exit_code=128 + signal.SIGKILL,
            error="it ended together with its watcher: both were killed, or the machine restarted",
        )

    def _read_state(self, folder: Path) -> ContainerState | None:
        found = self._read(folder.name)
        return found.state if found else None

    def _signal(self, folder: Path, number: signal.Signals) -> bool:
        """Ask the reaper, the replica's parent; False if it has ended.

        The kernel names the lock's holder, so the number is never that of a process which came after it.
        """
        pid = lock_holder(folder)
        if pid is None:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        return True

    def _wait_for_end(self, folder: Path, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while lock_holder(folder) is not None:
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_S / 2)
        return True

    def _kill_all(self, folder: Path) -> None:
        """The reaper itself does not answer (it was stopped, or hangs on a dead disk)."""
        began, reaper = read_json(folder / "started.json"), lock_holder(folder)
        for kill, pid in ((os.killpg, (began or {}).get("pid")), (os.kill, reaper)):
            if pid and reaper:
                with contextlib.suppress(ProcessLookupError):
                    kill(pid, signal.SIGKILL)
        self._wait_for_end(folder, 5)

    def _free_port(self, name: str, avoid: Set[int]) -> int:
        """A port that nobody listens on and no replica of ours was given, tried from one that follows the name."""
        taken = avoid | {
            spec["port"]
            for folder in self._folders()
            if (spec := read_json(folder / "spec.json")) is not None
            and read_json(folder / "exit.json") is None
        }
        first = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
        for step in range(len(PORTS)):
            port = PORTS[(first + step) % len(PORTS)]
            if port not in taken and can_bind(port):
                return port
        raise PortTaken(f"no port of {PORTS.start}–{PORTS.stop - 1} is free")

    @contextlib.contextmanager
    def _exclusive(self) -> Generator[None, None, None]:
        """One at a time, over threads and processes; the kernel lets go however the holder ends."""
        with (self._replicas / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            for path in self._replicas.glob(".*/"):  # drafts of a worker that died
                shutil.rmtree(path, ignore_errors=True)
            yield
