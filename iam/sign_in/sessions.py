"""A person's sessions: where they are signed in, since when and from where; and ending them.

A session that is ended is gone from the session store: its next request is anonymous, and its sockets, which ask
again every few seconds (endpoints.live_access), close.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from allauth.usersessions.models import UserSession
from django.contrib.sessions.backends.db import SessionStore
from django.contrib.sessions.models import Session
from django.db import DatabaseError
from django.http import HttpRequest, HttpResponse
from django.utils import timezone

from iam import addresses
from iam.models import User

logger = logging.getLogger(__name__)

SEEN_EVERY_S = 60.0
NO_ADDRESS = "0.0.0.0"  # noqa: S104 - what stands for "unknown": the column takes addresses alone

_BROWSERS = (
    ("Edge", re.compile(r"Edg(?:e|A|iOS)?/(\d+)")),
    ("Opera", re.compile(r"OPR/(\d+)")),
    ("Firefox", re.compile(r"(?:Firefox|FxiOS)/(\d+)")),
    ("Chrome", re.compile(r"(?:HeadlessChrome|Chrome|CriOS)/(\d+)")),
    ("Safari", re.compile(r"Version/(\d+)[\d.]* .*Safari/")),
)
_SYSTEMS = (
    ("Android", "Android"),
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("Windows", "Windows"),
    ("Mac OS X", "macOS"),
    ("CrOS", "ChromeOS"),
    ("Linux", "Linux"),
)


@dataclass(frozen=True, slots=True)
class SessionRow:
    """One session in words. device: "Firefox 141 · Linux", "" if it can't be told; address "" likewise."""

    id: int
    device: str
    address: str
    since: datetime
    seen: datetime
    this: bool


def sessions_of(user: User, present_key: str | None) -> list[SessionRow]:
    """Those that still count, this one first, then the latest seen. Rows of ended sessions are cleared away."""
    rows = [
        SessionRow(
            id=row.pk,
            device=device_of(row.user_agent),
            address="" if row.ip == NO_ADDRESS else row.ip,
            since=row.created_at,
            seen=row.last_seen_at,
            this=row.session_key == present_key,
        )
        for row in UserSession.objects.purge_and_list(user)
    ]
    return sorted(rows, key=lambda row: (not row.this, -row.seen.timestamp()))


def end(user: User, session_id: int) -> bool:
    """End one of the person's sessions; False if they have no such session."""
    row = UserSession.objects.filter(user=user, pk=session_id).first()
    if row is None:
        return False
    row.end()
    return True


def end_all(user: User, but: str | None = None) -> int:
    """End all of the person's sessions except the one with the key `but`; says how many."""
    rows = list(UserSession.objects.filter(user=user).exclude(session_key=but or ""))
    for row in rows:
        row.end()
    return len(rows)


def clear_expired() -> None:
    """Remove sessions whose time is over, and what was noted of sessions that are gone."""
    SessionStore.clear_expired()
    UserSession.objects.exclude(session_key__in=Session.objects.values("session_key")).delete()


def device_of(user_agent: str) -> str:
    """What a person calls it. A browser says of itself what it likes: this is for recognising, not for deciding."""
    browser = next(
        (f"{name} {found.group(1)}" for name, pattern in _BROWSERS if (found := pattern.search(user_agent))),
        "",
    )
    system = next((name for mark, name in _SYSTEMS if mark in user_agent), "")
    return " · ".join(part for part in (browser, system) if part) or user_agent[:60]


def address_for_row(request: HttpRequest) -> str:
    """The caller's address as the column takes it."""
    found = addresses.client_address(request)
    return NO_ADDRESS if found == addresses.UNKNOWN else found


class _Noted:
    """Which sessions this process has noted lately: one write a minute for each is enough."""

    def __init__(self) -> None:
        self.at: dict[str, float] = {}

    def due(self, key: str, now: float) -> bool:
        """Whether to note it; from now on it is noted."""
        if now - self.at.get(key, -SEEN_EVERY_S) < SEEN_EVERY_S:
            return False
        if len(self.at) > 10_000:
            self.at = {k: at for k, at in self.at.items() if now - at < SEEN_EVERY_S}
        self.at[key] = now
        return True


_noted = _Noted()


def seen(key: str) -> None:
    """A page of this session is open: its socket asked."""
    if _noted.due(key, time.monotonic()):
        UserSession.objects.filter(session_key=key).update(last_seen_at=timezone.now())


class LastSeen:
    """Notes when and from where a session was used last, at most once a minute for each session and process."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Note it before the page is made, so that the list of sessions shows it."""
        key = request.session.session_key
        if key and request.user.is_authenticated and _noted.due(key, time.monotonic()):
            try:
                self._note(request, key)
            except DatabaseError as error:  # a database that takes no writes must not cost the page
                logger.warning("when a session was last seen is not noted: %s", error)
        return self.get_response(request)

    def _note(self, request: HttpRequest, key: str) -> None:
        known = UserSession.objects.filter(session_key=key, user=request.user).update(
            last_seen_at=timezone.now(), ip=address_for_row(request)
        )
        if not known:  # begun before sessions were listed, or by something else than our sign-in
            UserSession.objects.create_from_request(request)
