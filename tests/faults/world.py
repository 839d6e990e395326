"""The real stack that scenarios share: an engine of its own behind a door, a registry, a small model volume, a clock
that jumps, and `manage.py up` on top. A world that broke is thrown away."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.faults import image, rows
from tests.faults.clock import Clock
from tests.faults.engine import Engine, running_engine
from tests.faults.load import Answer, ask
from tests.faults.person import Person
from tests.faults.registry import Registry, running_registry
from tests.faults.watch import Seen, Watch
from tests.support_days import EngineDoor
from tests.support_hub import Hub, running_hub
from tests.support_platform import Place, place, platform
from tests.support_processes import ROOT, Running, eventually, processes_of

PREFIX, PID = "faults-", "maker.pid"
KEPT = ROOT / "var" / "faults"
VOLUME_BYTES = 8 * 1024 * 1024
GPU_MODEL, GPUS = "faults-gpu", 3
CPU_TYPE, GPU_TYPE = "faults-cpu", "faults-gpu"
SUBNETS = "10.217.0.0/16"  # nobody else on this machine takes from it
PORT = 8000
BYSTANDER = "bystander"
OTHER = "faults-other"  # another installation on the same engine


@dataclass
class World:
    """All of it, running."""

    folder: Path
    where: Place
    engine: Engine
    door: EngineDoor
    registry: Registry
    hub: Hub
    clock: Clock
    running: Running
    person: Person
    watch: Watch
    bystander: str = ""
    count: int = 0
    helpers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def gateway(self) -> str:
        """Where endpoints are called."""
        return f"http://localhost:{self.where.gateway_port}"

    @property
    def database(self) -> Path:
        """The platform's rows."""
        return self.where.home / "berth.sqlite3"

    @property
    def owner(self) -> str:
        """The label value of everything that this platform makes."""
        return (self.where.home / "keys" / "owner").read_text().strip()[:32]

    @property
    def volume(self) -> Path:
        """Where imported weights lie."""
        return self.where.home / "weights"

    def process(self, name: str) -> psutil.Process:
        """One of the platform's processes by its name there, or the gateway's Envoy."""
        if name == "envoy":
            return psutil.Process(
                int(json.loads((self.where.home / "gateway" / "envoy.json").read_text())["pid"])
            )
        return eventually(lambda: self.running.children().get(name), f"{name} runs", 30)

    def model(self, name: str, identity: str, *, ready_s: float, tag: str) -> str:
        """A registered custom image whose replicas answer with `identity`; its id."""
        made = self.person.create(
            "models",
            {
                **{"name": name, "framework": "custom", "source": "image", "task": "other"},
                **{"image": self.registry.image(tag), "port": PORT, "health_path": "/health"},
                "command": [str(PORT), identity, f"{ready_s:.2f}"],
            },
        )
        eventually(lambda: rows.model(self.database, name) == ("READY", ""), f"model {name} is READY", 60)
        return str(made["id"])

    def ask(self, endpoint: str, token: str = "") -> Answer:
        """One request through the gateway."""
        return ask(f"{self.gateway}/v1/{endpoint}", token)

    def status(self, endpoint: str) -> str:
        """Its row's status; "" if it is gone."""
        with closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True, timeout=20)) as table:
            found = table.execute(
                "SELECT status FROM endpoints_endpoint WHERE id = ?", (endpoint,)
            ).fetchone()
        return str(found[0]) if found else ""

    def second_worker(self) -> subprocess.Popen[bytes]:
        """One more process that reconciles, with the same queue."""
        first = self.process("worker")
        command = [
            word.replace("worker@berth", f"second{len(self.helpers)}@berth") for word in first.cmdline()
        ]
        with (self.where.home / "log" / "second.log").open("ab") as log:
            made = subprocess.Popen(
                command, cwd=ROOT, env={**os.environ, **first.environ()}, stdout=log, stderr=log
            )
        self.helpers.append(made)
        return made

    def end_helpers(self) -> None:
        """The platform has one worker again."""
        while self.helpers:
            helper = self.helpers.pop()
            helper.kill()
            helper.wait(10)

    def keep(self, target: Path) -> None:
        """Copy what tells what happened."""
        target.mkdir(parents=True, exist_ok=True)
        shutil.copytree(self.where.home / "log", target / "log", dirs_exist_ok=True)
        for file in (self.running.output, self.engine.log, self.where.home / "gateway" / "envoy.log"):
            with suppress(OSError):
                shutil.copy(file, target / file.name)
        with (
            closing(sqlite3.connect(self.database)) as live,
            closing(sqlite3.connect(target / "rows.sqlite3")) as copy,
        ):
            live.backup(copy)
        with (target / "seen.txt").open("w") as file:
            for one in self.watch.seen:
                file.write(f"{one.at:.3f} {one.source} {one.kind} {one.subject} {one.endpoint} {one.old} → {one.new}"
                           f" {one.labels.get('name', '')}\n")  # fmt: skip


