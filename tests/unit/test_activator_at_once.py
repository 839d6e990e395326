"""Requests that were held, let through to an endpoint that takes only so many at once; sockets are real."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from activator.lines import Limits, Word
from tests.unit.test_activator import OK, STREAM, Place, a_place

Caller = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class Replica:
    """Answers with `answer` when it is told to. running, most: requests it has now, and had at a time."""

    answer: bytes = OK
    port: int = 0
    running: int = 0
    most: int = 0
    released: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self.running += 1
        self.most = max(self.most, self.running)
        await self.released.acquire()
        self.running -= 1
        writer.write(self.answer)
        writer.close()

    def has(self, count: int) -> bool:
        return self.running == count

    def release(self, count: int) -> None:
        for _ in range(count):
            self.released.release()


@asynccontextmanager
async def a_replica(answer: bytes = OK) -> AsyncIterator[Replica]:
    replica = Replica(answer)
    server = await asyncio.start_server(replica.serve, "127.0.0.1", 0, backlog=500)
    replica.port = server.sockets[0].getsockname()[1]
    yield replica
    server.close()


def learn(place: Place, limit: int | None, *replicas: Replica) -> None:
    where = tuple(("127.0.0.1", one.port) for one in replicas)
    place.lines.learn({"me-1": Word(time.monotonic(), "ready", where, at_once=limit)})


async def wait(place: Place, count: int, path: str = "/v1/embeddings") -> list[Caller]:
    callers = [await place.send(path=path, more=str(number)) for number in range(count)]
    await place.until_waiting(count)
    return callers


async def answered(callers: list[Caller]) -> list[bytes]:
    found = [await reader.read() for reader, _ in callers]
    for _, writer in callers:
        writer.close()
    return found


async def test_never_more_at_once_than_the_limit_and_all_have_their_turn(tmp_path: Path) -> None:
    async with a_place(tmp_path) as place, a_replica() as one, a_replica() as other:
        callers = await wait(place, 12)
        learn(place, 3, one, other)
        await place.until(lambda: one.running + other.running == 3)
        await place.until_waiting(9)
        for left in range(8, -1, -1):
            (one if one.running else other).release(1)
            learn(place, 3, one, other)
            await place.until_waiting(left)
            await place.until(lambda: one.running + other.running == 3)
            assert place.lines.passing["me-1"] == 3
        one.release(9)
        other.release(9)
        assert await answered(callers) == [OK] * 12
        await place.until(lambda: not place.lines.passing)


async def test_a_limit_that_changes_holds_for_those_who_wait(tmp_path: Path) -> None:
    async with a_place(tmp_path) as place, a_replica() as replica:
        callers = await wait(place, 9)
        for limit, running in ((3, 3), (1, 3), (5, 5)):
            learn(place, limit, replica)
            await place.until_waiting(9 - running)
            await place.until(partial(replica.has, running))
        learn(place, 1, replica)
        replica.release(4)
        await place.until(lambda: place.lines.passing["me-1"] == 1)
        await place.until_waiting(4)
        learn(place, None, replica)
        await place.until(lambda: replica.running == 5)
        replica.release(5)
        assert await answered(callers) == [OK] * 9
        assert replica.most == 5


async def test_whose_time_is_over_is_told_of_the_limit(tmp_path: Path) -> None:
    async with a_place(tmp_path, Limits(hold_s=0.3)) as place, a_replica() as replica:
        callers = await wait(place, 2)
        learn(place, 1, replica)
        await place.until(lambda: replica.running == 1)
        told = await callers[1][0].read()
        head, _, body = told.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 429 Too Many Requests\r\n")
        assert {b"Retry-After: 1", b"x-ratelimit-limit: 1", b"x-ratelimit-remaining: 0"} <= {
            *head.split(b"\r\n")
        }
        error = json.loads(body)["error"]
        assert (error["code"], error["type"]) == ("concurrency_limit_exceeded", "rate_limit_error")
        assert "me-1 takes 1 requests at once" in error["message"]
        replica.release(1)
        assert await answered(callers[:1]) == [OK]
        callers[1][1].close()


async def test_who_leaves_while_it_is_answered_frees_its_place(tmp_path: Path) -> None:
    async with a_place(tmp_path) as place, a_replica() as replica:
        callers = await wait(place, 2)
        learn(place, 1, replica)
        await place.until(lambda: replica.running == 1)
        callers[0][1].close()
        await place.until(lambda: replica.running == 2)  # it does not look whether anybody listens
        replica.release(2)
        assert await answered(callers[1:]) == [OK]


async def test_a_stream_hears_why_it_waits(tmp_path: Path) -> None:
    stream = STREAM + b"content-length: 14\r\n\r\ndata: [DONE]\n\n"
    async with a_place(tmp_path) as place, a_replica(stream) as replica:
        first = await wait(place, 1)
        learn(place, 1, replica)
        await place.until(lambda: replica.running == 1)
        reader, writer = await place.send(b'{"stream": true}', "/v1/completions")
        await place.until_waiting(1)
        learn(place, 1, replica)
        await asyncio.wait_for(reader.readuntil(b": waking: ready, other requests are before this one\n"), 5)
        learn(place, 1, replica)
        replica.release(2)
        assert b"data: [DONE]" in await reader.read()
        writer.close()
        await answered(first)


@pytest.mark.parametrize("limit", ["many", [], {}])
def test_a_limit_without_sense_is_none(limit: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        Word.of({"state": "ready", "at_once": limit}, 0.0)
