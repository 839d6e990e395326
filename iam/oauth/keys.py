"""The keys that sign tokens: RSA private keys in `<BERTH_HOME>/keys/<ring>/*.pem`, mode 0600.

Two rings: one for access tokens, which live half an hour, one for API keys, which live up to a year. Either can be
replaced without the other, and what is signed by the second is no access token.

A file's name says from when its key signs: `20260131T120000Z-1f2e3d4c.pem`. Of those whose time has come the
newest signs; all of them are published, so that a key is known everywhere before its first token (RFC 7517 key
sets; the kid is the key's thumbprint, RFC 7638). A file's content never changes, only files come and go: the
folder's listing tells when to read again, and each PEM is parsed once per process (parsing and checking one
takes longer than ten signatures).
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Any

from allauth.core.internal import jwkkit
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from config.keyfiles import read_or_create

KEY_BITS = 2048


class Ring(StrEnum):
    """A set of keys, by the name of its folder."""

    ACCESS = "signing"
    API_KEYS = "api-keys"


# How long a key is published before it signs: gateways follow within seconds, other verifiers within jwks' max-age.
OVERLAP = timedelta(seconds=300)
_NAME = re.compile(r"(\d{8}T\d{6}Z)-\w+\.pem")
_FIRST = "19700101T000000Z-first.pem"


@dataclass(frozen=True, slots=True, eq=False)
class SigningKey:
    """One key. `public` is its JWK (RFC 7517), `signs_from` the moment of its first token."""

    path: Path
    kid: str
    signs_from: datetime
    public: dict[str, Any]
    pem: str = field(repr=False)
    private: rsa.RSAPrivateKey = field(repr=False)


def folder(ring: Ring = Ring.ACCESS) -> Path:
    """Where the keys are."""
    return Path(settings.BERTH_HOME) / "keys" / ring


def published_keys(ring: Ring = Ring.ACCESS) -> tuple[SigningKey, ...]:
    """Every key that a token may be signed with, oldest first. Makes the first one if there is none."""
    for _attempt in range(3):
        files = _listing(ring)
        if not files:
            # A fixed name: of several processes that start at once, one creates it and all read it.
            read_or_create(folder(ring) / _FIRST, _new_pem)
            continue
        try:
            return _load(str(folder(ring)), files)
        except FileNotFoundError:
            continue  # retired between listing and reading
    raise ImproperlyConfigured(f"The signing keys in {folder(ring)} can't be read.")


def signing_key(now: datetime | None = None, ring: Ring = Ring.ACCESS) -> SigningKey:
    """The key for new tokens: the newest whose time has come."""
    moment = now or datetime.now(UTC)
    active = [key for key in published_keys(ring) if key.signs_from <= moment]
    if not active:
        raise ImproperlyConfigured(
            f"No key in {folder(ring)} signs yet. Run `manage.py rotate_signing_key --now` to make one."
        )
    return active[-1]


def key_by_id(kid: str, ring: Ring = Ring.ACCESS) -> SigningKey | None:
    """The published key with this kid."""
    return next((key for key in published_keys(ring) if key.kid == kid), None)


def public_jwks() -> str:
    """The public keys of access tokens as a JWK set, a JSON document. The same keys give the same text."""
    return _jwks(published_keys())


def merged_jwks() -> str:
    """Those of both rings: what a gateway lets pass."""
    return _jwks((*published_keys(), *published_keys(Ring.API_KEYS)))


def add_key(signs_from: datetime, ring: Ring = Ring.ACCESS) -> SigningKey:
    """Publish a new key that signs from `signs_from`."""
    stamp = signs_from.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
    path = folder(ring) / f"{stamp}-{secrets.token_hex(4)}.pem"
    read_or_create(path, _new_pem)
    return next(key for key in published_keys(ring) if key.path == path)


def remove(ring: Ring, which: Callable[[SigningKey], bool]) -> list[SigningKey]:
    """Remove these keys: no token signed with them is accepted any more. iam.oauth.key_rotation decides which."""
    gone = [key for key in published_keys(ring) if which(key)]
    for key in gone:
        key.path.unlink(missing_ok=True)
    return gone


def _listing(ring: Ring) -> tuple[tuple[str, int], ...]:
    """(name, inode) of every key file, oldest key first. The inode tells a file from its namesake."""
    try:
        with os.scandir(folder(ring)) as entries:
            return tuple(sorted((e.name, e.inode()) for e in entries if _NAME.fullmatch(e.name)))
    except FileNotFoundError:
        return ()


@lru_cache(maxsize=4)
def _load(where: str, files: tuple[tuple[str, int], ...]) -> tuple[SigningKey, ...]:
    return tuple(_read(where, name, inode) for name, inode in files)


@lru_cache(maxsize=64)
def _read(where: str, name: str, _inode: int) -> SigningKey:
    path = Path(where) / name
    pem = path.read_text()
    try:
        public, private = jwkkit.load_jwk_from_pem(pem)
    except ValueError as error:
        raise ImproperlyConfigured(
            f"{path} holds no RSA private key. Move it out of the folder; another key there, or a new one, signs."
        ) from error
    kid = public["kid"]
    signs_from = datetime.strptime(name.split("-", 1)[0], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    public = {
        "kty": public["kty"],
        "kid": kid,
        "use": "sig",
        "alg": "RS256",
        "n": public["n"],
        "e": public["e"],
    }
    return SigningKey(path, kid, signs_from, public, pem, private)


@lru_cache(maxsize=4)
def _jwks(keys: tuple[SigningKey, ...]) -> str:
    return json.dumps({"keys": [key.public for key in keys]}, separators=(",", ":"))


def _new_pem() -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=KEY_BITS)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
