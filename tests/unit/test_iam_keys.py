"""Signing keys: made once, found at once, rotated without a gap."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from allauth.idp.oidc.adapter import get_adapter
from cryptography.hazmat.primitives import serialization
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command

from config.celery import app
from iam.models import ApiKey, AuditEvent, Project, ServiceAccount, User
from iam.oauth import key_rotation, keys, tokens
from iam.oauth.keys import Ring
from iam.oauth.validator import client_for
from iam.tasks import turn_signing_keys

NOW = datetime.now(UTC).replace(microsecond=0)


@pytest.fixture(autouse=True)
def home(settings: Any, tmp_path: Path) -> Path:
    """An installation without keys."""
    settings.BERTH_HOME = tmp_path
    return tmp_path


@pytest.fixture
def token() -> str:
    """A token of an account that is in no database."""
    account = ServiceAccount(project=Project(id="prj-1", name="P"), name="a", roles=["aiplatform.user"])
    return tokens.issue(client_for(account))


def kids() -> list[str]:
    return [key["kid"] for key in json.loads(keys.public_jwks())["keys"]]


def test_the_first_use_makes_a_key_that_only_its_owner_reads() -> None:
    key = keys.signing_key()
    assert stat.S_IMODE(key.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(key.path.parent.stat().st_mode) == 0o700
    assert kids() == [key.kid]


def test_a_key_is_never_shown_by_its_repr() -> None:
    assert "PRIVATE" not in repr(keys.signing_key())


def test_processes_that_start_at_once_get_one_key(home: Path) -> None:
    code = textwrap.dedent("""
        import sys; sys.path[:0] = [".", "platform"]
        import django; django.setup()
        from iam.oauth import keys
        print(keys.signing_key().kid)
    """)

    def start(_n: int) -> str:
        environment = {"DJANGO_SETTINGS_MODULE": "config.settings.test", "BERTH_HOME": str(home), "PATH": ""}
        run = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        return run.stdout.strip()

    with ThreadPoolExecutor(3) as pool:
        found = set(pool.map(start, range(3)))
    assert len(found) == 1
    assert len(list((home / "keys" / "signing").iterdir())) == 1


def test_a_new_key_is_published_before_it_signs(token: str) -> None:
    old = keys.signing_key()
    new = keys.add_key(NOW + timedelta(days=1))
    assert kids() == [old.kid, new.kid]
    assert keys.signing_key().kid == old.kid
    assert keys.signing_key(NOW + timedelta(days=1)).kid == new.kid
    assert tokens.verify(token)["project"] == "prj-1"


def test_another_process_change_is_seen_without_a_restart() -> None:
    keys.signing_key()
    foreign = keys.folder() / f"{NOW:%Y%m%dT%H%M%SZ}-abcd.pem"
    foreign.write_text(keys._new_pem())
    assert keys.signing_key().path == foreign
    foreign.unlink()
    assert keys.signing_key().path != foreign


def test_a_pem_is_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    keys.signing_key()

    def again(_pem: str) -> None:
        raise AssertionError("parsed again")

    monkeypatch.setattr("allauth.core.internal.jwkkit.load_jwk_from_pem", again)
    for _ in range(3):
        keys.signing_key()
        keys.public_jwks()


def test_a_replaced_file_of_the_same_name_is_read_again() -> None:
    first = keys.signing_key()
    first.path.rename(first.path.with_suffix(".old"))
    assert keys.signing_key().path == first.path
    assert keys.signing_key().kid != first.kid


def test_rubbish_among_the_keys_is_named() -> None:
    keys.signing_key()
    bad = keys.folder() / "20250101T000000Z-bad.pem"
    bad.write_text("no key")
    with pytest.raises(ImproperlyConfigured, match=r"20250101T000000Z-bad\.pem"):
        keys.signing_key()


def test_other_files_are_left_alone() -> None:
    key = keys.signing_key()
    (key.path.parent / "README").write_text("x")
    (key.path.parent / ".draft.pem").write_text("x")
    assert keys.signing_key() is key


@pytest.mark.django_db
class TestRetirement:
    def test_a_key_goes_when_its_last_token_has_expired(self, settings: Any) -> None:
        old = keys.signing_key()
        new = keys.add_key(NOW)
        last_token_dead = NOW + timedelta(seconds=settings.BERTH_TOKEN_LIFETIME_S) + keys.OVERLAP
        assert key_rotation.retire(Ring.ACCESS, last_token_dead - timedelta(seconds=1)) == []
        assert [key.kid for key in key_rotation.retire(Ring.ACCESS, last_token_dead)] == [old.kid]
        assert kids() == [new.kid]

    def test_the_last_key_stays(self) -> None:
        key = keys.signing_key()
        assert key_rotation.retire(Ring.ACCESS, NOW + timedelta(days=999)) == []
        assert kids() == [key.kid]

    def test_the_key_of_api_keys_stays_as_long_as_one_that_it_signed(self, owner: User) -> None:
        project = Project.objects.get()
        old = keys.signing_key(ring=Ring.API_KEYS)
        until = datetime.now(UTC) + timedelta(days=300)
        mine = ApiKey.objects.create(project=project, user=owner, name="k", expires_at=until)
        new = keys.add_key(NOW + timedelta(days=1), Ring.API_KEYS)
        later = ApiKey.objects.create(
            project=project, user=owner, name="l", expires_at=until + timedelta(days=90)
        )
        ApiKey.objects.filter(pk=later.pk).update(created_at=NOW + timedelta(days=2))
        assert key_rotation.retire(Ring.API_KEYS, until) == []
        assert [key.kid for key in keys.published_keys(Ring.API_KEYS)] == [old.kid, new.kid]
        assert key_rotation.retire(Ring.API_KEYS, until + keys.OVERLAP) == [old]
        mine.delete()

    def test_it_goes_at_once_when_nobody_has_one(self) -> None:
        old = keys.signing_key(ring=Ring.API_KEYS)
        keys.add_key(NOW, Ring.API_KEYS)
        assert key_rotation.retire(Ring.API_KEYS, NOW + timedelta(days=1)) == [old]


@pytest.mark.django_db
class TestSchedule:
    def after(self, days: float) -> datetime:
        """So long after this installation's first start."""
        return datetime.now(UTC) + timedelta(days=days)

    def test_a_young_key_stays(self, settings: Any) -> None:
        first = kids_of(Ring.ACCESS)
        key_rotation.turn(self.after(89.9))
        assert kids_of(Ring.ACCESS) == first

    def test_an_old_key_gets_a_successor_with_overlap_and_goes(self, settings: Any) -> None:
        (first,) = kids_of(Ring.ACCESS)
        due = self.after(90.1)
        key_rotation.turn(due)
        old, new = keys.published_keys()
        assert old.kid == first
        assert new.signs_from == (due + keys.OVERLAP).replace(microsecond=0)
        assert keys.signing_key(due).kid == old.kid
        key_rotation.turn(due + timedelta(minutes=10))
        assert len(kids()) == 2
        key_rotation.turn(due + timedelta(days=1))
        assert kids() == [new.kid]
        key_rotation.turn(due + timedelta(days=91))
        assert len(kids()) == 2
        assert len(kids_of(Ring.API_KEYS)) == 2
        done = AuditEvent.objects.filter(action__startswith="signing_key").values_list("action", flat=True)
        assert sorted(done) == ["signing_key.create"] * 4 + ["signing_key.delete"] * 2

    def test_never_if_it_is_set_so(self, settings: Any) -> None:
        settings.BERTH_SIGNING_KEY_DAYS = 0
        first = kids_of(Ring.ACCESS)
        key_rotation.turn(self.after(9999))
        assert kids_of(Ring.ACCESS) == first

    def test_the_clock_names_tasks_that_workers_know(self, settings: Any) -> None:
        app.loader.import_default_modules()
        named = {entry["task"] for entry in settings.CELERY_BEAT_SCHEDULE.values()}
        assert "iam.tasks.turn_signing_keys" in named
        assert named <= set(app.tasks)
        turn_signing_keys()
        assert len(kids()) == 1

    def test_workers_at_once_make_one_key(self) -> None:
        kids_of(Ring.ACCESS)
        due = self.after(91)

        def look(_n: int) -> None:
            with key_rotation._locked():
                if key_rotation.is_due(keys.published_keys()[-1], due):
                    key_rotation._add(Ring.ACCESS, due + keys.OVERLAP)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(look, range(4)))
        assert len(kids()) == 2


