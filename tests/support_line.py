"""A line before a server: bytes pass at a pace, stand still, or break, and the server never notices."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

PIECE = 16_384


class Line:
    """A TCP proxy on a loopback port.

    bytes_per_s   how fast the server's bytes pass, over all connections; None: as they come
    passed        how many of the server's bytes have passed
    """

    def __init__(self, target: str, bytes_per_s: float | None = None) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self.bytes_per_s = bytes_per_s
        self.passed = 0
        self._hold_after: int | None = None
        self._cut_after: int | None = None
        self._flow = threading.Event()
        self._flow.set()
        self._guard = threading.Lock()
        self._open: list[socket.socket] = []
        self._listener: socket.socket | None = None
        self._port = 0
        self._due = 0.0

    @property
    def address(self) -> str:
        """host:port of this end."""
        return f"127.0.0.1:{self._port}"

    def open(self) -> None:
        """Take connections, on the same port as before."""
        listener = socket.create_server(("127.0.0.1", self._port), reuse_port=False)
        self._port = listener.getsockname()[1]
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def hold(self, after: int = 0) -> None:
        """Connections stay and nothing passes any more, once `after` more bytes have passed."""
        self._hold_after = self.passed + after
        if not after:
            self._flow.clear()

    def go_on(self) -> None:
        """What waited passes."""
        self._hold_after = None
        self._flow.set()

    def cut(self, after: int | None = None) -> None:
        """Every connection breaks and new ones are refused: now, or once `after` more bytes have passed."""
        if after is not None:
            self._cut_after = self.passed + after
            return
        self._cut_after = None
        if self._listener is not None:
            with suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        self._flow.set()
        with self._guard:
            ends, self._open = self._open, []
        for one in ends:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._target, timeout=10)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            with self._guard:
                self._open += [client, server]
            threading.Thread(target=self._up, args=(client, server), daemon=True).start()
            threading.Thread(target=self._down, args=(server, client), daemon=True).start()

    def _up(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def _down(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(PIECE):
                self._wait(len(data))
                sink.sendall(data)
                self.passed += len(data)
                if self._hold_after is not None and self.passed >= self._hold_after:
                    self._flow.clear()
                if self._cut_after is not None and self.passed >= self._cut_after:
                    self.cut()
            sink.shutdown(socket.SHUT_WR)

    def _wait(self, size: int) -> None:
        self._flow.wait()
        if not self.bytes_per_s:
            return
        with self._guard:
            now = time.monotonic()
            self._due = max(self._due, now) + size / self.bytes_per_s
            pause = self._due - now
        time.sleep(pause)
        self._flow.wait()


@contextmanager
def line_to(target: str, bytes_per_s: float | None = None) -> Iterator[Line]:
    """A line to `target` (host:port) while the block runs."""
    line = Line(target, bytes_per_s)
    line.open()
    try:
        yield line
    finally:
        line.cut()
