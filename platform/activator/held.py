"""One held request, from its first byte to its answer's last.

A gateway's connection carries one request. It waits with its body in the kernel (the gateway stops sending); then its
bytes go to a replica and the replica's to the gateway, as they are: no length, no trailer, no upgrade is looked at.
The exception is a streamed completion that has waited for long: its answer has begun with comment lines, and the
replica's is taken out of its framing and continues it.

An endpoint's limit of requests at once holds here, too: no more of them than that are with its replicas at the same
time, the others wait on. The gateway counts those that it sends there itself, so that while a wake ends there may be
twice as many: so many of each.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from activator import answers, head, relay, sse
from activator.head import Head
from activator.lines import Address, Line, Lines
from activator.link import Link
from gateway import names
from gateway.targets import address_text

HEAD_S = 10.0  # for a gateway's connection to bring its request
CONNECT_S = 2.0
LINGER_S = 2.0  # for a gateway to take an answer that was given before it had sent all of its request
READ_AHEAD = 1024 * 1024  # of a body that may ask for a stream
_KEPT = 4 * 1024  # of any other one, and of what is read at a time before the head is whole


@dataclass(frozen=True, slots=True)
class Manners:
    """silent_s: how long a streaming request waits without a word. word_s: between two of them.
    secret: by which a gateway is known."""

    secret: Callable[[], str]
    silent_s: float = 5.0
    word_s: float = 3.0


class _Over(Exception):
    """Nobody waits for an answer any more, or the gateway shall send the request again."""


class _Ending(Exception):
    """The process ends."""


class Held:
    """run() is its whole life."""

    def __init__(self, link: Link, lines: Lines, manners: Manners) -> None:
        self.link = link
        self.upstream: Link | None = None
        self._lines, self._manners = lines, manners
        self._stirred = asyncio.Event()
        self._line: Line | None = None
        self._reserved = 0
        self._counted = ""  # the endpoint that it is let through to
        self._head = Head("", "", ())
        self._until = self._next_word = 0.0
        # Of one that asks for a stream, as soon as that is known: its body, in its framing.
        self._asked: bytes | None = None
        self._is_undecided = False
        self._has_begun = False
        link.changed, link.limit = self.stir, _KEPT

    def stir(self) -> None:
        """Look again: something has changed."""
        self._stirred.set()

    @property
    def is_waiting(self) -> bool:
        """Whether it was not let through yet."""
        return self.upstream is None

    async def run(self) -> None:
        """Until there is nothing left to do for it."""
        try:
            await self._run()
        except (_Over, head.NotHttp):
            self.link.reset()
        except _Ending:
            if self._has_begun:
                await self._reply(answers.RESTARTED)
            else:  # the gateway sends it again, to the next activator
                self.link.reset()
        finally:
            self._leave()
            self._lines.reserve(-self._reserved)
            self.link.close()
            self.link.changed = _nobody

    async def _run(self) -> None:
        found = await self._read_head()
        if found is None:
            return
        self._head = found
        if not hmac.compare_digest(
            found.get(names.SECRET_HEADER).encode("latin-1"), self._manners.secret().encode()
        ):
            await self._reply(answers.FORBIDDEN)
            return
        now = time.monotonic()
        endpoint_id = found.get(names.ENDPOINT_HEADER)
        if not self._lines.has_room(endpoint_id, _KEPT):
            line = self._lines.line(endpoint_id)
            await self._reply(answers.too_many(line.retry_after(now) if line is not None else 1))
            return
        self._line = self._lines.enter(endpoint_id, self, now)
        self._until = now + self._lines.limits.hold_s
        self._next_word = now + self._manners.silent_s
        self._make_room()
        await self._hold(self._line)

    async def _read_head(self) -> Head | None:
        deadline = time.monotonic() + HEAD_S
        while (found := head.read(self.link.incoming)) is None:
            if self.link.ended or time.monotonic() > deadline or self._lines.is_closing:
                return None
            if len(self.link.incoming) >= self.link.limit:
                self.link.limit += _KEPT
                self.link.settle()
            await self._look_again(deadline)
        return found

    def _make_room(self) -> None:
        """Of a body that may ask for a stream a part is read, where there is room for it."""
        length = self._head.get("content-length")
        wanted = int(length) if length.isdigit() else READ_AHEAD
        self._is_undecided = self._head.may_ask_for_stream and wanted <= READ_AHEAD
        size = max(len(self.link.incoming), wanted if self._is_undecided else _KEPT)
        if not self._lines.reserve(size):
            self._is_undecided, size = False, max(len(self.link.incoming), _KEPT)
            self._lines.reserve(size)  # `has_room` saw to it but for what one read brought too much
        self._reserved = size
        # One more than the body has: while nothing is missing it is read on, and so the end of the caller is seen.
        self.link.limit = size + 1
        self.link.settle()

    # --- waiting ------------------------------------------------------------------------------------------

    async def _hold(self, line: Line) -> None:
        """Wait, go through, and once more if the replica is lost before it has answered anything."""
        lost = 0
        while True:
            outcome = await self._turn(line)
            if not isinstance(outcome, Link):
                await self._reply(outcome)
                return
            if await self._pass_on(line, outcome):
                return
            lost += 1
            if not self._has_begun:
                # The gateway has kept the request, if it is not too long: it sends it again, here.
                if self._lines.may_try_again(self._head.get("x-request-id")):
                    raise _Over
                await self._reply(answers.LOST)
                return
            if lost > 1:
                await self._reply(answers.LOST)
                return
            line = self._line = self._lines.enter(line.endpoint_id, self, time.monotonic())

    async def _turn(self, line: Line) -> Link | answers.Reply:
        """A connection to a replica, when everybody who came earlier has one; or what to say instead."""
        while True:
            self._check()
            now = time.monotonic()
            word = line.word
            if word is not None and word.is_final:
                if word.state == "gone":
                    return answers.NOT_FOUND
                return answers.failed(word.status, word.code, word.message, word.retry_after_s)
            is_full = self._lines.is_full(line)
            if now >= self._until:
                if word is not None and word.at_once is not None and is_full:
                    return answers.full(line.endpoint_id, word.at_once)
                reason = word.message if word is not None else ""
                return answers.timed_out(self._lines.limits.hold_s, reason, line.retry_after(now))
            if line.is_first(self) and not is_full and (address := line.address(now)) is not None:
                found = await self._connect(line, address)
                if found is not None:
                    return found
                continue
            if self._streams() and now >= self._next_word:
                self._say(line, now)
            await self._look_again(min(self._until, self._next_word) if self._asked else self._until)

    def _check(self) -> None:
        if self.link.ended:
            raise _Over
        if self._lines.is_closing:
            raise _Ending

    def _streams(self) -> bool:
        """Whether it asks for a stream, as far as is known."""
        if self._is_undecided and self._asked is None:
            body = head.body_of(self._head, bytes(self.link.incoming))
            if body is not None:
                self._is_undecided = False
                self._lines.reserve(len(self.link.incoming) - self._reserved)
                self._reserved = len(self.link.incoming)
                self._asked = bytes(self.link.incoming) if head.asks_for_stream(body) else None
            elif len(self.link.incoming) >= self._reserved:
                self._is_undecided = False  # more than is read ahead
        return self._asked is not None

    def _say(self, line: Line, now: float) -> None:
        """A word to a caller who waits for a stream, unless the last one is still on its way."""
        if not self._has_begun:
            self._has_begun = True
            self.link.send(sse.HEAD)
        if not self.link.is_full:
            word = line.word
            left = None if word is None or word.eta_s is None else word.eta_s - (now - word.asked_at)
            phase = "ready, other requests are before this one" if self._lines.is_full(line) else ""
            self.link.send(sse.waking(phase or (word.phase if word is not None else ""), _left(left)))
        self._next_word = now + self._manners.word_s

    async def _look_again(self, at: float) -> None:
        """Until something has changed, or it is `at`."""
        timer = asyncio.get_running_loop().call_later(max(0.0, at - time.monotonic()), self._stirred.set)
        try:
            await self._stirred.wait()
        finally:
            timer.cancel()
        self._stirred.clear()

    # --- going through ------------------------------------------------------------------------------------

    async def _connect(self, line: Line, address: Address) -> Link | None:
        """A connection, None if there is none. It is counted from the moment at which it is tried."""
        text = address_text(*address)
        self._lines.open[text] += 1
        try:
            async with asyncio.timeout(CONNECT_S):
                _, upstream = await asyncio.get_running_loop().create_connection(Link, *address)
        except (OSError, TimeoutError):
            line.spare(address, time.monotonic())
            _less(self._lines.open, text)
            return None
        upstream.changed = self.stir
        upstream.name = text
        return upstream

    async def _pass_on(self, line: Line, upstream: Link) -> bool:
        """Whether it is over; False: the replica was lost before it answered anything."""
        self.upstream = upstream
        self._counted = line.endpoint_id
        self._lines.begin(self._counted)
        try:
            self._check()
            if self._has_begun:
                upstream.send(self._head.written(instead=[("accept-encoding", "identity")]))
                upstream.send(self._asked or b"")
                self._leave()
                return await relay.continue_stream(self.link, upstream, self._stirred)
            upstream.send(self._head.written())
            self._leave()
            return await self._splice(upstream)
        finally:
            self.upstream = None
            self._uncount()
            upstream.changed = _nobody
            upstream.part()
            upstream.close()
            asyncio.get_running_loop().call_later(LINGER_S, upstream.reset)
            _less(self._lines.open, upstream.name)

    def _uncount(self) -> None:
        """Once: others may have its place."""
        if self._counted:
            self._lines.end(self._counted)
            self._counted = ""

    async def _splice(self, upstream: Link) -> bool:
        self.link.join(upstream)
        self._lines.reserve(-self._reserved)
        self._reserved = 0
        while not self.link.ended and not upstream.ended:
            await self._stirred.wait()
            self._stirred.clear()
        self._uncount()  # the replica has done its part, however long the gateway takes for its own
        if not upstream.received and not self.link.ended:
            return False
        self.link.part()
        await self._linger()
        return True

    # --- the end ------------------------------------------------------------------------------------------

    def _leave(self) -> None:
        if self._line is not None:
            self._lines.leave(self._line, self)
            self._line = None

    async def _reply(self, reply: answers.Reply) -> None:
        """In our own name; in a stream that has begun as its last event."""
        self._leave()
        if self._has_begun:
            self.link.send(sse.error(answers.error_of(reply[1]) or {}))
        else:
            self.link.send(answers.written(reply))
        await self._linger()

    async def _linger(self) -> None:
        """Close, but not in the face of a gateway that still sends: it might lose the answer by that."""
        self.link.finish()
        until = time.monotonic() + LINGER_S
        while not self.link.ended and time.monotonic() < until:
            self.link.take()
            await self._look_again(until)


def _less(counts: Counter[str], key: str) -> None:
    counts[key] -= 1
    if counts[key] <= 0:
        del counts[key]


def _left(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 3:
        return "a few seconds left"
    return f"about {seconds:.0f} s left" if seconds < 120 else f"about {seconds / 60:.0f} min left"


def _nobody() -> None:
    pass
