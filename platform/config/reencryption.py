"""Changing the key of secrets at rest while the platform runs.

1. `put_new_key`: a new key on top of keys/secrets.key. Running processes notice at their next use of a secret and
   encrypt with it; all keys still decrypt.
2. `reencrypt`: every stored secret that is not under the first key is put under it. A row is changed only where its
   ciphertext is still the one that was read, so that a write in between is never lost; stopped half-way, the next run
   does the rest.
3. `drop_old_keys`: the others leave the file, after a last look that nothing needs them.

Secrets are found by the class of their field, so that a new model is covered by itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography.fernet import Fernet, InvalidToken
from django.apps import apps
from django.db import models
from django.db.models import F, Value
from django.db.models.functions import Cast

from config import crypto, keyfiles
from config.crypto import EncryptedTextField

BATCH = 200
# A transaction that began under the old key has ended after this; SQLite's longest wait for a lock is a third of it.
SETTLED_AFTER = timedelta(seconds=60)
# JSON documents of other people's models in which our ciphertext stands (allauth's adapters encrypt with it).
_DOCUMENTS = (("mfa", "authenticator", "data"),)
_FERNET = "gAAAA"  # version 0x80 and the first bytes of any time before the year 2242, in Base64


class KeysNeeded(Exception):
    """Old keys can't be dropped. Its text says why."""


@dataclass(frozen=True, slots=True)
class Place:
    """A column that holds ciphertext: a text of it, or a JSON document with such texts inside."""

    model: type[models.Model]
    column: str
    document: bool = False

    def __str__(self) -> str:
        return f"{self.model._meta.label}.{self.column}"


@dataclass(slots=True)
class Tally:
    """What became of a place's secrets. `lost` fit no key: the primary keys of their rows."""

    present: int = 0
    renewed: int = 0
    lost: list[Any] | None = None


def places() -> list[Place]:
    """Every column with ciphertext of every installed app."""
    found = [
        Place(model, field.attname)
        for model in apps.get_models(include_auto_created=True)
        if not model._meta.proxy and model._meta.managed
        for field in model._meta.local_concrete_fields
        if isinstance(field, EncryptedTextField)
    ]
    for app, model, column in _DOCUMENTS:
        if apps.is_installed(f"allauth.{app}"):
            found.append(Place(apps.get_model(app, model), column, document=True))
    return found


def put_new_key() -> int:
    """A new first key. How many there are now."""
    path = crypto.key_file()
    with keyfiles.locked(path.parent):
        kept = crypto.keys()
        keyfiles.replace(path, "\n".join([crypto.new_key(), *kept]))
        return len(kept) + 1


def reencrypt(place: Place) -> Tally:
    """Put every secret of `place` under the first key. No other column and no `updated_at` changes."""
    first = Fernet(crypto.keys()[0])
    tally = Tally()
    for key, stored in _rows(place):
        tally.present += 1
        for attempt in range(3):
            try:
                renewed = _renewed(place, stored, first)
            except InvalidToken:
                tally.lost = [*(tally.lost or []), key]
                break
            if renewed == stored:
                break
            if _swap(place, key, stored, renewed):
                tally.renewed += 1
                break
            again = _stored(place, key)  # written in between, perhaps by a process that had not noticed yet
            if not again or attempt == 2:
                break
            stored = again
    return tally


def settled_in(now: datetime) -> timedelta:
    """How long until no transaction can be left that began before the present first key."""
    if len(crypto.keys()) == 1:
        return timedelta()
    put = datetime.fromtimestamp(crypto.key_file().stat().st_mtime, UTC)
    return max(SETTLED_AFTER - (now - put), timedelta())


def drop_old_keys() -> int:
    """Keep the first key alone, if it decrypts everything that any key decrypts. How many were dropped.

    Raises KeysNeeded.
    """
    path = crypto.key_file()
    with keyfiles.locked(path.parent):
        first, *others = crypto.keys()
        if not others:
            return 0
        needing = {str(place): count for place in places() if (count := _under_others(place, Fernet(first)))}
        if needing:
            listed = ", ".join(f"{count} in {place}" for place, count in needing.items())
            raise KeysNeeded(
                f"Old keys are still needed: {listed}. Run the command without --drop-old first."
            )
        keyfiles.replace(path, first)
        return len(others)


def _under_others(place: Place, first: Fernet) -> int:
    count = 0
    for _key, stored in _rows(place):
        try:
            count += _renewed(place, stored, first) != stored
        except InvalidToken:
            continue  # no key fits: dropping some changes nothing for it
    return count


def _renewed(place: Place, stored: str, first: Fernet) -> str:
    """`stored` with all its ciphertext under the first key. Raises InvalidToken where no key fits."""
    if place.document:
        return json.dumps(_renewed_inside(json.loads(stored), first))
    return _token(stored, first)


def _renewed_inside(value: Any, first: Fernet) -> Any:
    if isinstance(value, dict):
        return {name: _renewed_inside(inner, first) for name, inner in value.items()}
    if isinstance(value, list):
        return [_renewed_inside(inner, first) for inner in value]
    return _token(value, first) if isinstance(value, str) and value.startswith(_FERNET) else value


def _token(token: str, first: Fernet) -> str:
    try:
        first.decrypt(token)
    except InvalidToken:
        return crypto.cipher().rotate(token).decode()
    return token


# --- rows as they are stored, past the field's own decryption -------------------------------------------------


def _raw(place: Place) -> models.QuerySet[Any]:
    text = Cast(F(place.column), models.TextField())
    rows: models.QuerySet[Any] = place.model._base_manager.annotate(stored_text=text)
    return rows


def _rows(place: Place) -> Iterator[tuple[Any, str]]:
    """(primary key, stored text) of those that hold something, in batches: nothing is locked meanwhile."""
    last: Any = None
    while True:
        rows = _raw(place).exclude(stored_text=None).exclude(stored_text="").order_by("pk")
        if last is not None:
            rows = rows.filter(pk__gt=last)
        batch = list(rows.values_list("pk", "stored_text")[:BATCH])
        yield from batch
        if len(batch) < BATCH:
            return
        last = batch[-1][0]


def _stored(place: Place, key: Any) -> str:
    return _raw(place).filter(pk=key).values_list("stored_text", flat=True).first() or ""


def _swap(place: Place, key: Any, before: str, after: str) -> bool:
    """Whether the row still held `before`, and now holds `after`."""
    new: Any = json.loads(after) if place.document else Value(after, models.TextField())
    return bool(_raw(place).filter(pk=key, stored_text=before).update(**{place.column: new}))