def kids_of(ring: Ring) -> list[str]:
    return [key.kid for key in keys.published_keys(ring)]


@pytest.mark.django_db
class TestCommand:
    def test_rotation_overlaps(self, token: str, capsys: pytest.CaptureFixture[str]) -> None:
        old = keys.signing_key()
        call_command("rotate_signing_key")
        assert len(kids()) == 2
        assert keys.signing_key().kid == old.kid
        assert keys.signing_key(datetime.now(UTC) + keys.OVERLAP).kid != old.kid
        assert tokens.verify(token)
        assert kids()[1] in capsys.readouterr().out
        assert AuditEvent.objects.get().action == "signing_key.create"

    def test_in_a_hurry(self, token: str) -> None:
        old = keys.signing_key()
        call_command("rotate_signing_key", "--now")
        assert keys.signing_key().kid == old.kid
        assert keys.signing_key(datetime.now(UTC) + key_rotation.SOON).kid != old.kid
        assert tokens.verify(token)

    def test_the_key_of_api_keys(self, token: str) -> None:
        before = kids()
        call_command("rotate_signing_key", "--api-keys", "--now")
        assert kids() == before
        assert len(kids_of(Ring.API_KEYS)) == 2

    def test_after_a_theft_old_tokens_are_worthless(self, token: str) -> None:
        call_command("rotate_signing_key", "--compromised")
        assert len(kids()) == 1
        with pytest.raises(tokens.InvalidToken):
            tokens.verify(token)


