"""Requests that two servers could read differently, and callers who write into headers: no second request comes
through, nobody reaches an endpoint that their token does not allow, and Envoy lives on."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.support_gateway import World, endpoint, until
from tests.support_replica import Exchange

pytestmark = pytest.mark.envoy

ID = "me-00000000-0000-4000-8000-0000000000"
MINE, FOREIGN = f"{ID}01", f"{ID}02"
# What would be a request of its own if somebody took it for one: to an endpoint of another project.
HIDDEN = f"GET /v1/{FOREIGN}/pwned HTTP/1.1\r\nHost: gateway\r\nX-Smuggled: yes\r\n\r\n"
SIZE = len(HIDDEN)


class Attacked(World):
    """A gateway with an endpoint of the attacker's own project and one of another."""

    def __init__(self) -> None:
        super().__init__()
        self.replicas = {name: self.replica(name=name) for name in ("mine", "foreign")}


@pytest.fixture(scope="module")
def world() -> Iterator[Attacked]:
    world = Attacked()
    try:
        world.plane.publish(
            endpoint(MINE, world.replicas["mine"]), endpoint(FOREIGN, world.replicas["foreign"], project="p2")
        )
        world.gateway.ready()
        yield world
    finally:
        world.close()


def request_with(world: Attacked, headers: str, body: str, line: str = "POST /v1/{id}/x HTTP/1.1") -> bytes:
    """A request as an attacker writes it; {id}: their own endpoint."""
    start = line.replace("{id}", MINE)
    return f"{start}\r\nHost: gateway\r\nAuthorization: Bearer {world.key.token()}\r\n{headers}\r\n{body}".encode()


CHUNKED_HIDDEN = f"0\r\n\r\n{HIDDEN}"
# headers and body: what follows the headers is the first request's body to one reader and a second request to another.
PAIRS = {
    "CL and TE": (f"Content-Length: {SIZE + 5}\r\nTransfer-Encoding: chunked\r\n", CHUNKED_HIDDEN),
    "TE and CL": (f"Transfer-Encoding: chunked\r\nContent-Length: {SIZE + 5}\r\n", CHUNKED_HIDDEN),
    "CL 4 and TE": (
        "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        f"{SIZE:x}\r\n{HIDDEN}\r\n0\r\n\r\n",
    ),
    "TE with a space before the colon": (
        f"Transfer-Encoding : chunked\r\nContent-Length: {SIZE + 5}\r\n",
        CHUNKED_HIDDEN,
    ),
    "TE xchunked": (f"Transfer-Encoding: xchunked\r\nContent-Length: {SIZE + 5}\r\n", CHUNKED_HIDDEN),
    "TE chunked, identity": (
        f"Transfer-Encoding: chunked, identity\r\nContent-Length: {SIZE + 5}\r\n",
        CHUNKED_HIDDEN,
    ),
    "TE identity": (f"Transfer-Encoding: identity\r\nContent-Length: {SIZE + 5}\r\n", CHUNKED_HIDDEN),
    "TE twice": ("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", CHUNKED_HIDDEN),
    "TE after a tab": (f"Transfer-Encoding:\tchunked\r\nContent-Length: {SIZE + 5}\r\n", CHUNKED_HIDDEN),
    "TE with a vertical tab": (
        f"Transfer-Encoding: \x0bchunked\r\nContent-Length: {SIZE + 5}\r\n",
        CHUNKED_HIDDEN,
    ),
    "TE quoted": (f'Transfer-Encoding: "chunked"\r\nContent-Length: {SIZE + 5}\r\n', CHUNKED_HIDDEN),
    "TE folded": (f"Transfer-Encoding:\r\n chunked\r\nContent-Length: {SIZE + 5}\r\n", CHUNKED_HIDDEN),
    "TE hidden in a folded line": (
        f"X-A: b\r\n Transfer-Encoding: chunked\r\nContent-Length: {SIZE + 5}\r\n",
        CHUNKED_HIDDEN,
    ),
    "TE after a bare LF": (
        f"X-A: b\nTransfer-Encoding: chunked\r\nContent-Length: {SIZE + 5}\r\n",
        CHUNKED_HIDDEN,
    ),
    "TE after a bare CR": (
        f"X-A: b\rTransfer-Encoding: chunked\r\nContent-Length: {SIZE + 5}\r\n",
        CHUNKED_HIDDEN,
    ),
    "TE with an underscore": (
        f"Transfer_Encoding: chunked\r\nContent-Length: {SIZE + 5}\r\n",
        CHUNKED_HIDDEN,
    ),
    "two lengths": (f"Content-Length: 0\r\nContent-Length: {SIZE}\r\n", HIDDEN),
    "two lengths in one": (f"Content-Length: 0, {SIZE}\r\n", HIDDEN),
    "a length with a sign": (f"Content-Length: +{SIZE}\r\n", HIDDEN),
    "a negative length": ("Content-Length: -1\r\n", HIDDEN),
    "a hexadecimal length": (f"Content-Length: 0x{SIZE:x}\r\n", HIDDEN),
    "a length that overflows": (f"Content-Length: {2**64 + SIZE}\r\n", HIDDEN),
    "a length after a space": (f"Content-Length : {SIZE}\r\n", HIDDEN),
    "a chunk's extension with a bare LF": (
        "Transfer-Encoding: chunked\r\n",
        f"1;a\nb\r\n\r\n0\r\n\r\n{HIDDEN}",
    ),
    "a chunk size with a sign": ("Transfer-Encoding: chunked\r\n", f"+0\r\n\r\n{HIDDEN}"),
    "a chunk size in 0x": ("Transfer-Encoding: chunked\r\n", f"0x0\r\n\r\n{HIDDEN}"),
    "a chunk size that overflows": (
        "Transfer-Encoding: chunked\r\n",
        f"10000000000000000\r\n{HIDDEN}\r\n0\r\n\r\n",
    ),
    "a chunk that ends early": ("Transfer-Encoding: chunked\r\n", f"1\r\nab\r\n0\r\n\r\n{HIDDEN}"),
    "chunks with bare LF": ("Transfer-Encoding: chunked\r\n", f"0\n\n{HIDDEN}"),
    "a length in a trailer": (
        "Transfer-Encoding: chunked\r\n",
        f"0\r\nContent-Length: {SIZE}\r\n\r\n{HIDDEN}",
    ),
    "HTTP/1.0 with TE": ("Transfer-Encoding: chunked\r\nConnection: keep-alive\r\n", CHUNKED_HIDDEN),
}