class Worlds:
    """A world as long as it is whole; a new one after a failure. Nothing is left at the end."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._world: World | None = None

    def __enter__(self) -> Worlds:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def get(self) -> World:
        """The present one."""
        if self._world is None:
            self._world = self._stack.enter_context(running_world())
        return self._world

    def throw_away(self) -> None:
        """End it: it is not as it should be."""
        self._world = None
        self._stack.close()


@contextmanager
def running_world() -> Iterator[World]:
    """Everything, while the block runs; nothing of it is left afterwards."""
    with ExitStack() as stack:
        # Short: unix sockets' paths hold a hundred bytes.
        _remove_left_behind()
        folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        (folder / PID).write_text(str(os.getpid()))
        stack.callback(_remove, folder)
        folder.chmod(0o755)
        archive = folder / "layer.tar"
        image.write_layer(archive)
        engine = stack.enter_context(running_engine(folder, folder / "engine"))
        registry = stack.enter_context(running_registry(archive, image.CONFIG))
        hub = stack.enter_context(running_hub())
        engine.api.pull(registry.image("base"))
        door = EngineDoor(folder / "door.sock", str(engine.api.path))
        door.open()
        stack.callback(door.shut)
        where = place(folder, "docker")
        stack.enter_context(_small_volume(where.home / "weights"))
        clock = Clock(folder)
        env = {
            "DOCKER_HOST": door.url,
            "BERTH_SUBNET_POOL": SUBNETS,
            "HF_ENDPOINT": hub.endpoint,
            **clock.env,
        }
        stack.callback(_end_processes, where.home)
        running = stack.enter_context(platform(where, env=env))
        running.line(r"Berth is up after", 120)
        login = running.line(r"first admin +(\S+) +password (\S+)")
        person = Person(where.console, (login[1], login[2]))
        stack.callback(person.close)
        watch = Watch(where.home / "berth.sqlite3", engine.api)
        registry.on_pull = lambda tag: watch.add(Seen(time.monotonic(), "registry", "pulling", tag))
        hub.on_download = lambda name: watch.add(Seen(time.monotonic(), "hub", "downloading", name))
        watch.start()
        stack.callback(watch.stop)
        world = World(folder, where, engine, door, registry, hub, clock, running, person, watch)
        stack.callback(world.end_helpers)
        try:
            _furnish(world)
        except AssertionError as error:
            raise AssertionError(f"{error}; the platform's last words:\n{running.text[-6000:]}") from error
        yield world


def _furnish(world: World) -> None:
    """Instance types, GPUs, and an endpoint that nothing is ever done to."""
    eventually(lambda: _node(world), "the platform has found its node", 30)
    with closing(sqlite3.connect(world.database, timeout=20)) as table, table:
        columns = (
            "name, family, vcpu, memory_gib, gpu, gpu_count, vram_gib_per_gpu, currency, position, enabled"
        )
        for name, gpu in ((CPU_TYPE, ""), (GPU_TYPE, GPU_MODEL)):
            values = (name, "FAULTS", 0.2, 0.0625, gpu, 1 if gpu else 0, 8 if gpu else 0, "VND", 0, 1)
            table.execute(
                f"INSERT INTO endpoints_instancetype ({columns}) VALUES (?,?,?,?,?,?,?,?,?,?)", values
            )
        for index in range(GPUS):
            table.execute(
                'INSERT INTO endpoints_gpu (uuid, node_id, "index", model, name, vram_bytes, enabled, found, use)'
                " VALUES (?,?,?,?,'',?,1,0,'[]')",
                (f"GPU-faults-{index}", _node(world), index, GPU_MODEL, 8 * 1024**3),
            )
    model = world.model(BYSTANDER, BYSTANDER, ready_s=0.1, tag="base")
    body = {**endpoint_body(BYSTANDER, model), "private": False}
    world.bystander = world.person.create("endpoints", body)["id"]
    eventually(lambda: world.status(world.bystander) == "ACTIVE", "the bystander is ACTIVE", 60)


def _node(world: World) -> str:
    with closing(sqlite3.connect(f"file:{world.database}?mode=ro", uri=True, timeout=20)) as table:
        found = table.execute("SELECT name FROM endpoints_node").fetchone()
    return str(found[0]) if found else ""


def endpoint_body(name: str, model: str, replicas: int = 1, *, gpu: bool = False) -> dict[str, object]:
    """What the API takes to create an endpoint."""
    return {
        **{"name": name, "region": "HCM", "model": model, "instance_type": GPU_TYPE if gpu else CPU_TYPE},
        **{"min_replicas": replicas, "max_replicas": 3, "private": True},
    }


@contextmanager
def _small_volume(folder: Path) -> Iterator[None]:
    """A file system of its own, so that it can be full."""
    folder.mkdir(parents=True, mode=0o700)
    size = f"size={VOLUME_BYTES},mode=0700"
    subprocess.run(["mount", "-t", "tmpfs", "-o", size, "faults", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False)


def _end_processes(home: Path) -> None:
    """Whoever was started anew in the last moment."""
    for process in processes_of(home):
        with suppress(psutil.Error):
            process.send_signal(signal.SIGKILL)


def _remove_left_behind() -> None:
    """Worlds whose maker was killed."""
    for mark in Path(tempfile.gettempdir()).glob(f"{PREFIX}*/{PID}"):
        with suppress(OSError, ValueError):
            if not psutil.pid_exists(int(mark.read_text())):
                _remove(mark.parent)


def _remove(folder: Path) -> None:
    """A killed engine leaves its containers' mounts and shims behind."""
    _end_processes(folder / "home")
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if str(folder) in " ".join(process.cmdline()):
                process.kill()
    for line in reversed(Path("/proc/mounts").read_text().splitlines()):
        target = line.split()[1]
        if re.match(rf"{re.escape(str(folder))}/", target):
            subprocess.run(["umount", "--lazy", target], check=False)
    shutil.rmtree(folder, ignore_errors=True)