class TestVerify:
    """What is no token of ours, after RFC 8725's list of attacks."""

    def claims(self, **changes: Any) -> dict[str, Any]:
        now = int(NOW.timestamp())
        claims = {
            "iss": "http://localhost:8000",
            "aud": "berth",
            "sub": "sa-1",
            "project": "prj-1",
            "roles": ["aiplatform.admin"],
            "iat": now,
            "exp": now + 86_400,
            "jti": "1",
            "grant": "sa-1:1",
        } | changes
        return {name: value for name, value in claims.items() if value is not None}

    def sign(self, claims: dict[str, Any], **header: Any) -> str:
        key = keys.signing_key()
        return jwt.encode(claims, key.private, "RS256", headers={"kid": key.kid} | header)

    def test_the_reference_passes(self) -> None:
        assert tokens.verify(self.sign(self.claims()))["sub"] == "sa-1"

    @pytest.mark.parametrize(
        "changes",
        [
            {"iss": "http://evil.example"},
            {"aud": "other"},
            {"aud": None},
            {"exp": int(NOW.timestamp()) - 1},
            {"exp": None},
            {"nbf": int(NOW.timestamp()) + 86_400},
            {"sub": None},
            {"project": None},
            {"roles": None},
            {"iat": None},
            {"jti": None},
            {"iss": None},
        ],
    )
    def test_wrong_claims(self, changes: dict[str, Any]) -> None:
        with pytest.raises(tokens.InvalidToken):
            tokens.verify(self.sign(self.claims(**changes)))

    def test_another_key_with_our_kid(self) -> None:
        stranger = serialization.load_pem_private_key(keys._new_pem().encode(), None)
        forged = jwt.encode(self.claims(), stranger, "RS256", headers={"kid": keys.signing_key().kid})
        with pytest.raises(tokens.InvalidToken):
            tokens.verify(forged)

    def test_no_signature(self) -> None:
        forged = jwt.encode(self.claims(), None, "none", headers={"kid": keys.signing_key().kid})
        with pytest.raises(tokens.InvalidToken):
            tokens.verify(forged)

    def test_our_public_key_as_a_password(self) -> None:
        import base64
        import hashlib
        import hmac

        key = keys.signing_key()
        public = key.private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

        def part(value: Any) -> bytes:
            return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=")

        signed = part({"alg": "HS256", "kid": key.kid, "typ": "JWT"}) + b"." + part(self.claims())
        digest = hmac.new(public, signed, hashlib.sha256).digest()
        forged = signed + b"." + base64.urlsafe_b64encode(digest).rstrip(b"=")
        with pytest.raises(tokens.InvalidToken):
            tokens.verify(forged.decode())

    @pytest.mark.parametrize("kid", ["unknown", "", "../../etc/passwd"])
    def test_unknown_kid(self, kid: str) -> None:
        with pytest.raises(tokens.InvalidToken):
            tokens.verify(self.sign(self.claims(), kid=kid))

    @pytest.mark.parametrize("text", ["", "x", "a.b.c", "eyJ.eyJ.x", "é.é.é", "." * 10])
    def test_no_token_at_all(self, text: str) -> None:
        with pytest.raises(tokens.InvalidToken):
            tokens.verify(text)


def test_allauth_sees_the_same_keys() -> None:
    old = keys.signing_key()
    keys.add_key(NOW + timedelta(hours=1))
    adapter = get_adapter()
    assert adapter.get_signing_key().pem == old.pem
    assert len(adapter.list_private_keys()) == 2
