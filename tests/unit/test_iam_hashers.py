"""Digests of client secrets: keyed, told apart by key, and rotated by a new line in the key file."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from iam.oauth import hashers
from iam.oauth.hashers import SecretHasher, new_secret, nobodys_digest


def forget() -> None:
    """As after a restart."""
    hashers._keys.cache_clear()
    hashers._nobodys_digest.cache_clear()


@pytest.fixture(autouse=True)
def key_file(settings: Any, tmp_path: Path) -> Iterator[Path]:
    """The key file of an installation of this test's own."""
    settings.BERTH_HOME = tmp_path
    forget()
    yield tmp_path / "keys" / "client_secrets.key"
    forget()


def digest_of(secret: str) -> str:
    hasher = SecretHasher()
    return hasher.encode(secret, hasher.salt())


def test_it_verifies_what_it_made_and_nothing_else() -> None:
    secret = new_secret()
    digest = digest_of(secret)
    assert SecretHasher().verify(secret, digest)
    assert not SecretHasher().verify(secret + "x", digest)
    assert not SecretHasher().verify("", digest)
    assert secret not in digest
    assert digest.startswith("berth_hmac$")


def test_the_key_is_a_file_for_its_owner_alone(key_file: Path) -> None:
    digest = digest_of("s")
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    assert key_file.read_text().strip() not in digest


def test_without_the_key_a_digest_can_not_be_tested(key_file: Path) -> None:
    digest = digest_of("s")
    key_file.write_text("another key\n")
    forget()
    assert not SecretHasher().verify("s", digest)


def test_a_new_line_on_top_rotates_without_a_restart(key_file: Path) -> None:
    old = digest_of("s")
    key_file.write_text("a newer key\n" + key_file.read_text())
    new = digest_of("s")
    assert new != old
    assert SecretHasher().verify("s", old)
    assert SecretHasher().verify("s", new)
    assert SecretHasher().must_update(old)
    assert not SecretHasher().must_update(new)


def test_nobodys_digest_fits_no_secret() -> None:
    assert nobodys_digest() == nobodys_digest()
    assert not any(SecretHasher().verify(secret, nobodys_digest()) for secret in ("", "x", new_secret()))