def exchange(world: Attacked, sent: bytes) -> bytes:
    """Everything that comes back until the gateway closes or falls silent."""
    received = b""
    with world.gateway.raw() as connection:
        connection.settimeout(3)
        connection.sendall(sent)
        with suppress(TimeoutError, ConnectionError), suppress(socket.timeout):
            while data := connection.recv(65536):
                received += data
                connection.settimeout(0.3)  # what hides would be answered at once
    return received


@pytest.mark.parametrize("kind", PAIRS)
def test_no_request_hides_in_another(world: Attacked, kind: str) -> None:
    """What hides is a body, or a request without a token, or the connection ends: it never comes to a replica."""
    headers, body = PAIRS[kind]
    line = "POST /v1/{id}/x HTTP/1.0" if "1.0" in kind else "POST /v1/{id}/x HTTP/1.1"
    before = {name: len(replica.seen) for name, replica in world.replicas.items()}
    received = exchange(world, request_with(world, headers, body, line))
    statuses = [int(found) for found in re.findall(rb"HTTP/1\.[01] (\d{3})", received)]
    assert statuses, "an answer, if only a refusal"
    assert len(world.replicas["foreign"].seen) == before["foreign"]
    came = world.replicas["mine"].seen[before["mine"] :]
    assert len(came) <= 1
    assert all(one.target == "/x" and one.header("x-smuggled") is None for one in came)
    # One answer for one request: a second answer belongs to what was hidden, and is a refusal.
    assert statuses[0] in (200, 400, 426, 501)
    assert all(status in (400, 401) for status in statuses[1:])
    assert world.gateway.get(f"/v1/{MINE}/x", world.key.token()).status == 200


WEBSOCKET = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)
UPGRADES = {
    "a length over the limit": ("POST", "Content-Length: 104857601\r\n", ""),
    "a POST with nothing in it": ("POST", "Content-Length: 0\r\n", HIDDEN),
    "a GET with a body": ("GET", f"Content-Length: {SIZE}\r\n", HIDDEN),
}


@pytest.mark.parametrize("kind", UPGRADES)
def test_nothing_gets_past_the_limits_by_asking_for_a_websocket(world: Attacked, kind: str) -> None:
    method, headers, body = UPGRADES[kind]
    before = {name: len(replica.seen) for name, replica in world.replicas.items()}
    received = exchange(
        world, request_with(world, WEBSOCKET + headers, body, f"{method} /v1/{MINE}/x HTTP/1.1")
    )
    assert re.match(rb"HTTP/1\.1 400", received), received[:300]
    assert before == {name: len(replica.seen) for name, replica in world.replicas.items()}
    assert world.gateway.get(f"/v1/{MINE}/x", world.key.token()).status == 200


REFUSAL = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"  # of a server that knows no WebSockets
CONSENT = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"


