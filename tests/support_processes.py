"""Starting a front or a whole platform in tests, reading what it prints, and leaving nothing behind."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import psutil

from config.places import socket_dir

ROOT = Path(__file__).resolve().parents[1]
T = TypeVar("T")
PYTHONPATH = os.pathsep.join([str(ROOT / "platform"), str(ROOT)])


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens on now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def eventually(look: Callable[[], T], what: str, timeout_s: float = 30.0) -> T:
    """The first true answer of `look`; fails the test, naming `what`, if there is none in time."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.05)


class Running:
    """A started command, its output so far, and its descendants."""

    def __init__(self, process: subprocess.Popen[bytes], output: Path) -> None:
        self.process = process
        self.output = output
        self.pid = process.pid

    @property
    def text(self) -> str:
        """Everything printed so far."""
        return self.output.read_text(errors="replace")

    def line(self, pattern: str, timeout_s: float = 15.0) -> re.Match[str]:
        """The first match of `pattern` in the output."""
        found = re.compile(pattern, re.MULTILINE)
        deadline = time.monotonic() + timeout_s
        while not (match := found.search(self.text)):
            ended = self.process.poll() is not None
            assert not ended or found.search(self.text), f"ended before {pattern!r}:\n{self.text}"
            assert time.monotonic() < deadline, f"no {pattern!r} within {timeout_s} s:\n{self.text}"
            time.sleep(0.05)
        return match

    def children(self) -> dict[str, psutil.Process]:
        """The front's processes by their names there."""
        found = {}
        for child in psutil.Process(self.pid).children():
            with suppress(psutil.Error, KeyError):
                # Redis writes its title over its environment.
                name = (
                    "redis" if child.name() == "redis-server" else child.environ()["SUPERVISOR_PROCESS_NAME"]
                )
                found[name] = child
        return found

    def send(self, number: int) -> None:
        """Send a signal to the front alone."""
        self.process.send_signal(number)

    def stop(self, number: int = signal.SIGINT, timeout_s: float = 15.0) -> float:
        """Ask it to end; returns the seconds it took."""
        began = time.monotonic()
        self.send(number)
        self.process.wait(timeout_s)
        return time.monotonic() - began


def processes_of(home: Path) -> list[psutil.Process]:
    """Every process that was started for this home.

    Ours carry its name in their environment. Redis writes its title over that but names its socket; replicas get a
    clean environment but files below the home.
    """
    marks = (str(socket_dir(home) / "redis.sock"), f"{home}/")
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
            command = " ".join(process.cmdline())
            if process.environ().get("BERTH_SUPERVISED") == str(home) or any(
                mark in command for mark in marks
            ):
                found.append(process)
    return found


@contextmanager
def started(
    command: list[str], home: Path, env: dict[str, str] | None = None, cwd: Path = ROOT
) -> Iterator[Running]:
    """Run a command with its output in a file; whatever happens, nothing of this home is left afterwards."""
    output = home.parent / f"{home.name}-{time.monotonic_ns()}.out"
    with output.open("wb") as file:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": PYTHONPATH, "PYTHONUNBUFFERED": "1", **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    running = Running(process, output)
    try:
        yield running
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(15)
        for left in processes_of(home):
            with suppress(psutil.Error):
                left.kill()
        if process.poll() is None:
            process.kill()
        process.wait(5)


def python(*arguments: str) -> list[str]:
    """This interpreter with arguments."""
    return [sys.executable, *arguments]
