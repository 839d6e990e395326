"""One harness a driver, so that one suite can ask all of them the same."""

from __future__ import annotations

import http.server
import shutil
import sys
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

from runtimes import images
from runtimes.contract import Address, ContainerSpec, Mount, Observation, Runtime
from runtimes.docker import DockerRuntime
from runtimes.errors import RuntimeFailure
from runtimes.fake import FakeEngine, FakeRuntime
from runtimes.process import ProcessRuntime
from tests.support import require

REPLICA = Path(__file__).with_name("replica.py")
DEADLINE_S = 30


Value = TypeVar("Value")


def wait_for(look: Callable[[], Value | None], what: str) -> Value:
    """The first true value of `look`, within a deadline."""
    deadline = time.monotonic() + DEADLINE_S
    while not (value := look()):
        assert time.monotonic() < deadline, f"waited {DEADLINE_S} s for {what}"
        time.sleep(0.02)
    return value


def exited(runtime: Runtime, name: str) -> Observation:
    """The replica once it has ended."""

    def look() -> Observation | None:
        seen = runtime.observe(name)
        assert seen is not None, f"{name} has gone"
        return seen if seen.state == "exited" else None

    return wait_for(look, f"{name} to end; it says: {runtime.logs(name)}")


class Driver(Protocol):
    """What the suite needs of a driver.

    runtime    the one under test, of an owner that nobody else has
    another    a second driver of the same place: by the same owner, or a foreign one
    spec       a replica that runs `words` (see replica.py)
    """

    runtime: Runtime

    def another(self, *, foreign: bool = False) -> Runtime: ...

    def spec(self, name: str, *words: str, **fields: Any) -> ContainerSpec: ...

    def close(self) -> None: ...


class DockerDriver:
    """A real engine. Replicas run replica.py with the Python of our llama.cpp image."""

    def __init__(self, folder: Path) -> None:
        self.owner = f"test-{uuid.uuid4().hex[:12]}"
        self.runtime = DockerRuntime(self.owner)
        self.network = f"t{uuid.uuid4().hex[:10]}"
        self.networks = {self.network}
        self._others: list[DockerRuntime] = [self.runtime]
        # Bind mounts keep their modes: a replica's account must be allowed to read.
        self._script = folder / "replica.py"
        shutil.copy(REPLICA, self._script)
        self._script.chmod(0o644)
        try:
            self.image = images.ensure_llama_cpp(self.runtime)
        except RuntimeFailure as error:
            require("docker engine", False, error.evidence)

    def another(self, *, foreign: bool = False) -> DockerRuntime:
        other = DockerRuntime(self.owner + "-foreign" if foreign else self.owner)
        self._others.append(other)
        return other

    def spec(self, name: str, *words: str, **fields: Any) -> ContainerSpec:
        defaults: dict[str, Any] = {
            "image": self.image,
            "port": 8080,
            "entrypoint": (images.PYTHON, "/probe/replica.py"),
            "network": self.network,
            "labels": {},
        }
        mounts = (Mount(str(self._script), "/probe/replica.py"), *fields.pop("mounts", ()))
        return ContainerSpec(name=f"{self.owner}-{name}", command=words, mounts=mounts, **(defaults | fields))

    def close(self) -> None:
        for runtime in self._others:
            for item in runtime.list():
                runtime.remove(item.name)
            for network in self.networks:
                runtime.remove_network(network)


class ProcessDriver:
    """Real processes below a temporary home."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.programs = {
            "probe": (sys.executable, "-I", str(REPLICA)),
            "missing": ("/nonexistent/program",),
        }
        self.runtime = ProcessRuntime(self.home, "test", programs=self.programs)

    def another(self, *, foreign: bool = False) -> ProcessRuntime:
        return ProcessRuntime(self.home, "foreign" if foreign else "test", programs=self.programs)

    def spec(self, name: str, *words: str, **fields: Any) -> ContainerSpec:
        defaults: dict[str, Any] = {"image": "any", "port": 8080, "program": "probe", "labels": {}}
        return ContainerSpec(name=name, command=words, **(defaults | fields))

    def close(self) -> None:
        for foreign in (False, True):
            runtime = self.another(foreign=foreign)
            for item in runtime.list():
                runtime.remove(item.name)


class FakeDriver:
    """The engine in memory; what its containers serve is answered by a real local server."""

    def __init__(self, folder: Path) -> None:
        self.engine = FakeEngine()
        self.runtime = FakeRuntime("test", self.engine)
        self._server = http.server.HTTPServer(("127.0.0.1", 0), _Hello)
        self.engine.address = Address("127.0.0.1", self._server.server_port)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def another(self, *, foreign: bool = False) -> FakeRuntime:
        return FakeRuntime("foreign" if foreign else "test", self.engine)

    def spec(self, name: str, *words: str, **fields: Any) -> ContainerSpec:
        return ContainerSpec(name=name, command=words, **({"image": "any", "port": 8080} | fields))

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Hello(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, format: str, *args: object) -> None:
        pass
