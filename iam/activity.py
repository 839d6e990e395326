"""Whether an identity is still in use: one that nobody uses is one that nobody misses when it is stolen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from iam.directory import directory
from iam.models import ApiKey, ServiceAccount

UNUSED_AFTER = timedelta(days=90)


@dataclass(frozen=True, slots=True)
class Activity:
    """Of a service account or an API key.

    last_used_at  its last token or its last call of an endpoint, whichever is later; None: never
    unused        not for 90 days, and it is older than that
    """

    last_used_at: datetime | None
    unused: bool


def activity(holders: Iterable[ServiceAccount | ApiKey], now: datetime) -> Mapping[str, Activity]:
    """By id. One query at any number of them."""
    known = list(holders)
    called = directory().last_used([item.id for item in known]) if known else {}
    return {item.id: _activity(item, called.get(item.id), now) for item in known}


def _activity(holder: ServiceAccount | ApiKey, called: datetime | None, now: datetime) -> Activity:
    moments = [moment for moment in (holder.last_used_at, called) if moment is not None]
    last = max(moments, default=None)
    return Activity(last, unused=(last or holder.created_at) <= now - UNUSED_AFTER)
