"""Live pages (contract §6).

A consumer authorises before it sends anything, sends the full present state, then what changed. A group message only
wakes it: it reads the database for itself, at once for the first change and at most about ten times a second after
that. Every few seconds it looks without being woken, so that a lost message costs no more than that, and asks again
whether the person is still signed in and still allowed.

A refusal accepts the socket and closes it with a code of its own: a browser whose socket is refused before it is
accepted is told nothing and would try for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import parse_qsl

import redis
from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer
from django.http import HttpRequest
from django.utils import translation

from endpoints import live, log_tail, replica_logs
from endpoints.live_access import SignedOut, actor_of_session
from endpoints.live_pages import EndpointPage, ListPage, ModelsPage, Page
from endpoints.models import Replica
from endpoints.models.replica import LIVE_STATES
from endpoints.selectors import replica_of
from iam.actors import Actor
from iam.roles import Permission

log = logging.getLogger(__name__)

CHECK_S = 4.0  # a page is never stale for longer than this and the time it takes to look
BEAT_S = 2.0  # the browser takes twice this much silence for a dead connection
FRAME_S = 0.1  # between two frames

SIGNED_OUT, REFUSED, GONE = 4401, 4403, 4404


class Refused(Exception):
    """Close with this code, and send nothing."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class LiveConsumer(AsyncWebsocketConsumer):  # type: ignore[misc]
    """The life of a socket; subclasses say what is shown."""

    async def connect(self) -> None:
        """Authorise, subscribe, start."""
        self.wake = asyncio.Event()
        self.groups_joined: list[str] = []
        self.task: asyncio.Task[None] | None = None
        self.query = dict(parse_qsl(self.scope["query_string"].decode("latin-1")))
        self.project_id = self.query.get("project")
        self.language = _language(self.scope)
        try:
            await self.authorise()
        except Refused as refused:
            await self.accept()
            await self.close(code=refused.code)
            return
        await self.accept()
        await self._join()
        self.task = asyncio.create_task(self._guard())

    async def disconnect(self, code: int) -> None:
        """Stop looking."""
        if self.task is not None:
            self.task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self.task
        for group in self.groups_joined:
            with contextlib.suppress(redis.RedisError, OSError):
                await self.channel_layer.group_discard(group, self.channel_name)

    async def authorise(self) -> None:
        """Set `self.actor`; raises Refused. Called on connect and every few seconds after."""
        self.actor = await self.in_thread(self._find_actor)
        # A page never turns into one of another project: not when the person switches, nor when they lose this one.
        self.project_id = self.actor.project.id

    def groups_wanted(self) -> list[str]:
        """The groups whose messages wake this page."""
        raise NotImplementedError

    async def run(self) -> None:
        """Send until the socket ends; raises Refused when it has to end."""
        raise NotImplementedError

    async def rest(self, since: float, until: float) -> None:
        """Wait for a message, till the next beat or `until` at most; never less than a frame after `since`."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.wake.wait(), max(0.0, min(BEAT_S, until - time.monotonic())))
        pause = FRAME_S - (time.monotonic() - since)
        if pause > 0:
            await asyncio.sleep(pause)

    async def _guard(self) -> None:
        try:
            await self.run()
        except Refused as refused:
            await self.close(code=refused.code)
        except asyncio.CancelledError:
            raise
        except Exception:
            # A page must not stand there as live when nothing follows: the browser connects anew.
            log.exception("a live page broke")
            await self.close(code=1011)

    async def _join(self) -> None:
        for group in self.groups_wanted():
            try:
                await self.channel_layer.group_add(group, self.channel_name)
                self.groups_joined.append(group)
            except (redis.RedisError, OSError) as error:
                log.warning("no live messages for %s (%s): the page looks by itself", group, error)

    def _find_actor(self) -> Actor:
        try:
            actor = actor_of_session(self.scope["session"].session_key, self.project_id)
        except SignedOut as error:
            raise Refused(SIGNED_OUT) from error
        if actor is None or not actor.may(Permission.VIEW):
            raise Refused(REFUSED)
        return actor

    async def in_thread(self, function: Any, *args: Any) -> Any:
        """Run in a thread, in the reader's language."""

        def inside() -> Any:
            with translation.override(self.language):
                return function(*args)

        return await database_sync_to_async(inside)()

    # group messages: nothing but a knock on the door
    async def endpoint_changed(self, message: Mapping[str, Any]) -> None:
        """Something about an endpoint is new."""
        self.wake.set()

    async def models_changed(self, message: Mapping[str, Any]) -> None:
        """Something about a model is new."""
        self.wake.set()


