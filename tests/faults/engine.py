"""A Docker Engine of our own, which may be killed, and plain HTTP over its socket: no client library, no driver."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.support_processes import eventually

Json = dict[str, Any]
# A second engine on one machine must leave the first one's firewall rules and bridge alone.
_ALONE = ("--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-masq=false", "--ip-forward=false")


class EngineAway(Exception):
    """Nobody answers on the engine's socket."""


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float | None) -> None:
        super().__init__("engine")
        self._path, self._timeout_s = str(path), timeout_s

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self._timeout_s)
        self.sock.connect(self._path)


class EngineApi:
    """What we ask it. Every method raises EngineAway if it does not answer; what is missing is None or fine."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def ping(self) -> bool:
        """Whether it answers."""
        with suppress(EngineAway):
            return self._call("GET", "/_ping", timeout_s=5)[0] == 200
        return False

    def containers(self, label: str = "") -> list[Json]:
        """All of them, dead ones included, inspected."""
        filters = quote(json.dumps({"label": [label]} if label else {}))
        rows = self._json("GET", f"/containers/json?all=1&filters={filters}") or []
        found = [self._json("GET", f"/containers/{row['Id']}/json") for row in rows]
        return [one for one in found if one]

    def networks(self, label: str) -> list[Json]:
        """Those that carry the label."""
        filters = quote(json.dumps({"label": [label]}))
        return list(self._json("GET", f"/networks?filters={filters}") or [])

    def events(self) -> Iterator[Json]:
        """Containers' events from now on, until the engine goes away."""
        connection = _Connection(self.path, None)
        try:
            filters = quote(json.dumps({"type": ["container"]}))
            connection.request("GET", f"/events?filters={filters}")
            answer = connection.getresponse()
            yield {"Action": "subscribed"}
            while line := answer.readline():
                yield json.loads(line)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise EngineAway(str(error)) from error
        finally:
            connection.close()

    def create(self, name: str, config: Json) -> str:
        """A container; returns its id."""
        made = self._json("POST", f"/containers/create?name={name}", config)
        assert made, f"{name} could not be created"
        return str(made["Id"])

    def start(self, name: str) -> None:
        """Start it."""
        self._call("POST", f"/containers/{name}/start")

    def pause(self, name: str, *, undo: bool = False) -> None:
        """Freeze it by the kernel's freezer, or thaw it."""
        self._call("POST", f"/containers/{name}/{'unpause' if undo else 'pause'}")

    def remove(self, name: str) -> None:
        """At once, running or not."""
        self._call("DELETE", f"/containers/{name}?force=1&v=1")

    def remove_image(self, name: str) -> None:
        """Its name, and its layers if nobody else has them."""
        self._call("DELETE", f"/images/{name}?force=1")

    def create_network(self, name: str, labels: dict[str, str]) -> None:
        """An internal one."""
        self._call("POST", "/networks/create", {"Name": name, "Internal": True, "Labels": labels})

    def remove_network(self, name: str) -> None:
        """A network that nobody is on."""
        self._call("DELETE", f"/networks/{name}")

    def import_image(self, name: str, archive: Path, changes: list[str]) -> None:
        """An image of one layer from a tar file."""
        query = "&".join(f"changes={quote(change)}" for change in changes)
        repository, _, tag = name.rpartition(":")
        status, body = self._call(
            "POST", f"/images/create?fromSrc=-&repo={repository}&tag={tag}&{query}", archive.read_bytes()
        )
        assert status == 200, body
        assert b'"error"' not in body, body

    def pull(self, name: str) -> None:
        """From a registry, now."""
        status, body = self._call("POST", f"/images/create?fromImage={quote(name, safe='/:')}")
        assert status == 200, body
        assert b'"error"' not in body, body

    def _json(self, method: str, target: str, body: Json | None = None) -> Any:
        status, answer = self._call(method, target, body)
        return json.loads(answer) if status < 300 and answer else None

    def _call(
        self, method: str, target: str, body: Json | bytes | None = None, timeout_s: float = 60
    ) -> tuple[int, bytes]:
        connection = _Connection(self.path, timeout_s)
        raw = json.dumps(body).encode() if isinstance(body, dict) else body
        try:
            connection.request(method, target, raw, {"Content-Type": "application/json"} if raw else {})
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise EngineAway(f"{method} {target}: {error}") from error
        finally:
            connection.close()


class Engine:
    """dockerd on a socket and a data root of its own, with the stand-in NVIDIA hook on its PATH."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.folder, self.data = folder, data
        self.api = EngineApi(folder / "engine.sock")
        self.log = folder / "engine.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        tools = self.folder / "bin"
        tools.mkdir(exist_ok=True)
        with suppress(FileExistsError):
            (tools / "nvidia-container-runtime-hook").symlink_to("/bin/true")
        path = f"{tools}:{os.environ['PATH']}:/usr/sbin:/sbin"
        program = shutil.which("dockerd", path=path)
        assert program, "no dockerd on PATH"
        pid_file = self.folder / "engine.pid"
        pid_file.unlink(missing_ok=True)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(program, "--data-root", str(self.data), "--exec-root", str(self.folder / "exec")),
                    *("--pidfile", str(pid_file), "--host", f"unix://{self.api.path}", *_ALONE),
                ],
                env={**os.environ, "PATH": path},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        eventually(self.api.ping, "our engine answers", 60)

    def kill(self) -> None:
        """kill -9; containerd goes with it, containers stay until the next start."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(10)
        # Where nobody reaps orphans the dead containerd still has its pid, and the next engine would wait for it.
        pid_file = self.folder / "exec" / "containerd" / "containerd.pid"
        with suppress(OSError, ValueError):
            os.kill(int(pid_file.read_text()), signal.SIGKILL)
        pid_file.unlink(missing_ok=True)

    def stop(self) -> None:
        """Remove all containers and networks, then end."""
        if self._process is None or self._process.poll() is not None:
            return
        with suppress(EngineAway):
            for container in self.api.containers():
                self.api.remove(container["Id"])
            for network in self.api.networks("berth.owner"):
                self.api.remove_network(network["Id"])
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self.kill()


@contextmanager
def running_engine(folder: Path, data: Path) -> Iterator[Engine]:
    """An engine while the block runs; its containers are gone afterwards."""
    engine = Engine(folder, data)
    began = time.monotonic()
    try:
        engine.start()
        assert time.monotonic() - began < 60
        yield engine
    finally:
        engine.stop()
