"""A model server of a test's own, on a free loopback port: what it was sent is kept, what it answers is the test's."""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from gateway.targets import ReplicaTarget


@dataclass
class Exchange:
    """One request as a replica saw it, and the connection to answer on."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    connection: socket.socket
    reader: Any

    def header(self, name: str) -> str | None:
        return next((v for n, v in self.headers if n.lower() == name.lower()), None)

    def send(self, data: bytes) -> None:
        self.connection.sendall(data)

    def chunk(self, data: bytes) -> None:
        self.send(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def answer(self, body: bytes, status: str = "200 OK", content_type: str = "application/json") -> None:
        self.send(
            f"HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: {len(body)}\r\n\r\n".encode()
            + body
        )

    def body(self) -> Iterator[bytes]:
        """The request's body as it comes in; ConnectionError if it breaks off."""
        length = self.header("content-length")
        if length is not None:
            left = int(length)
            while left:
                data = self.reader.read1(min(left, 65536))
                if not data:
                    raise ConnectionError("the request broke off")
                left -= len(data)
                yield data
        elif (self.header("transfer-encoding") or "").lower() == "chunked":
            while True:
                line = self.reader.readline()
                if not line:
                    raise ConnectionError("the request broke off")
                size = int(line.strip(), 16)
                data = self.reader.read(size)
                if len(data) < size:
                    raise ConnectionError("the request broke off")
                if not size:
                    while self.reader.readline().strip():
                        pass  # trailers
                    return
                self.reader.readline()
                yield data


class Replica:
    """A model server on a free loopback port. `handler` answers; the default tells what it was sent."""

    def __init__(self, handler: Callable[[Exchange], None] | None = None, name: str = "r") -> None:
        self.name = name
        self.handler = handler or self.echo
        self.seen: list[Exchange] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = int(self._listener.getsockname()[1])
        self._open: set[socket.socket] = set()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def target(self) -> ReplicaTarget:
        return ReplicaTarget(f"{self.name}-{self.port}", "127.0.0.1", self.port)

    def close(self) -> None:
        """Gone, at once: no listener, every connection reset."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in list(self._open):
            self.reset(connection)

    @staticmethod
    def reset(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        connection.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._open.add(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        reader = connection.makefile("rb")
        with contextlib.suppress(OSError, ValueError):
            while line := reader.readline():
                method, target, _ = line.decode("latin-1").split(" ", 2)
                headers = []
                while (header := reader.readline().decode("latin-1").strip()) != "":
                    name, _, value = header.partition(":")
                    headers.append((name.strip(), value.strip()))
                exchange = Exchange(method, target, headers, connection, reader)
                self.seen.append(exchange)
                self.handler(exchange)
        self._open.discard(connection)
        with contextlib.suppress(OSError):
            connection.close()

    def echo(self, exchange: Exchange) -> None:
        digest, size = hashlib.sha256(), 0
        for data in exchange.body():
            digest.update(data)
            size += len(data)
        told = {
            "replica": self.name,
            "method": exchange.method,
            "target": exchange.target,
            "headers": exchange.headers,
            "body_bytes": size,
            "body_sha256": digest.hexdigest(),
        }
        exchange.answer(json.dumps(told).encode())
