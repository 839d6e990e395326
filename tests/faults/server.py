"""What every replica of the fault suite runs: it says whose it is. Few imports, because it starts very often.

python server.py PORT IDENTITY READY_AFTER_S

/health     503 until READY_AFTER_S after the start, then 200
/identity   {"identity": …, "host": …}
/slow       the same after a second and a half, in pieces
"""

import os
import signal
import socket
import sys
import threading
import time

PORT, IDENTITY, READY_AFTER_S = int(sys.argv[1]), sys.argv[2], float(sys.argv[3])
READY_AT = time.monotonic() + READY_AFTER_S
BODY = f'{{"identity": "{IDENTITY}", "host": "{socket.gethostname()}"}}\n'.encode()
open_requests = 0
guard = threading.Lock()


def answer(client: socket.socket, path: str) -> None:
    if path == "/health":
        word = "200 OK" if time.monotonic() >= READY_AT else "503 Service Unavailable"
        client.sendall(f"HTTP/1.1 {word}\r\nContent-Length: 0\r\n\r\n".encode())
        return
    head = (
        f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(BODY)}\r\n\r\n".encode()
    )
    client.sendall(head)
    if path == "/slow":
        for start in range(0, len(BODY), 16):
            client.sendall(BODY[start : start + 16])
            time.sleep(1.5 * 16 / len(BODY))
    else:
        client.sendall(BODY)


def serve(client: socket.socket) -> None:
    global open_requests
    pending = b""
    try:
        while True:
            while b"\r\n\r\n" not in pending:
                piece = client.recv(4096)
                if not piece:
                    return
                pending += piece
            head, _, pending = pending.partition(b"\r\n\r\n")
            with guard:
                open_requests += 1
            try:
                answer(client, head.split(b" ", 2)[1].decode())
            finally:
                with guard:
                    open_requests -= 1
    except OSError:
        pass
    finally:
        client.close()


def end(*_: object) -> None:
    """Finish what is under way, then go."""
    threading.Thread(target=finish, daemon=True).start()


def finish() -> None:
    deadline = time.monotonic() + 5
    while open_requests and time.monotonic() < deadline:
        time.sleep(0.02)
    os._exit(0)


signal.signal(signal.SIGTERM, end)
listener = socket.create_server(("0.0.0.0", PORT))
print(f"{IDENTITY} listens on {PORT}", flush=True)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
