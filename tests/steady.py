"""A model server for load tests: every answer follows from its address, so that a caller knows each byte beforehand.

python steady.py PORT

GET  /health              200
GET  /short/SEED/SIZE     SIZE bytes
POST /echo                the request's body
GET  /events/SEED/COUNT   COUNT server-sent events, EVERY_S apart

It ends at SIGTERM, at once: whoever stops it while a request runs has cut it off. Standard library only.
"""

import asyncio
import hashlib
import os
import signal
import sys

EVERY_S = 1.0


def text(seed: str, size: int) -> bytes:
    """`size` bytes that no other seed has."""
    block = hashlib.sha256(seed.encode()).hexdigest().encode()
    return (block * (size // len(block) + 1))[:size]


def event(seed: str, number: int) -> bytes:
    """One server-sent event."""
    return b"data: %d %s\n\n" % (number, text(f"{seed}/{number}", 40))


async def answer(method: str, path: str, body: bytes, writer: asyncio.StreamWriter) -> None:
    """One response."""
    parts = path.split("/")
    if method == "GET" and parts[1] == "events":
        await stream(parts[2], int(parts[3]), writer)
    elif method == "GET" and parts[1] == "short":
        whole(writer, text(parts[2], int(parts[3])))
    elif method == "POST" and path == "/echo":
        whole(writer, body)
    elif path == "/health":
        whole(writer, b"ok")
    else:
        whole(writer, b"", "404 Not Found")
    await writer.drain()


def whole(writer: asyncio.StreamWriter, body: bytes, status: str = "200 OK") -> None:
    """A response of known length."""
    writer.write(f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)


async def stream(seed: str, count: int, writer: asyncio.StreamWriter) -> None:
    """Chunk by chunk, with the first event at once."""
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
    for number in range(count):
        if number:
            await asyncio.sleep(EVERY_S)
        data = event(seed, number)
        writer.write(b"%x\r\n%s\r\n" % (len(data), data))
        await writer.drain()
    writer.write(b"0\r\n\r\n")


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One connection, kept open for as many requests as come."""
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            method, path, _ = head.split(" ", 2)
            length = 0
            for line in head.split("\r\n")[1:]:
                name, _, value = line.partition(":")
                if name.lower() == "content-length":
                    length = int(value)
            body = await reader.readexactly(length) if length else b""
            await answer(method, path, body, writer)
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def main(port: int) -> None:
    """Until the end."""
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, os._exit, 0)
    server = await asyncio.start_server(serve, "0.0.0.0", port, backlog=1024, limit=1 << 20)
    print(f"listening on {port}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
