"""Encryption of secrets at rest (hub tokens, registry passwords) with keys outside the database.

`<home>/keys/secrets.key` holds one Fernet key a line: the first encrypts, all decrypt. `manage.py rotate_secrets_key`
puts a new one on top (config.reencryption); a running process notices at its next use of a secret.
Fernet: AES-128-CBC with HMAC-SHA256 (cryptography's specification).
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import models

from config.keyfiles import read_or_create, stamp


def key_file() -> Path:
    """Where the keys are, newest first."""
    return Path(settings.BERTH_HOME) / "keys" / "secrets.key"


def new_key() -> str:
    """A line for it."""
    return Fernet.generate_key().decode()


def keys() -> list[str]:
    """Its lines; makes the first one if there is none."""
    return read_or_create(key_file(), new_key).split()


@lru_cache(maxsize=4)
def _cipher(_path: Path, _stamp: tuple[int, ...]) -> MultiFernet:
    return MultiFernet([Fernet(line) for line in keys()])


def cipher() -> MultiFernet:
    """The installation's cipher, as its key file is now."""
    path = key_file()
    return _cipher(path, stamp(path))


def encrypt(plain: str) -> str:
    """Ciphertext for the database; "" stays ""."""
    return cipher().encrypt(plain.encode()).decode() if plain else ""


def decrypt(token: str) -> str:
    """The plain text. Raises ImproperlyConfigured when no present key fits."""
    if not token:
        return ""
    try:
        return cipher().decrypt(token.encode()).decode()
    except InvalidToken as error:
        raise ImproperlyConfigured(
            "A stored secret does not fit any key in keys/secrets.key. Restore the key that was in use, "
            "or enter the secret again."
        ) from error


class EncryptedTextField(models.TextField):  # type: ignore[type-arg]
    """Text that is ciphertext in the database and plain in Python. It can't be searched."""

    def get_prep_value(self, value: Any) -> Any:
        """Encrypt on the way in."""
        return encrypt(value) if value else value

    def from_db_value(self, value: Any, _expression: Any, _connection: Any) -> Any:
        """Decrypt on the way out."""
        return decrypt(value) if value else value


class EncryptedJSONField(EncryptedTextField):
    """A JSON document that is ciphertext in the database. An empty document is stored as ""."""

    # What django-stubs takes for the types of the attribute.
    _pyi_private_set_type: Any
    _pyi_private_get_type: Any

    def get_prep_value(self, value: Any) -> Any:
        """Serialise, then encrypt."""
        return super().get_prep_value(json.dumps(value, sort_keys=True) if value else "")

    def from_db_value(self, value: Any, expression: Any, connection: Any) -> Any:
        """Decrypt, then parse."""
        plain = super().from_db_value(value, expression, connection)
        return json.loads(plain) if plain else {}

    def to_python(self, value: Any) -> Any:
        """What forms and fixtures hand in: text or the document itself."""
        return json.loads(value) if isinstance(value, str) and value else value or {}
