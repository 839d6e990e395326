"""Logs as plain text that goes on: `curl -N …/logs/?follow=true`, and the whole kept log as a download.

Django would hold a thread and a database connection for as long as an answer lasts. So its view only decides: it
checks who asks for what and answers with an order in a header; this ASGI application around it takes the answer over
and does the rest on the event loop. While it follows, it asks the view again every few seconds, with the same
request: one who may not read any more, a token that has expired, a replica that has ended or is gone end the stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from pathlib import Path
from typing import Any, BinaryIO

import redis
from django.conf import settings
from django.http import HttpResponse
from django.utils import translation
from django.utils.translation import gettext as _

from config.problems import MEDIA_TYPE, problem
from endpoints import log_tail

log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Any, Any, Any], Awaitable[None]]

HEADER = "X-Berth-Log"
_PATH = re.compile(r"/api/v1/endpoints/[A-Za-z0-9_-]+/logs/")
_ASKED = re.compile(rb"(?:^|&)(?:follow|download)=")

MOST = 200  # streams of one web process
MOST_EACH = 10  # of one person or service account
CHECK_S = 3.5  # between two questions whether it may go on
POLL_S, POLL_IDLE_S = 0.2, 1.0
SEND_S = 60.0  # a client that takes nothing for so long is gone
_BLOCK = 65536


def order(response: HttpResponse, **what: Any) -> HttpResponse:
    """Have the answer go on. follow + tail: a replica's lines; file: a path; by: who is counted."""
    response[HEADER] = json.dumps(what)
    return response


class LogStreams:
    """Around Django's own application. Everything but a log's stream passes untouched."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._open: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        wanted = scope["method"] == "GET" and _PATH.fullmatch(scope["path"])
        if not wanted or not _ASKED.search(scope["query_string"]):
            await self._app(scope, receive, send)
            return
        start, body = await self._decided(scope)
        what = _order_in(start)
        if what is None:
            await send(start)
            await send({"type": "http.response.body", "body": body})
        elif self._open[what["by"]] >= MOST_EACH or self._open.total() >= MOST:
            await _refuse(start, send)
        else:
            self._open[what["by"]] += 1
            try:
                await self._stream(what, start, scope, receive, send)
            finally:
                self._open[what["by"]] -= 1
                self._open += Counter()  # drops zeros: nobody is remembered for ever

    async def _decided(self, scope: Scope) -> tuple[Message, bytes]:
        """The view's answer."""
        start: Message = {}
        body = bytearray()
        asked = False

        async def receive() -> Message:
            nonlocal asked
            if asked:
                await asyncio.Event().wait()
            asked = True
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
            else:
                body.extend(message.get("body", b""))

        await self._app({**scope}, receive, send)
        return start, bytes(body)

    async def _stream(
        self, what: Mapping[str, Any], start: Message, scope: Scope, receive: Receive, send: Send
    ) -> None:
        begun = {**start, "headers": [*_kept_headers(start), (b"x-accel-buffering", b"no")]}
        pieces = _file(Path(what["file"])) if "file" in what else self._lines(what, scope)
        language = _header(start, "content-language") or settings.LANGUAGE_CODE
        gone = asyncio.create_task(_disconnected(receive))
        try:
            with translation.override(language):
                work = asyncio.create_task(_send_all(begun, pieces, send))
            await asyncio.wait({gone, work}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
            else:
                work.cancel()
                await asyncio.gather(work, return_exceptions=True)
        except TimeoutError:
            log.info("a reader of the log of %s takes nothing: hung up", what.get("follow"))
        finally:
            gone.cancel()

    async def _lines(self, what: Mapping[str, Any], scope: Scope) -> AsyncIterator[bytes]:
        """A replica's tail, then its lines as they come. Nothing for too long ends it."""
        name = str(what["follow"])
        seen = log_tail.Seen()
        most = int(what["tail"])
        asked = said = time.monotonic()
        over = False
        while True:
            news = await _news(name, seen)
            if news.lines:
                said = time.monotonic()
                shown = news.lines[-most:] if not seen.life else news.lines
                yield "".join(f"{line}\n" for line in shown).encode()
            seen = news.seen
            now = time.monotonic()
            if over or now - said > settings.BERTH_LOG_IDLE_S:
                return
            if now - asked > CHECK_S:
                asked = now
                # When it says no, what was printed until now is still read.
                over = (_order_in((await self._decided(scope))[0]) or {}).get("follow") != name
            else:
                await asyncio.sleep(POLL_S if now - said < POLL_IDLE_S else POLL_IDLE_S)


async def _news(name: str, seen: log_tail.Seen) -> log_tail.News:
    try:
        return await log_tail.read(name, seen)
    except (redis.RedisError, OSError) as error:
        log.warning("the log of %s can't be read for now: %s", name, error)
        return log_tail.News([], seen)


async def _file(path: Path) -> AsyncIterator[bytes]:
    file: BinaryIO | None = None
    try:
        file = await asyncio.to_thread(path.open, "rb")
        while data := await asyncio.to_thread(file.read, _BLOCK):
            yield data
    except FileNotFoundError:
        return
    finally:
        if file is not None:
            file.close()


async def _send_all(start: Message, pieces: AsyncIterator[bytes], send: Send) -> None:
    await send(start)
    async for piece in pieces:
        async with asyncio.timeout(SEND_S):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _disconnected(receive: Receive) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        while (await receive())["type"] != "http.disconnect":
            pass


async def _refuse(start: Message, send: Send) -> None:
    with translation.override(_header(start, "content-language") or settings.LANGUAGE_CODE):
        words = _("Too many logs are followed at once. End one of them, or try again in a moment.")
    body = json.dumps(problem(429, words, code="too-many-streams")).encode()
    names = (b"content-type", b"content-length", b"content-disposition")
    headers = [(name, value) for name, value in _kept_headers(start) if name.lower() not in names]
    headers += [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", str(len(body)).encode())]
    await send({**start, "status": 429, "headers": [*headers, (b"retry-after", b"10")]})
    await send({"type": "http.response.body", "body": body})


def _order_in(start: Message) -> dict[str, Any] | None:
    text = _header(start, HEADER)
    return dict(json.loads(text)) if text and start.get("status") == 200 else None


def _header(start: Message, name: str) -> str:
    wanted = name.lower().encode()
    return next((v.decode("latin-1") for n, v in start.get("headers", ()) if n.lower() == wanted), "")


def _kept_headers(start: Message) -> list[tuple[bytes, bytes]]:
    """Without the order, and without the length of a body that is not sent."""
    gone = (HEADER.lower().encode(), b"content-length")
    return [(name, value) for name, value in start["headers"] if name.lower() not in gone]