@pytest.mark.parametrize("answer", [REFUSAL, CONSENT], ids=["200", "101"])
def test_what_follows_a_websockets_head_waits_for_the_replicas_consent(
    world: Attacked, answer: bytes
) -> None:
    """To a server that went on reading HTTP it would be a second request, seen by no limit and counted by nobody."""
    early: list[bytes] = []
    late: list[bytes] = []

    def hesitate(exchange: Exchange) -> None:
        exchange.connection.settimeout(0.3)
        with suppress(TimeoutError):
            early.append(exchange.reader.peek())
        exchange.send(answer)
        with suppress(TimeoutError, ConnectionError):
            late.append(exchange.connection.recv(65536))
        exchange.connection.close()

    replica = world.replica(hesitate)
    world.gateway.publish(*world.plane.targets.endpoints, endpoint(f"{ID}{answer[9:12].decode()}", replica))
    line = f"GET /v1/{ID}{answer[9:12].decode()}/x HTTP/1.1"
    received = exchange(world, request_with(world, WEBSOCKET, HIDDEN, line))
    assert re.findall(rb"HTTP/1\.1 (\d{3})", received) == [answer[9:12]]
    assert (early, len(replica.seen)) == ([], 1)
    until(lambda: late, what="the replica's connection has ended, or brought something")
    assert late == [HIDDEN.encode() if answer == CONSENT else b""]


@pytest.mark.parametrize(
    "headers",
    [
        "Authorization: Bearer {good}\r\nAuthorization: bearer {revoked}\r\n",
        "Authorization: Bearer {revoked}\r\nAuthorization: Bearer {good}\r\n",
        "Authorization: Bearer {revoked},bearer {revoked}\r\n",
        "Authorization: Bearer {revoked}\r\nauthorization: bearer {revoked}\r\n",
    ],
)
def test_two_tokens_are_none(world: Attacked, headers: str) -> None:
    """The filters look a caller up by one grant: two at once would be found in no table."""
    world.gateway.publish(revoked=("sa-2:1",))
    good, revoked = world.key.token(), world.key.token(sub="sa-2", grant="sa-2:1")
    try:
        sent = (
            f"GET /v1/{MINE}/x HTTP/1.1\r\nHost: gateway\r\n{headers.format(good=good, revoked=revoked)}\r\n"
        )
        assert re.match(rb"HTTP/1\.1 401", exchange(world, sent.encode()))
    finally:
        world.gateway.publish(revoked=())


INJECTED = [
    "a\r\nX-Injected: yes",
    "a\nX-Injected: yes",
    "a\rX-Injected: yes",
    "a\x00b",
    "ä",
    " ",
    "",
    "x" * 10_000,
]


@pytest.mark.parametrize("claim", ["sub", "grant", "access", "jti"])
@pytest.mark.parametrize("value", INJECTED)
def test_claims_write_no_headers(world: Attacked, claim: str, value: str) -> None:
    """Only our own keys sign claims; what they hold is text all the same."""
    before = len(world.replicas["mine"].seen)
    answer = world.gateway.get(f"/v1/{MINE}/x", world.key.token(**{claim: value}))
    assert answer.status in (200, 400, 401, 403, 404, 431, 503)
    for seen in world.replicas["mine"].seen[before:]:
        assert seen.header("x-injected") is None
    assert "yes" not in (answer.header("x-injected") or "")
    assert world.gateway.get(f"/v1/{MINE}/x", world.key.token()).status == 200


@pytest.mark.parametrize("value", [{"a": 1}, ["sa-1"], 7, True, None])
@pytest.mark.parametrize("claim", ["sub", "grant", "access"])
def test_claims_of_another_kind_do_no_harm(world: Attacked, claim: str, value: object) -> None:
    assert world.gateway.get(f"/v1/{MINE}/x", world.key.token(**{claim: value})).status in (
        200,
        401,
        403,
        404,
    )
    assert world.gateway.get(f"/v1/{MINE}/x", world.key.token()).status == 200


HEADERS = {
    "a name with a space": "X A: b\r\n",
    "no name": ": b\r\n",
    "what the filters tell each other": ":berth-grant: sa-1:2\r\n",
    "a name with a NUL": "X-\x00A: b\r\n",
    "a value with a NUL": "X-A: b\x00c\r\n",
    "no colon": "X-Injected yes\r\n",
}


@pytest.mark.parametrize("kind", HEADERS)
def test_headers_that_are_none_are_refused(world: Attacked, kind: str) -> None:
    before = len(world.replicas["mine"].seen)
    received = exchange(world, request_with(world, HEADERS[kind], "", "GET /v1/{id}/x HTTP/1.1"))
    assert re.match(rb"HTTP/1\.1 400", received), received[:200]
    assert len(world.replicas["mine"].seen) == before


def test_a_bare_cr_ends_no_header(world: Attacked) -> None:
    before = len(world.replicas["mine"].seen)
    sent = request_with(world, "X-A: b\rX-Injected: yes\r\n", "", "GET /v1/{id}/x HTTP/1.1")
    assert exchange(world, sent)
    for seen in world.replicas["mine"].seen[before:]:
        assert seen.header("x-injected") is None
        assert all("\r" not in value for _, value in seen.headers)
