"""What the contract's replicas run: the first argument says what to do. Standard library only."""

import errno
import http.server
import os
import signal
import socket
import sys
import time
from pathlib import Path


def serve(port: str) -> None:
    """Answer every GET with 200; end politely on SIGTERM."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"hello")

    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    print("listening", flush=True)
    http.server.HTTPServer((os.environ.get("REPLICA_HOST", "0.0.0.0"), int(port)), Handler).serve_forever()


def deaf() -> None:
    """Ignore SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("deaf", flush=True)
    time.sleep(600)


def hog() -> None:
    """Take memory until somebody minds, at a pace that a watcher of processes can follow."""
    held = []
    while sum(map(len, held)) < 2_000_000_000:
        held.append(bytearray(8_000_000))
        time.sleep(0.01)


def burn(cores: str) -> None:
    """Keep so many cores busy, with children that work in this process's stead."""
    for _ in range(int(cores)):
        if os.fork() == 0:
            while True:
                pass
    print("burning", flush=True)
    time.sleep(600)


def hold(size: str) -> None:
    """Keep that many bytes."""
    held = bytearray(b"x") * int(size)
    print("holding", len(held), flush=True)
    time.sleep(600)


def lines(count: str) -> None:
    for number in range(int(count)):
        print("line", number)


def flood() -> None:
    """Print as fast as the other end takes it, lines of 99 characters with their numbers."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    number = 0
    while True:
        block = "".join(f"{n:09d} {'x' * 89}\n" for n in range(number, number + 650))
        view = memoryview(block.encode())
        while view:
            view = view[os.write(1, view) :]
        number += 650


def tick() -> None:
    """The machine's monotonic clock, twice a second."""
    while True:
        print(time.monotonic(), flush=True)
        time.sleep(0.5)


def colours() -> None:
    """What a terminal would obey."""
    print("\x1b[31mred\x1b[0m")
    print("10%\r50%\r100%")
    print("\x1b]0;owned\x07title \x00\x08 done", flush=True)


def long(size: str) -> None:
    """One line of that many characters, and a short one."""
    print("y" * int(size))
    print("short")


def slowly(count: str) -> None:
    for number in range(int(count)):
        print("line", number, flush=True)
        time.sleep(0.1)


def show(path: str) -> None:
    print(Path(path).read_text())


def write(path: str) -> None:
    """Print the error's name, or "written"."""
    try:
        Path(path).write_text("bye")
        print("written")
    except OSError as error:
        print(errno.errorcode.get(error.errno or 0))


def connect(*targets: str) -> None:
    """Print, for each host:port, "open" or the error's name."""
    for target in targets:
        host, _, port = target.rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=2).close()
            print(target, "open")
        except OSError as error:
            print(target, errno.errorcode.get(error.errno or errno.ETIMEDOUT))  # a timeout has no number


def environment() -> None:
    print(dict(os.environ))


def family() -> None:
    """Leave a child behind."""
    if os.fork() == 0:
        time.sleep(600)
    print("child is born", flush=True)
    time.sleep(600)


if __name__ == "__main__":
    {
        "serve": serve,
        "deaf": deaf,
        "hog": hog,
        "burn": burn,
        "hold": hold,
        "lines": lines,
        "flood": flood,
        "long": long,
        "tick": tick,
        "colours": colours,
        "slowly": slowly,
        "show": show,
        "write": write,
        "connect": connect,
        "environment": environment,
        "family": family,
        "exit": lambda code: sys.exit(int(code)),
    }[sys.argv[1]](*sys.argv[2:])
