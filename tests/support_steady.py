"""A constant load of requests and long streams whose every answer is known beforehand, and the replicas for it."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from runtimes import images
from runtimes.docker import DockerRuntime
from tests import steady

PORT = 8080
_PATIENCE_S = 60.0  # without a byte


@contextmanager
def image() -> Iterator[str]:
    """An image that runs steady.py, on the Python of our llama.cpp image; gone afterwards."""
    engine = DockerRuntime("steady")
    name = f"berth-test/steady:{secrets.token_hex(6)}"
    with tempfile.TemporaryDirectory(prefix="steady-") as folder:
        shutil.copy(steady.__file__, Path(folder) / "steady.py")
        lines = (
            f"FROM {images.ensure_llama_cpp(engine)}",
            "COPY steady.py /steady.py",
            f'ENTRYPOINT ["{images.PYTHON}", "-I", "/steady.py"]',
        )
        (Path(folder) / "Dockerfile").write_text("\n".join(lines) + "\n")
        (Path(folder) / "steady.py").chmod(0o644)
        engine.build_image(name, Path(folder), {})
    try:
        yield name
    finally:
        engine._api().remove_image(name, force=True)


class Wrong(Exception):
    """An answer that is not the one it has to be."""


@dataclass
class Tally:
    """What became of the requests. failures: (moment, what was asked, what was wrong)."""

    answered: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[float, str, str]] = field(default_factory=list)
    bytes_compared: int = 0

    @property
    def total(self) -> int:
        """Requests that have ended, one way or the other."""
        return sum(self.answered.values()) + len(self.failures)


class Load:
    """Callers that never rest, in a thread of their own.

    streams    how many callers hold a stream at any moment; each of `stream_s` seconds
    shorts     how many callers ask short questions, one after the other with `pause_s` between
    """

    def __init__(
        self, url: str, token: str, *, streams: int, stream_s: float, shorts: int, pause_s: float
    ) -> None:
        parts = urlsplit(url)
        self._host, self._port, self._path = parts.hostname or "", parts.port or 80, parts.path
        self._token = token
        self.streams = streams
        self._shorts, self._pause_s = shorts, pause_s
        self.stream_s = stream_s
        self._events = max(1, round(stream_s / steady.EVERY_S) + 1)
        self.tally = Tally()
        self.open_requests = 0
        self._resting = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """No new requests; those that run are awaited to their last byte."""
        self._stop.set()
        self._thread.join(_PATIENCE_S + 60)
        assert not self._thread.is_alive(), "the load does not end"

    @contextmanager
    def rest(self) -> Iterator[None]:
        """Nobody asks anything while the block runs."""
        self._resting.set()
        deadline = time.monotonic() + _PATIENCE_S
        while self.open_requests:
            assert time.monotonic() < deadline, f"{self.open_requests} requests do not end"
            time.sleep(0.02)
        try:
            yield
        finally:
            self._resting.clear()

    async def _run(self) -> None:
        callers = [self._caller("stream", number) for number in range(self.streams)]
        callers += [self._caller("short", number) for number in range(self._shorts)]
        await asyncio.gather(*callers)

    async def _caller(self, kind: str, number: int) -> None:
        """One client with one connection, as long as that lives."""
        call = 0
        wire: _Wire | None = None
        # They do not all begin at once, so that at any moment some streams have just begun and some are about to end.
        await asyncio.sleep(number * (0.02 if kind == "stream" else 0.01))
        while not self._stop.is_set():
            if self._resting.is_set():
                await asyncio.sleep(0.02)
                continue
            call += 1
            self.open_requests += 1
            began = time.monotonic()
            what = f"{kind} {number}.{call}"
            try:
                if wire is None or wire.closed:
                    wire = await _Wire.open(self._host, self._port)
                await self._call(wire, kind, number, call)
                self.tally.answered[kind] += 1
            except (OSError, Wrong, asyncio.IncompleteReadError, TimeoutError, ValueError) as error:
                told = f"after {time.monotonic() - began:.2f} s: {type(error).__name__}: {error}"
                self.tally.failures.append((time.time(), what, told))
                if wire is not None:
                    wire.close()
                wire = None
                await asyncio.sleep(0.1)
            finally:
                self.open_requests -= 1
            if kind == "short":
                await asyncio.sleep(self._pause_s)
        if wire is not None:
            wire.close()

    async def _call(self, wire: _Wire, kind: str, number: int, call: int) -> None:
        seed = f"{kind}-{number}-{call}"
        if kind == "stream":
            await wire.send("GET", f"{self._path}/events/{seed}/{self._events}", self._token)
            expected = b"".join(steady.event(seed, n) for n in range(self._events))
        elif call % 4 == 0:
            expected = steady.text(seed, 20_000)
            await wire.send("POST", f"{self._path}/echo", self._token, expected)
        else:
            size = 100 + 997 * (call % 7)
            await wire.send("GET", f"{self._path}/short/{seed}/{size}", self._token)
            expected = steady.text(seed, size)
        status, body = await wire.answer()
        if status != 200:
            raise Wrong(f"{status} {body[:200]!r}")
        if body != expected:
            raise Wrong(f"{len(body)} bytes that differ from the {len(expected)} expected: {body[-100:]!r}")
        self.tally.bytes_compared += len(body)


class _Wire:
    """One HTTP/1.1 connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.closed = False

    @classmethod
    async def open(cls, host: str, port: int) -> _Wire:
        return cls(*await asyncio.open_connection(host, port, limit=1 << 20))

    def close(self) -> None:
        self.closed = True
        with suppress(OSError):
            self._writer.close()

    async def send(self, method: str, path: str, token: str, body: bytes = b"") -> None:
        head = f"{method} {path} HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {token}\r\n"
        head += f"content-length: {len(body)}\r\n" if body else ""
        self._writer.write(head.encode() + b"\r\n" + body)
        await self._writer.drain()

    async def answer(self) -> tuple[int, bytes]:
        """(status, whole body)."""
        lines = (await self._timely(self._reader.readuntil(b"\r\n\r\n"))).decode("latin-1").split("\r\n")
        headers = {n.lower(): v.strip() for n, _, v in (line.partition(":") for line in lines[1:])}
        if headers.get("connection") == "close":
            self.closed = True
        status = int(lines[0].split(" ", 2)[1])
        if headers.get("transfer-encoding") == "chunked":
            return status, await self._chunks()
        return status, await self._timely(self._reader.readexactly(int(headers.get("content-length", 0))))

    async def _chunks(self) -> bytes:
        body = b""
        while True:
            size = int(await self._timely(self._reader.readuntil(b"\r\n")), 16)
            data = await self._timely(self._reader.readexactly(size + 2))
            if not size:
                return body
            body += data[:-2]

    async def _timely(self, reading: Awaitable[bytes]) -> bytes:
        return await asyncio.wait_for(reading, _PATIENCE_S)
