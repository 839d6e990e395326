"""Digests of service account secrets.

A secret is 256 random bits, so that no slow hash is needed to keep it from being guessed: a keyed digest takes
microseconds where a password hash takes a quarter of a second, for every token. The key is a file beside the
database: a stolen database alone does not even let somebody test a secret that they have.

`<home>/keys/client_secrets.key` holds one key a line: the first makes new digests, each digest names the one that
made it. `manage.py rotate_secrets_key --client-secrets` puts a new one on top. A digest can't be made anew without
its secret, so an old key goes (`--drop-old`) when the secrets that were made with it have been replaced.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from functools import lru_cache
from pathlib import Path
from typing import Any

from django.apps import apps
from django.conf import settings
from django.contrib.auth.hashers import BasePasswordHasher
from django.utils import timezone
from django.utils.translation import gettext_noop as _

from config import keyfiles

SECRET_BYTES = 32


def key_file() -> Path:
    """Where the keys are, newest first."""
    return Path(settings.BERTH_HOME) / "keys" / "client_secrets.key"


@lru_cache(maxsize=4)
def _keys(path: str, _stamp: tuple[int, ...]) -> dict[str, bytes]:
    """Key id → key, the one that makes new digests first."""
    return {_id_of(line): line.encode() for line in keyfiles.read_or_create(Path(path)).split()}


def _id_of(line: str) -> str:
    return hashlib.sha256(line.encode()).hexdigest()[:8]


def put_new_key() -> int:
    """New digests are made with a new key. How many keys there are now."""
    path = key_file()
    with keyfiles.locked(path.parent):
        kept = keyfiles.read_or_create(path).split()
        keyfiles.replace(path, "\n".join([secrets.token_urlsafe(48), *kept]))
        return len(kept) + 1


def drop_unused_keys() -> tuple[int, dict[str, int]]:
    """Remove the old keys that no stored digest names. How many, and by id the digests that need each one kept."""
    path = key_file()
    secrets_kept = apps.get_model("iam", "ServiceAccountSecret").objects.values_list("digest", flat=True)
    # An invitation that was used or is over needs no key.
    open_now = {"accepted_at": None, "expires_at__gt": timezone.now()}
    invited = apps.get_model("iam", "Invitation").objects.filter(**open_now).values_list("digest", flat=True)
    stored = [*secrets_kept, *invited]
    with keyfiles.locked(path.parent):
        first, *others = keyfiles.read_or_create(path).split()
        named = [digest.split("$", 2)[1] for digest in stored]
        needed = {_id_of(line): named.count(_id_of(line)) for line in others if _id_of(line) in named}
        kept = [line for line in others if _id_of(line) in needed]
        if len(kept) < len(others):
            keyfiles.replace(path, "\n".join([first, *kept]))
        return len(others) - len(kept), needed


def new_secret() -> str:
    """A client_secret: 256 bits, of characters that need no quoting in a URL, a shell or a Basic header."""
    return secrets.token_urlsafe(SECRET_BYTES)


class SecretHasher(BasePasswordHasher):
    """`berth_hmac$<key id>$<HMAC-SHA256, hex>`. No salt: random secrets have no equals and fit no table."""

    algorithm = "berth_hmac"

    def _keys(self) -> dict[str, bytes]:
        path = key_file()
        return _keys(str(path), keyfiles.stamp(path))

    def salt(self) -> str:
        """The id of the key that new digests are made with, where other hashers keep their salt."""
        return next(iter(self._keys()))

    def encode(self, password: str, salt: str) -> str:
        """The digest of `password` under the key that `salt` names. An unknown key gives a digest of no secret."""
        key = self._keys().get(salt) or bytes(32)
        # Text from outside may hold lone surrogates, which strict UTF-8 refuses.
        digest = hmac.new(key, password.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()
        return f"{self.algorithm}${salt}${digest}"

    def digests(self, password: str) -> list[str]:
        """The digests of `password` under every key in use: where a row is found by its secret alone."""
        return [self.encode(password, salt) for salt in self._keys()]

    def decode(self, encoded: str) -> dict[str, Any]:
        """The parts of a stored digest."""
        algorithm, salt, digest = encoded.split("$", 2)
        return {"algorithm": algorithm, "salt": salt, "hash": digest}

    def verify(self, password: str, encoded: str) -> bool:
        """Whether `encoded` is the digest of `password`, compared in constant time."""
        salt = self.decode(encoded)["salt"]
        known = salt in self._keys()
        return hmac.compare_digest(self.encode(password, salt), encoded) and known

    def safe_summary(self, encoded: str) -> dict[Any, Any]:
        """What the admin may show."""
        return {_("algorithm"): self.algorithm, _("key"): self.decode(encoded)["salt"]}

    def must_update(self, encoded: str) -> bool:
        """Whether a newer key is in use."""
        return bool(self.decode(encoded)["salt"] != self.salt())

    def harden_runtime(self, password: str, encoded: str) -> None:
        """Nothing to even out: every digest takes the same time."""


@lru_cache(maxsize=4)
def _nobodys_digest(home: str) -> str:
    hasher = SecretHasher()
    return hasher.encode(new_secret(), hasher.salt())


def nobodys_digest() -> str:
    """A digest that no secret has, to compare with where there is nothing to compare with."""
    return _nobodys_digest(str(settings.BERTH_HOME))
