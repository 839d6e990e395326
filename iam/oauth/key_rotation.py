"""When signing keys change and when old ones go, of both rings; by command and by the clock.

A new key is published first and signs later (`keys.OVERLAP`), so that everyone who checks tokens knows it in time.
An old one goes when the last token that it may have signed has expired: for access tokens that is soon, for API keys
when the last of them from its time has. Whoever changes keys holds the lock, so that several workers make one key.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

from django.conf import settings

from config import keyfiles
from iam import audit
from iam.models import ApiKey
from iam.oauth import keys
from iam.oauth.keys import OVERLAP, Ring, SigningKey
from iam.signals import access_changed

# In a hurry: twice the longest that a gateway takes to hear of a key.
SOON = timedelta(seconds=10)


def rotate(ring: Ring, now: datetime, after: timedelta = OVERLAP) -> SigningKey:
    """Publish a new key that signs `after` now."""
    with _locked():
        return _add(ring, now + after)


def replace_all(ring: Ring, now: datetime) -> tuple[SigningKey, list[SigningKey]]:
    """After a theft: a new key that signs at once, and what was removed: all others."""
    with _locked():
        new = _add(ring, now)
        return new, keys.remove(ring, lambda key: key.kid != new.kid)


def turn(now: datetime) -> None:
    """What the clock does: a new key where the newest has reached its age, and no key longer than it is needed."""
    for ring in Ring:
        with _locked():
            if is_due(keys.published_keys(ring)[-1], now):
                note(None, ring, [_add(ring, now + OVERLAP)], [])
        note(None, ring, [], retire(ring, now))


def note(
    by: audit.Command | None, ring: Ring, made: Iterable[SigningKey], removed: Iterable[SigningKey]
) -> None:
    """Put it on record; the clock is nobody."""
    for action, found in (("create", made), ("delete", removed)):
        for key in found:
            audit.record(by, f"signing_key.{action}", kind="signing_key", name=f"{ring} {key.kid}")


def is_due(newest: SigningKey, now: datetime) -> bool:
    """Whether the newest key of a ring is as old as a key may get (BERTH_SIGNING_KEY_DAYS; 0: for ever)."""
    days = settings.BERTH_SIGNING_KEY_DAYS
    return bool(days) and now - began(newest) >= timedelta(days=days)


def began(key: SigningKey) -> datetime:
    """Since when it signs; the first one of an installation, which signs from always, since it was made."""
    made = datetime.fromtimestamp(key.path.stat().st_mtime, UTC)
    return made if key.signs_from < datetime(2000, 1, 1, tzinfo=UTC) else key.signs_from


def retire(ring: Ring, now: datetime) -> list[SigningKey]:
    """Remove the keys whose last token has expired. Those removed."""
    with _locked():
        over = {
            key.kid
            for key, successor in pairwise(keys.published_keys(ring))
            if _last_expiry(ring, key, successor) <= now
        }
        gone = keys.remove(ring, lambda key: key.kid in over) if over else []
    if gone:
        access_changed.send(sender=SigningKey)
    return gone


def _last_expiry(ring: Ring, key: SigningKey, successor: SigningKey) -> datetime:
    """When the last token that `key` may have signed has expired. Clocks of machines differ by less than OVERLAP."""
    until = successor.signs_from + OVERLAP
    if ring is Ring.ACCESS:
        return until + timedelta(seconds=settings.BERTH_TOKEN_LIFETIME_S)
    signed = ApiKey.objects.filter(created_at__gte=key.signs_from - OVERLAP, created_at__lt=until)
    last = signed.order_by("-expires_at").values_list("expires_at", flat=True).first()
    return max(until, last + OVERLAP) if last else until


def _add(ring: Ring, signs_from: datetime) -> SigningKey:
    keys.published_keys(ring)  # an installation without keys gets its first one beside the new one
    new = keys.add_key(signs_from.replace(microsecond=0), ring)
    access_changed.send(sender=SigningKey)
    return new


@contextmanager
def _locked() -> Iterator[None]:
    with keyfiles.locked(Path(settings.BERTH_HOME) / "keys"):
        yield
