"""Health probes of containers that nobody vouches for."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from endpoints.reconciler import probe

GOOD = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"


@contextmanager
def server(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server whose connections are each handed to `answer`."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def accept() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

        def serve(connection: socket.socket) -> None:
            with connection:
                try:
                    connection.recv(4096)
                    answer(connection)
                except OSError:
                    return

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/health"
        listening.shutdown(socket.SHUT_RDWR)


def drip(connection: socket.socket) -> None:
    """Each byte comes long before a read times out; the answer never ends."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nx: ")
    while True:
        connection.sendall(b"x")
        time.sleep(0.05)


def flood(connection: socket.socket) -> None:
    """A healthy status, and then a body without end."""
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        connection.sendall(b"x" * 65536)


def test_the_good_are_told_from_the_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n"
    loading = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"
    with (
        server(lambda connection: connection.sendall(GOOD)) as good,
        server(lambda connection: connection.sendall(loading)) as busy,
        server(lambda connection: connection.sendall(elsewhere)) as redirecting,
        server(lambda connection: connection.sendall(b"nonsense\r\n\r\n")) as nonsense,
    ):
        urls = {"good": good, "busy": busy, "redirecting": redirecting, "nonsense": nonsense}
        urls |= {"absent": "http://127.0.0.1:1/health", "broken": "http://[half/"}
        assert probe.healthy(urls) == {"good"}


def test_nobody_holds_a_worker_for_longer_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "LIMIT_S", 0.5)
    with server(drip) as dripping, server(flood) as flooding, server(lambda c: time.sleep(30)) as silent:
        urls = {f"dripping-{number}": dripping for number in range(8)}
        urls |= {f"silent-{number}": silent for number in range(8)} | {"flooding": flooding}
        began = time.monotonic()
        assert probe.healthy(urls) == {"flooding"}
        # Seventeen one after another would take more than eight seconds; a dripping one alone, for ever.
        assert time.monotonic() - began < 5
