"""The activator's parts, without a gateway: heads, lines, streams; sockets are real."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import h11
import pytest

from activator import head, sse
from activator.__main__ import parse
from activator.head import NotHttp
from activator.held import Held, Manners
from activator.lines import Limits, Line, Lines, Word
from activator.link import Link, notice_departures
from gateway.secret import activator_secret

SECRET = activator_secret("token")


# --- heads ------------------------------------------------------------------------------------------------

HEAD = (
    b"POST /v1/chat/completions?x=1 HTTP/1.1\r\nHost: a\r\nX-Odd: \xe9 b\r\nx-odd: 2\r\nX-Berth-Endpoint: me-1\r\n"
    b"x-berth-activator: s\r\nAccept-Encoding: gzip\r\nContent-Type: application/json; charset=utf-8\r\n"
    b"Content-Length: 4\r\n\r\n"
)


def test_a_head_goes_on_as_it_came_but_for_our_own_headers() -> None:
    data = bytearray(HEAD + b"body")
    found = head.read(data)
    assert found is not None
    assert bytes(data) == b"body"
    assert found.get("x-berth-endpoint") == "me-1"
    ours = (b"X-Berth-Endpoint: me-1\r\n", b"x-berth-activator: s\r\n")
    # The connection to the replica is for this request alone.
    end = b"\r\nconnection: close\r\n\r\n"
    assert found.written() == HEAD.replace(ours[0], b"").replace(ours[1], b"").removesuffix(b"\r\n\r\n") + end
    plain = found.written(instead=[("accept-encoding", "identity")])
    assert plain.lower().count(b"accept-encoding") == 1
    assert b"accept-encoding: identity\r\n" in plain


def test_an_upgrade_keeps_its_connection() -> None:
    data = b"GET /ws HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    found = head.read(bytearray(data))
    assert found is not None
    assert found.written() == data


@pytest.mark.parametrize("cut", [0, 1, 20, len(HEAD) - 1])
def test_half_a_head_is_none(cut: int) -> None:
    data = bytearray(HEAD[:cut])
    assert head.read(data) is None
    assert bytes(data) == HEAD[:cut]


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n\r\n",
        b"GET /\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\n folded: x\r\n\r\n",
        b"x" * (head.LIMIT + 1),
    ],
)
def test_nonsense_is_no_head(data: bytes) -> None:
    with pytest.raises(NotHttp):
        head.read(bytearray(data))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"method": "PUT"}, False),
        ({"target": "/v1/responses"}, True),
        ({"target": "/v1/embeddings"}, False),
        ({"headers": (("content-type", "text/plain"),)}, False),
        ({"headers": ()}, True),
        ({"headers": (("content-encoding", "gzip"),)}, False),
    ],
)
def test_who_may_ask_for_a_stream(changes: dict[str, Any], expected: bool) -> None:
    values = {
        "method": "POST",
        "target": "/v1/completions",
        "headers": (("Content-Type", "application/json"),),
    }
    assert head.Head(**{**values, **changes}).may_ask_for_stream is expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"stream": true}', True),
        (b'{"stream":false}', False),
        (b'{"stream": 1}', False),
        (b'{"a": {"stream": true}}', False),
        (b'{"a": "\\"stream\\": true"}', False),
        (b'["stream", true]', False),
        (b'{"stream": true', False),
        (b'{"stream":' + b"[" * 100_000, False),
        (b"\xff\xfe", False),
        (b"", False),
    ],
)
def test_what_asks_for_a_stream(body: bytes, expected: bool) -> None:
    assert head.asks_for_stream(body) is expected


def test_a_chunked_body_is_known_when_it_is_whole() -> None:
    chunked = head.Head("POST", "/", (("Transfer-Encoding", "chunked"),))
    whole = b"4;x=y\r\nWiki\r\n5\r\npedia\r\n0\r\n\r\n"
    assert head.body_of(chunked, whole) == b"Wikipedia"
    assert all(head.body_of(chunked, whole[:cut]) is None for cut in range(len(whole)))
    assert head.body_of(chunked, b"0\r\nx-sum: 1\r\n\r\n") == b""
    with pytest.raises(NotHttp):
        head.body_of(chunked, b"zz\r\n")


# --- lines ------------------------------------------------------------------------------------------------


class Waiter:
    def __init__(self) -> None:
        self.stirred = 0

    def stir(self) -> None:
        self.stirred += 1


def ready(*ports: int, at: float = 100.0) -> Word:
    return Word(at, "ready", tuple(("10.0.0.1", port) for port in ports))


def test_the_first_one_goes_first_and_the_next_one_hears_of_it() -> None:
    lines = Lines(Limits())
    waiters = [Waiter() for _ in range(3)]
    line, *_ = [lines.enter("me-1", one, 10.0 + n) for n, one in enumerate(waiters)]
    assert [line.is_first(one) for one in waiters] == [True, False, False]
    assert lines.summary(15.0) == {"me-1": {"count": 3, "oldest_s": 5.0}}
    lines.leave(line, waiters[1])
    assert [one.stirred for one in waiters] == [0, 0, 0]
    lines.leave(line, waiters[0])
    lines.leave(line, waiters[0])
    assert [one.stirred for one in waiters] == [0, 0, 1]
    lines.leave(line, waiters[2])
    assert lines.line("me-1") is None
    assert lines.has_room("me-1", 0)


def test_there_is_room_for_so_many_each_altogether_and_in_bytes() -> None:
    lines = Lines(Limits(each=2, total=3, size=100))
    for _ in range(2):
        assert lines.has_room("me-1", 0)
        lines.enter("me-1", Waiter(), 0.0)
    assert not lines.has_room("me-1", 0)
    assert lines.has_room("me-2", 0)
    last = Waiter()
    line = lines.enter("me-2", last, 0.0)
    assert not lines.has_room("me-3", 0)
    lines.leave(line, last)
    assert lines.has_room("me-3", 100)
    assert lines.reserve(60)
    assert not lines.reserve(41)
    assert not lines.has_room("me-3", 41)
    lines.reserve(-60)
    assert lines.reserve(100)


def test_replicas_take_turns_and_an_old_word_is_not_acted_on() -> None:
    line = Line("me-1", 99.0, ready(1, 2, 3))
    assert {line.address(100.5) for _ in range(3)} == {("10.0.0.1", 1), ("10.0.0.1", 2), ("10.0.0.1", 3)}
    line.spare(("10.0.0.1", 1), 100.5)
    line.spare(("10.0.0.1", 2), 100.5)
    assert {line.address(101.0) for _ in range(3)} == {("10.0.0.1", 3)}
    assert ("10.0.0.1", 1) in {line.address(101.6) for _ in range(3)}
    assert line.address(102.1) is None
    line.word = Word(103.0, "waking", (("10.0.0.1", 1),))
    assert line.address(103.0) is None


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        (None, 20),  # as long again as it has taken
        (Word(110.0, "waking", eta_s=12.2), 3),
        (Word(110.0, "waking", eta_s=2.0), 1),
        (Word(120.0, "waking", eta_s=9000), 60),
        (Word(110.0, "waking"), 20),
    ],
)
def test_when_to_try_again(word: Word | None, expected: int) -> None:
    assert Line("me-1", 100.0, word).retry_after(120.0) == expected


def test_a_lost_request_comes_back_once() -> None:
    lines = Lines(Limits())
    assert not lines.may_try_again("")
    assert [lines.may_try_again("a") for _ in range(3)] == [True, False, False]
    for number in range(2000):
        lines.may_try_again(str(number))
    assert lines.may_try_again("a")  # forgotten by now


def test_words_stir_whom_they_concern() -> None:
    lines = Lines(Limits())
    first, second = Waiter(), Waiter()
    lines.enter("me-1", first, 0.0)
    lines.enter("me-1", second, 0.0)
    lines.learn({"me-1": Word(1.0, "waking"), "me-2": ready(1)})
    assert (first.stirred, second.stirred) == (0, 0)
    lines.learn({"me-1": ready(1)})
    assert (first.stirred, second.stirred) == (1, 0)
    lines.learn({"me-1": Word(1.0, "failed")})
    assert (first.stirred, second.stirred) == (2, 1)


@pytest.mark.parametrize(
    "data", [{}, {"state": "ready", "replicas": [1]}, {"state": "waking", "eta_s": "soon"}]
)
def test_a_word_without_sense_is_none(data: dict[str, Any]) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        Word.of(data, 0.0)


def test_wrong_addresses_are_refused_by_the_command_line() -> None:
    given = ["--control", "http://x", "--token-file", "t", "--id", "a"]
    assert parse(["--listen", "unix:/x", *given]).limits.hold_s == 300
    with pytest.raises(SystemExit):
        parse(["--listen", "nowhere", *given])


def test_the_secret_tells_nothing_of_the_token() -> None:
    assert SECRET == activator_secret("token") != activator_secret("token2")
    assert len(SECRET) == 64


# --- requests, on real sockets ----------------------------------------------------------------------------


class Place:
    """The activator's heart without its process: connections at a socket file, and replicas."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        self.path = str(folder / "s")
        self.lines = Lines(limits)
        self.held: list[Held] = []
        self.tasks: list[asyncio.Task[None]] = []

    def connection(self) -> Link:
        link = Link()
        self.held.append(Held(link, self.lines, Manners(lambda: SECRET, silent_s=0.05, word_s=0.05)))
        self.tasks.append(asyncio.get_running_loop().create_task(self.held[-1].run()))
        return link

    async def send(
        self, body: bytes = b"", path: str = "/", more: str = ""
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_unix_connection(self.path)
        lines = (f"POST {path} HTTP/1.1", "x-berth-endpoint: me-1", f"x-berth-activator: {SECRET}")
        lines += (f"content-length: {len(body)}", f"x-request-id: {path}{more}", "", "")
        writer.write("\r\n".join(lines).encode() + body)
        return reader, writer

    def learn(self, *ports: int) -> None:
        replicas = tuple(("127.0.0.1", port) for port in ports)
        self.lines.learn({"me-1": Word(time.monotonic(), "ready", replicas)})

    async def until(self, check: Callable[[], Any]) -> None:
        async with asyncio.timeout(10):
            while not check():  # noqa: ASYNC110 - it may be anything that is waited for
                await asyncio.sleep(0.002)

    async def until_waiting(self, count: int) -> None:
        await self.until(lambda: len(self.lines.line("me-1") or ()) == count)


@asynccontextmanager
async def a_place(folder: Path, limits: Limits | None = None) -> AsyncIterator[Place]:
    place = Place(folder, limits or Limits())
    server = await asyncio.get_running_loop().create_unix_server(place.connection, place.path, backlog=500)
    yield place
    server.close()
    async with asyncio.timeout(5):
        await asyncio.gather(*place.tasks)


@asynccontextmanager
async def a_replica(
    answer: bytes, *, first: Callable[[bytes], None] = lambda head: None
) -> AsyncIterator[int]:
    """Reads a request's head and answers with these bytes; its port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=500)
    yield server.sockets[0].getsockname()[1]
    server.close()


OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"


async def test_two_hundred_go_through_in_order_of_arrival(tmp_path: Path) -> None:
    seen: list[bytes] = []
    async with a_place(tmp_path) as place, a_replica(OK, first=lambda h: seen.append(h.split()[1])) as port:
        callers = []
        for number in range(200):
            callers.append(await place.send(path=f"/{number}"))
            await place.until_waiting(number + 1)
        place.learn(port)
        for held in reversed(place.held):
            held.stir()  # whoever looks first
        answers = [await reader.read() for reader, _ in callers]
        for _, writer in callers:
            writer.close()
    assert answers == [OK] * 200
    assert seen == [f"/{number}".encode() for number in range(200)]
    assert not place.lines.open
    assert not place.lines.passing


async def test_those_who_leave_are_noticed_though_nobody_reads_from_them(tmp_path: Path) -> None:
    async with a_place(tmp_path) as place:
        _, writer = await place.send(b"x" * 100_000, "/v1/embeddings")
        await place.until_waiting(1)
        await place.until(lambda: place.held[0].link.is_paused)
        notice_departures([place.held[0].link])
        assert place.lines.line("me-1") is not None
        writer.transport.abort()
        await asyncio.sleep(0.05)
        notice_departures([place.held[0].link])
        await place.until(lambda: place.lines.line("me-1") is None)


async def test_no_more_is_kept_than_there_is_room_for(tmp_path: Path) -> None:
    limits = Limits(size=300_000)
    asks = b'{"stream": true, "x": "%s"}' % (b"x" * 200_000)
    async with a_place(tmp_path, limits) as place:
        callers = [await place.send(asks, "/v1/completions", str(n)) for n in range(20)]
        await place.until_waiting(20)
        await asyncio.sleep(0.2)
        assert sum(len(held.link.incoming) for held in place.held) < 300_000 + 20 * 8192
        begun = [reader for reader, _ in callers if reader._buffer]  # type: ignore[attr-defined]
        assert len(begun) == 1  # the one whose body was read; the others wait without a word
        for _, writer in callers:
            writer.close()
        await place.until(
            lambda: notice_departures([held.link for held in place.held]) or not list(place.lines)
        )
    assert place.lines.reserve(300_000)  # all of it was given back


async def streamed(tmp_path: Path, *answers: bytes) -> tuple[list[str], list[str]]:
    """Comments and events that a caller gets who has waited for its stream; each try meets the next answer."""
    async with a_place(tmp_path) as place:
        reader, writer = await place.send(b'{"stream": true}', "/v1/completions")
        await place.until_waiting(1)
        await asyncio.sleep(0.15)
        for answer in answers:
            async with a_replica(answer) as port:
                place.learn(port)
                await asyncio.sleep(0.1)
        data = await reader.read()
        writer.close()
    talk = h11.Connection(h11.CLIENT)
    talk.send(h11.Request(method="GET", target="/", headers=[("host", "x")]))
    talk.send(h11.EndOfMessage())
    talk.receive_data(data)
    body = b""
    while not isinstance(event := talk.next_event(), h11.EndOfMessage):
        body += bytes(event.data) if isinstance(event, h11.Data) else b""
    rows = body.decode().split("\n\n")
    assert rows.pop() == ""
    return [row for row in rows if row.startswith(":")], [row for row in rows if not row.startswith(":")]


@pytest.mark.parametrize(
    "answer",
    [
        STREAM + b"transfer-encoding: chunked\r\n\r\n6\r\ndata: \r\n3\r\n1\n\n\r\n0\r\n\r\n",
        STREAM + b"content-length: 9\r\n\r\ndata: 1\n\n",
        STREAM + b"\r\ndata: 1\n\n",  # until it closes
        b"HTTP/1.1 103 Early Hints\r\n\r\n" + STREAM + b"content-length: 9\r\n\r\ndata: 1\n\n",
    ],
)
async def test_a_begun_stream_goes_on_whatever_the_replicas_framing(tmp_path: Path, answer: bytes) -> None:
    comments, events = await streamed(tmp_path, answer)
    assert events == ["data: 1"]
    assert comments


async def test_a_replica_lost_before_its_answer_is_asked_once_more(tmp_path: Path) -> None:
    whole = STREAM + b"content-length: 9\r\n\r\ndata: 1\n\n"
    assert (await streamed(tmp_path, b"", whole))[1] == ["data: 1"]


async def test_and_no_more_than_once(tmp_path: Path) -> None:
    (event,) = (await streamed(tmp_path, b"", b""))[1]
    assert json.loads(event.removeprefix("data: "))["error"]["code"] == "replica_unavailable"


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"HTTP/1.1 500 Oh\r\ncontent-length: 4\r\n\r\noops", "http_500"),
        (OK, "http_200"),
        (
            STREAM
            + b"content-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(gzip.compress(b"data: 1\n\n"))
            + gzip.compress(b"data: 1\n\n"),
            "http_200",
        ),
        (STREAM + b"content-length: 90\r\n\r\ndata: 1\n\n", "replica_unavailable"),  # it breaks off
        (b"no HTTP at all\r\n\r\n", "replica_unavailable"),
    ],
)
async def test_what_does_not_fit_is_one_event_at_the_end(tmp_path: Path, answer: bytes, code: str) -> None:
    *_, event = (await streamed(tmp_path, answer))[1]
    assert json.loads(event.removeprefix("data: "))["error"]["code"] == code


def test_a_phase_can_not_break_out_of_its_comment() -> None:
    assert sse.waking("loading\n\ndata: evil", "") == sse.chunk(b": waking: loading data: evil\n\n")
