"""The process: listens for gateways, asks the control plane while somebody waits, and ends without losing a request."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import resource
import secrets
import signal
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from activator.control import Control, ControlAway
from activator.held import Held, Manners
from activator.lines import Limits, Lines, Word
from activator.link import Link, notice_departures
from gateway.secret import activator_secret

ASK_S = 0.1  # while somebody waits
ASK_SELDOM_S = 0.3  # and has done so for _LONG_S
TELL_S = 2.0  # while nobody does: what is still connected, and that this one lives
_LONG_S = 20.0
_GAP_S = 0.02  # between two questions, however many begin to wait
_AWAY_S = 0.5
_DEPARTURES_S = 0.25
_FINISH_S = 3.0  # for answers under way at the end
_BACKLOG = 4096
_SPARE_FILES = 64

log = logging.getLogger("activator")


@dataclass(frozen=True, slots=True)
class Options:
    """listen: "host:port" or "unix:/path". name: this activator's, unique among those of the platform."""

    listen: str
    control: str
    token_file: Path
    name: str
    limits: Limits
    silent_s: float = 5.0
    word_s: float = 3.0


class AddressTaken(Exception):
    """Somebody else listens there."""


class Activator:
    """run() until a signal comes."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.lines = Lines(_affordable(options.limits))
        self.control = Control(options.control, options.token_file)
        self._instance = secrets.token_hex(8)
        self._held: dict[Held, asyncio.Task[None]] = {}
        self._arrived = asyncio.Event()
        self._stopping = asyncio.Event()
        self._complaint: str | None = None  # nothing was asked yet
        self._secret = ""
        self._manners = Manners(lambda: self._secret, options.silent_s, options.word_s)

    async def run(self) -> None:
        """Raises AddressTaken, and OSError if the token can't be read."""
        self._secret = activator_secret(self.control.token())
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        self.lines.arrived = self._arrived.set
        server = await self._listen()
        log.info("listening at %s, at most %d requests wait", self.options.listen, self.lines.limits.total)
        tasks = [loop.create_task(self._converse()), loop.create_task(self._departures())]
        stop = loop.create_task(self._stopping.wait())
        done, _ = await asyncio.wait([*tasks, stop], return_when=asyncio.FIRST_COMPLETED)
        server.close()
        await self._finish()
        for task in (*tasks, stop):
            task.cancel()
        await self._say_goodbye()
        for task in done - {stop}:
            task.result()  # a defect: end, so that a new one begins

    # --- gateways -----------------------------------------------------------------------------------------

    async def _listen(self) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        try:
            if self.options.listen.startswith("unix:"):
                path = self.options.listen.removeprefix("unix:")
                if _answers(path):
                    raise AddressTaken(f"somebody listens at {path} already")
                before = os.umask(0o177)  # nobody but this user
                try:
                    return await loop.create_unix_server(self._connection, path, backlog=_BACKLOG)
                finally:
                    os.umask(before)
            host, _, port = self.options.listen.rpartition(":")
            return await loop.create_server(self._connection, host.strip("[]"), int(port), backlog=_BACKLOG)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise AddressTaken(f"{self.options.listen} is taken") from error
            raise

    def _connection(self) -> Link:
        link = Link()
        held = Held(link, self.lines, self._manners)
        task = asyncio.get_running_loop().create_task(held.run())
        self._held[held] = task
        task.add_done_callback(lambda done: self._ended(held, done))
        return link

    def _ended(self, held: Held, task: asyncio.Task[None]) -> None:
        self._held.pop(held, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a held request broke off", exc_info=error)

    async def _departures(self) -> None:
        """Callers who went away while nobody read from them."""
        while True:
            await asyncio.sleep(_DEPARTURES_S)
            notice_departures([held.link for held in self._held if held.is_waiting])

    # --- the control plane --------------------------------------------------------------------------------

    async def _converse(self) -> None:
        while True:
            asked_at = time.monotonic()
            self._arrived.clear()
            said = self._said()
            pause = self._pause(said["waiting"])
            try:
                answer = await self.control.ask(said)
                words = {key: Word.of(word, asked_at) for key, word in answer["endpoints"].items()}
            except (ControlAway, ValueError, KeyError, TypeError, AttributeError) as error:
                self._complain(f"the control plane is away, who waits goes on waiting: {error}")
                pause = _AWAY_S
            else:
                self._complain("")
                self.lines.learn(words)
                self._secret = activator_secret(self.control.token())
            await asyncio.sleep(_GAP_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._arrived.wait()

    def _said(self, gone: bool = False) -> dict[str, Any]:
        return {
            "activator": self.options.name,
            "instance": self._instance,
            "waiting": self.lines.summary(time.monotonic()),
            "connections": dict(self.lines.open),
            "gone": gone,
        }

    def _pause(self, waiting: dict[str, dict[str, float]]) -> float:
        """What was waited for is told soon to be over, so the next question after one with waiters comes soon, too."""
        if not any(one["count"] for one in waiting.values()):
            return TELL_S
        oldest = max(one["oldest_s"] for one in waiting.values())
        return ASK_SELDOM_S if oldest > _LONG_S else ASK_S

    def _complain(self, problem: str) -> None:
        """Say it once, and when it is over."""
        if self._complaint is None or bool(problem) != bool(self._complaint):
            log.log(logging.WARNING if problem else logging.INFO, problem or "the control plane answers")
        self._complaint = problem

    async def _say_goodbye(self) -> None:
        with contextlib.suppress(ControlAway, TimeoutError):
            async with asyncio.timeout(1.0):
                await self.control.ask(self._said(gone=True))

    # --- the end ------------------------------------------------------------------------------------------

    async def _finish(self) -> None:
        """Let go of who waits, and wait a moment for answers under way."""
        self.lines.is_closing = True
        for held in tuple(self._held):
            held.stir()
        log.info("ending, %d requests in hand", len(self._held))
        if self._held:
            _, late = await asyncio.wait(self._held.values(), timeout=_FINISH_S)
            for held in tuple(self._held):
                held.link.reset()
            if late:
                await asyncio.wait(late, timeout=0.5)


def _affordable(limits: Limits) -> Limits:
    """As many as this process may have files open for: two each."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * limits.total + _SPARE_FILES
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    total = min(limits.total, max(1, (soft - _SPARE_FILES) // 2))
    return Limits(min(limits.each, total), total, limits.size, limits.hold_s)


def _answers(path: str) -> bool:
    """Whether somebody listens at a socket file; one that was left behind does not count."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        try:
            probe.connect(path)
        except OSError:
            return False
        return True