class PageConsumer(LiveConsumer):
    """Sends the fragments of a page whose HTML changed."""

    page: Page

    async def authorise(self) -> None:
        """Also find the page's object in the actor's project."""
        await super().authorise()
        page = await self.in_thread(self.make_page)
        if page is None:
            raise Refused(GONE)
        self.page = page

    def make_page(self) -> Page | None:
        """The page, None if its object is not there for this actor."""
        raise NotImplementedError

    def groups_wanted(self) -> list[str]:
        """The page knows."""
        return self.page.groups

    async def run(self) -> None:
        """Full state, then changes."""
        sent: dict[str, str] = {}
        seen: object = None
        looked = -CHECK_S
        asked = time.monotonic()
        while True:
            started = time.monotonic()
            if started - asked >= CHECK_S:
                asked = started
                await self._ask_again()
            knocked = self.wake.is_set()
            self.wake.clear()
            html = ""
            if knocked or started - looked >= CHECK_S:
                looked = started
                version = await self.in_thread(self.page.version)
                if knocked or version != seen:
                    seen = version
                    fragments = await self.in_thread(self.page.fragments)
                    if not fragments:
                        await self._say_farewell()
                    html = self.page.frame(sent, fragments)
                    sent = fragments
            if html or not knocked:
                await self.send(html)
            await self.rest(started, looked + CHECK_S)

    async def _ask_again(self) -> None:
        before = self.page
        try:
            await self.authorise()
        except Refused as refused:
            if refused.code == GONE:
                await self._say_farewell()
            raise
        self.page.inherit(before)

    async def _say_farewell(self) -> None:
        await self.send(await self.in_thread(self.page.farewell))
        raise Refused(GONE)


class EndpointListConsumer(PageConsumer):
    """The project's list, as the page's own query string narrows and sorts it."""

    def make_page(self) -> Page:
        """Always there."""
        return ListPage(self.actor, self.query)


class EndpointConsumer(PageConsumer):
    """One endpoint's page; `?tab=` says which parts it shows."""

    def make_page(self) -> Page | None:
        """None if there is no such endpoint in the project."""
        page = EndpointPage(self.actor, self.scope["url_route"]["kwargs"]["endpoint_id"], self.query)
        return page if page.exists() else None


class ModelListConsumer(PageConsumer):
    """The project's models."""

    def make_page(self) -> Page:
        """Always there."""
        return ModelsPage(self.actor)


class LogConsumer(LiveConsumer):
    """The log of one replica: its tail, then every line. Frames are JSON: {"lines": [...], "all": bool}.

    The lines stand in Redis; a message only says that there are more. What is sent a second is bounded there, and
    what one frame holds is what is kept there.
    """

    async def authorise(self) -> None:
        """Also find the replica in the actor's project."""
        await super().authorise()
        found = await self.in_thread(self._find_replica)
        if found is None:
            raise Refused(GONE)
        self.replica: Replica = found

    def _find_replica(self) -> Replica | None:
        endpoint_id = self.scope["url_route"]["kwargs"]["endpoint_id"]
        return replica_of(self.actor.project, endpoint_id, self.query.get("replica", ""))

    def groups_wanted(self) -> list[str]:
        """This replica's lines."""
        return [live.logs_group(self.replica.name)]

    async def log_grew(self, message: Mapping[str, Any]) -> None:
        """There is more to read."""
        self.wake.set()

    async def run(self) -> None:
        """The tail, or of a replica that ended what was kept; then lines as they come."""
        seen = log_tail.Seen()
        ended = self.replica.state not in LIVE_STATES
        if ended:
            lines = await self.in_thread(replica_logs.last_lines, self.replica, live.LOG_PAGE_LINES)
        else:
            lines, seen = (news := await self._news(seen)).lines, news.seen
        await self.send(json.dumps({"all": True, "lines": lines}))
        asked = time.monotonic()
        while True:
            started = time.monotonic()
            if started - asked >= CHECK_S:
                asked = started
                await self.authorise()
            self.wake.clear()
            news = log_tail.News([], seen) if ended else await self._news(seen)
            seen = news.seen
            frame = json.dumps({"all": news.anew, "lines": news.lines}) if news.lines or news.anew else ""
            await self.send(frame)
            await self.rest(started, asked + CHECK_S)

    async def _news(self, seen: log_tail.Seen) -> log_tail.News:
        try:
            with translation.override(self.language):
                return await log_tail.read(self.replica.name, seen)
        except (redis.RedisError, OSError) as error:
            log.warning("the log of %s can't be read for now: %s", self.replica.name, error)
            return log_tail.News([], seen)


def _language(scope: Mapping[str, Any]) -> str:
    """The language the page was served in: the same rules as LocaleMiddleware, on a socket's headers."""
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope.get("headers", [])}
    request = SimpleNamespace(
        COOKIES=scope.get("cookies", {}),
        META={"HTTP_ACCEPT_LANGUAGE": headers.get("accept-language", "")},
        path_info="/",
    )
    return translation.get_language_from_request(cast(HttpRequest, request))
