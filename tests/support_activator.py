"""An activator as its own process beside a real gateway, and a control plane that wakes what it is asked to."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from gateway.secret import activator_secret
from gateway.targets import EndpointTarget, Serving
from tests.support_gateway import ROOT, Answer, World, endpoint, until
from tests.support_replica import Exchange, Replica

CHAT = "/v1/me-1/v1/chat/completions"


def sleeping(name: str, **fields: Any) -> EndpointTarget:
    """An endpoint whose requests are held."""
    return endpoint(name, serving=Serving.HOLD, status="", **fields)


class Activator:
    """The process. `words` are more of its command line."""

    def __init__(self, plane_url: str, token_file: Path, *words: str, listen: str = "") -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="act-")
        self.address = listen or f"unix:{self._directory.name}/activator.sock"
        self.log = Path(self._directory.name) / "log"
        self._command = [sys.executable, "-m", "activator", "--listen", self.address, "--control", plane_url]
        self._command += ["--token-file", str(token_file), "--id", "a-1", *words]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Activator:
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "platform")}
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(self._command, stdout=output, stderr=output, env=environment)
        until(self.listens, what=f"the activator listens: {self.log.read_text()}")
        return self

    def listens(self) -> bool:
        assert self.process is None or self.process.poll() is None, self.log.read_text()
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(self.address.removeprefix("unix:"))
            except OSError:
                return False
        return True

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(10)

    def memory_mb(self) -> float:
        assert self.process is not None
        return float(psutil.Process(self.process.pid).memory_info().rss / 2**20)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._directory.cleanup()


_WAKING = {"state": "waking", "phase": "loading model", "eta_s": 12.0}


class Bedroom:
    """One endpoint that sleeps, behind a real gateway and a real activator.

    wakes   how often the control plane had to start a replica
    asked   all that the activator told
    """

    def __init__(self, world: World, *words: str, **fields: Any) -> None:
        self.world = world
        self.asked: list[dict[str, Any]] = []
        self.wakes = 0
        self.words: dict[str, Any] = dict(_WAKING)
        self.words_of: dict[str, dict[str, Any]] = {}  # where they differ
        self._lock = threading.Lock()
        world.plane.activation = self.answer
        self.activator = Activator(world.plane.url, world.gateway.token_file, *words)
        world.on_close(self.close)
        self.activator.start()
        self._more = {
            "activator": self.activator.address,
            "activator_secret": activator_secret(world.plane.token),
        }
        self.target = sleeping("me-1", **fields)
        world.plane.publish(self.target, **self._more)
        if world.gateway.agent is None:
            world.gateway.ready()
        else:
            world.gateway.publish(self.target, **self._more)

    def close(self) -> None:
        self.activator.close()

    def anew(self) -> Bedroom:
        """As at the beginning, for the next test."""
        if self.activator.process is None or self.activator.process.poll() is not None:
            self.activator.start()
        present = self.world.plane.targets
        if (present.endpoints, present.activator) != ((self.target,), self.activator.address):
            self.world.gateway.publish(self.target, **self._more)
        with self._lock:
            self.asked, self.wakes, self.words, self.words_of = [], 0, dict(_WAKING), {}
        return self

    def answer(self, said: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            self.asked.append(said)
            waiting = {key: one for key, one in said["waiting"].items() if one["count"]}
            if waiting and not self.wakes:
                self.wakes = 1
            return {key: self.words_of.get(key, self.words) for key in waiting}

    def wake(self, *replicas: Replica) -> None:
        """The control plane has these ready."""
        self.words = {"state": "ready", "replicas": [["127.0.0.1", one.port] for one in replicas]}

    def fail(self, **words: Any) -> None:
        self.words = {"state": "failed", **words}

    def waiting(self) -> int:
        return int(sum(one["count"] for one in self.asked[-1]["waiting"].values())) if self.asked else 0

    def until_waiting(self, count: int, timeout_s: float = 15) -> None:
        until(lambda: self.waiting() == count, timeout_s, f"{count} requests wait, not {self.waiting()}")


def in_threads(count: int, work: Callable[[int], Any]) -> tuple[list[threading.Thread], list[Any]]:
    """`work(0…count-1)`, each in a thread that runs already; their results come into the list."""
    results: list[Any] = [None] * count

    def one(number: int) -> None:
        results[number] = work(number)

    threads = [threading.Thread(target=one, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    return threads, results


def joined(threads: list[threading.Thread], timeout_s: float = 30) -> None:
    """All of them have ended."""
    deadline = time.monotonic() + timeout_s
    for thread in threads:
        thread.join(max(0.1, deadline - time.monotonic()))
        assert not thread.is_alive(), "a request was never answered"


def streaming(*pieces: bytes, content_type: str = "text/event-stream") -> Callable[[Exchange], None]:
    """A replica's handler: reads the request, answers with these pieces as chunks."""

    def handle(exchange: Exchange) -> None:
        b"".join(exchange.body())
        exchange.send(
            f"HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ntransfer-encoding: chunked\r\n\r\n".encode()
        )
        for piece in pieces:
            exchange.chunk(piece)
        exchange.send(b"0\r\n\r\n")

    return handle


def send(world: World, path: str = CHAT, body: bytes = b"{}", method: str = "POST", **headers: str) -> Answer:
    given = {"content-type": "application/json"} | {k.replace("_", "-"): v for k, v in headers.items()}
    return world.gateway.call(method, path, token=world.key.token(), body=body, headers=given)


def chat(world: World, stream: bool = False) -> Answer:
    return send(world, body=json.dumps({"model": "m", "messages": [], "stream": stream}).encode())


def data_of(answer: Answer) -> list[str]:
    """The events of a stream; comments left out."""
    return [
        line.removeprefix("data: ") for line in answer.body.decode().split("\n") if line.startswith("data: ")
    ]


def leaver(world: World, size: int, path: str = CHAT) -> socket.socket:
    """A caller who has sent as much of its body as is taken."""
    caller = world.gateway.raw()
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {world.key.token()}\r\n"
    caller.sendall(f"{head}content-length: {size}\r\n\r\n".encode())
    caller.settimeout(0.5)
    with contextlib.suppress(TimeoutError):
        while size > 0:
            size -= caller.send(b"x" * min(size, 65536))
    return caller
