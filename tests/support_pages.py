"""Servers that print metrics as model servers do: a good one in a process of its own, and bad ones in a thread."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress

# One line of HELP and TYPE a series, as clients of Prometheus print them. {} is the number of the answer, times 100.
LLAMA = "".join(
    f"# HELP llamacpp:{name} {words}\n# TYPE llamacpp:{name} {kind}\nllamacpp:{name} {value}\n"
    for name, words, kind, value in (
        ("prompt_tokens_total", "Prompt tokens", "counter", "{}"),
        ("prompt_tokens_cached_total", "Prompt tokens from the cache", "counter", "7"),
        *((f"other_{number}_seconds_total", "Some time", "counter", "0.25") for number in range(8)),
        ("tokens_predicted_total", "Generated tokens", "counter", "{}"),
        ("requests_processing", "Requests in the works", "gauge", "2"),
        ("requests_deferred", "Requests that wait", "gauge", "3"),
    )
)
_SERVER = """
import asyncio, sys

page, count = sys.stdin.read(), 0

class Answer(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
    def data_received(self, data):
        global count
        count += 1
        body = page.replace("{}", str(count * 100)).encode()
        head = b"HTTP/1.1 200 OK\\r\\nContent-Type: text/plain\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(body)
        self.transport.write(head + body)
        self.transport.close()

async def main():
    server = await asyncio.get_running_loop().create_server(Answer, "127.0.0.1", 0, backlog=512)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()

asyncio.run(main())
"""

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextmanager
def page_server(page: str = LLAMA) -> Iterator[int]:
    """Its port. In a process of its own: its time must not be taken for ours."""
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(page)
        process.stdin.close()
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.wait(10)
        process.stdout.close()


@contextmanager
def handled(handler: Handler) -> Iterator[int]:
    """The port of a server that treats every connection so."""

    async def quietly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await handler(reader, writer)
        writer.close()

    async def end() -> None:
        server.close()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(quietly, "127.0.0.1", 0, backlog=512))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        asyncio.run_coroutine_threadsafe(end(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def saying(*parts: bytes, pause_s: float = 0) -> Handler:
    """Sends the parts, with a pause before each but the first, and closes."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for number, part in enumerate(parts):
            await asyncio.sleep(pause_s if number else 0)
            writer.write(part)
            await writer.drain()

    return handle


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Takes the connection and says nothing."""
    await asyncio.sleep(60)


async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Sends without end."""
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        writer.write(b"llamacpp:requests_deferred 1\n" * 2000)
        await writer.drain()


def whole(body: bytes, *, status: str = "200 OK", more: str = "") -> bytes:
    """An answer that says how long it is."""
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{more}\r\n".encode() + body
