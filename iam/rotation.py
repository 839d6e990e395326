"""Where the replacement of a secret stands. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from iam.models import MAX_SECRETS, ServiceAccountSecret

ADD, MOVE, DELETE = 1, 2, 3


@dataclass(frozen=True, slots=True)
class Rotation:
    """step: ADD, MOVE (programs still sign in with the older one) or DELETE (none has for as long as a token lives).

    older, newer  while both are there
    """

    step: int
    older: ServiceAccountSecret | None = None
    newer: ServiceAccountSecret | None = None


def rotation(secrets: Iterable[ServiceAccountSecret], now: datetime, token_life: timedelta) -> Rotation:
    """The next step, and what it is about.

    A program signs in once per token: one that has not done so for a token's life has moved, or does not run.
    """
    both = sorted(secrets, key=lambda secret: (secret.created_at, secret.pk))
    if len(both) < MAX_SECRETS:
        return Rotation(ADD)
    older, newer = both[0], both[-1]
    quiet_since = max(filter(None, (older.last_used_at, newer.created_at)))
    moved = newer.last_used_at is not None and quiet_since <= now - token_life
    ended = older.expires_at is not None and older.expires_at <= now
    return Rotation(DELETE if moved or ended else MOVE, older, newer)
