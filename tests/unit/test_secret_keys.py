"""Changing the keys of secrets at rest while the platform runs (`manage.py rotate_secrets_key`)."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from allauth.mfa.models import Authenticator
from cryptography.fernet import Fernet
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.db.models import F, TextField
from django.db.models.functions import Cast
from django.utils import timezone

from config import crypto, keyfiles, reencryption
from endpoints.models import Revision
from iam import invitations
from iam.actors import Actor
from iam.models import AuditEvent, Project, ServiceAccount, ServiceAccountSecret, User
from iam.oauth import hashers
from iam.roles import Role
from registry.models import Framework, RegisteredModel


@pytest.fixture(autouse=True)
def keys_folder(settings: Any, tmp_path: Path) -> Path:
    """An installation without keys."""
    settings.BERTH_HOME = tmp_path
    return tmp_path / "keys"


def run(*arguments: str) -> str:
    said = io.StringIO()
    call_command("rotate_secrets_key", *arguments, stdout=said, stderr=said)
    return said.getvalue()


def grown_old(path: Path) -> None:
    """As if it had been written two minutes ago."""
    past = datetime.now(UTC).timestamp() - 120
    os.utime(path, (past, past))


def a_model(project: Project, name: str, token: str) -> RegisteredModel:
    framework, _made = Framework.objects.get_or_create(slug="f", defaults={"name": "F", "definition": {}})
    environment = '{"A": "b"}' if token else ""
    return RegisteredModel.objects.create(
        project=project, framework=framework, name=name, hub_token=token, environment=environment
    )


def stored(model: RegisteredModel) -> str:
    rows = RegisteredModel.objects.annotate(raw=Cast(F("hub_token"), TextField()))
    return str(rows.values_list("raw", flat=True).get(pk=model.pk))


def test_every_encrypted_column_is_found() -> None:
    found = {str(place) for place in reencryption.places()}
    assert {
        "registry.RegisteredModel.hub_token",
        "registry.RegisteredModel.registry_password",
        "registry.RegisteredModel.environment",
        "endpoints.Revision.environment",
    } <= found
    assert Revision in {place.model for place in reencryption.places()}


def test_a_rotation_puts_every_secret_under_the_new_key(project: Project) -> None:
    models = [a_model(project, f"m{n}", f"hf_{n}") for n in range(3)]
    without = a_model(project, "none", "")
    before = {model.pk: (stored(model), model.updated_at) for model in models}
    old = crypto.keys()
    printed = run()
    assert "RegisteredModel.hub_token: 3 secrets, 3 put under the new key" in printed
    assert "RegisteredModel.environment: 3 secrets, 3" in printed
    assert crypto.keys()[1:] == old
    first = Fernet(crypto.keys()[0])
    for n, model in enumerate(models):
        assert stored(model) != before[model.pk][0]
        assert first.decrypt(stored(model)) == f"hf_{n}".encode()
        model.refresh_from_db()
        assert (model.hub_token, model.updated_at) == (f"hf_{n}", before[model.pk][1])
    assert RegisteredModel.objects.get(pk=without.pk).hub_token == ""
    assert not any(secret in printed for secret in [*crypto.keys(), "hf_"])
    told = AuditEvent.objects.get()
    assert (told.action, told.target_name, told.actor_kind) == (
        "secrets_key.create",
        "secrets.key",
        "command",
    )


def test_more_rows_than_a_batch_and_a_run_that_was_interrupted(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reencryption, "BATCH", 2)
    models = [a_model(project, f"m{n}", f"hf_{n}") for n in range(5)]
    reencryption.put_new_key()
    place = next(place for place in reencryption.places() if place.column == "hub_token")
    first = Fernet(crypto.keys()[0])
    model = models[3]
    reencryption._swap(place, model.pk, stored(model), crypto.cipher().rotate(stored(model)).decode())
    assert "hub_token: 5 secrets, 4 put" in run("--resume")
    assert "hub_token: 5 secrets, 0 put" in run("--resume")
    assert len(crypto.keys()) == 2
    assert [first.decrypt(stored(model)) for model in models] == [b"hf_%d" % n for n in range(5)]


def test_a_write_in_between_is_never_lost(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    model = a_model(project, "m", "hf_before")
    reencryption.put_new_key()
    swap = reencryption._swap

    def slow(place: reencryption.Place, key: Any, before: str, after: str) -> bool:
        if place.column == "hub_token" and model.hub_token == "hf_before":
            model.hub_token = "hf_meanwhile"
            model.save()
        return swap(place, key, before, after)

    monkeypatch.setattr(reencryption, "_swap", slow)
    run("--resume")
    model.refresh_from_db()
    assert model.hub_token == "hf_meanwhile"


def test_a_running_process_notices_at_its_next_use() -> None:
    under_old = crypto.encrypt("s")
    reencryption.put_new_key()
    assert Fernet(crypto.keys()[0]).decrypt(crypto.encrypt("t")) == b"t"
    assert crypto.decrypt(under_old) == "s"


def test_the_file_stays_private_and_whole(keys_folder: Path) -> None:
    crypto.keys()
    reencryption.put_new_key()
    assert stat.S_IMODE(crypto.key_file().stat().st_mode) == 0o600
    assert stat.S_IMODE(keys_folder.stat().st_mode) == 0o700
    assert sorted(path.name for path in keys_folder.iterdir()) == [".lock", "secrets.key"]


def test_rotations_at_once_lose_no_key() -> None:
    first = crypto.keys()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _n: reencryption.put_new_key(), range(4)))
    assert len(set(crypto.keys())) == 5
    assert crypto.keys()[-1:] == first


def test_old_keys_go_when_nothing_needs_them(project: Project) -> None:
    model = a_model(project, "m", "hf_1")
    run()
    grown_old(crypto.key_file())
    assert "Removed 1 old keys." in run("--drop-old")
    assert len(crypto.keys()) == 1
    model.refresh_from_db()
    assert model.hub_token == "hf_1"
    assert "There is no old key." in run("--drop-old")


@pytest.mark.django_db
def test_what_began_under_the_old_key_is_waited_for() -> None:
    crypto.keys()
    reencryption.put_new_key()
    now = datetime.now(UTC)
    assert timedelta(seconds=50) < reencryption.settled_in(now) <= reencryption.SETTLED_AFTER
    assert reencryption.settled_in(now + timedelta(seconds=61)) == timedelta()


def test_a_key_that_is_needed_stays(project: Project) -> None:
    a_model(project, "m", "hf_1")
    reencryption.put_new_key()
    with pytest.raises(reencryption.KeysNeeded, match=r"1 in registry\.RegisteredModel\.hub_token"):
        reencryption.drop_old_keys()
    assert len(crypto.keys()) == 2


def test_a_secret_that_fits_no_key_is_named_and_stops_nothing(project: Project) -> None:
    good, bad = a_model(project, "good", "hf_1"), a_model(project, "bad", "hf_2")
    foreign = Fernet(Fernet.generate_key()).encrypt(b"x").decode()
    place = next(place for place in reencryption.places() if place.column == "hub_token")
    assert reencryption._swap(place, bad.pk, stored(bad), foreign)
    printed = run()
    assert f"no present key fits the secrets of {bad.pk}" in printed
    assert Fernet(crypto.keys()[0]).decrypt(stored(good)) == b"hf_1"
    with pytest.raises(ImproperlyConfigured):
        bad.refresh_from_db()


def test_ciphertext_in_other_peoples_documents() -> None:
    old = Fernet(crypto.keys()[0])
    document = {
        "secret": old.encrypt(b"totp").decode(),
        "codes": [old.encrypt(b"1").decode(), "plain"],
        "n": 3,
    }
    reencryption.put_new_key()
    first = Fernet(crypto.keys()[0])
    new = reencryption._renewed_inside(document, first)
    assert first.decrypt(new["secret"]) == b"totp"
    assert first.decrypt(new["codes"][0]) == b"1"
    assert (new["codes"][1], new["n"]) == ("plain", 3)


def test_second_factors_of_people(owner: User) -> None:
    factor = Authenticator.objects.create(
        user=owner, type=Authenticator.Type.TOTP, data={"secret": crypto.encrypt("totp"), "n": 1}
    )
    assert "mfa.Authenticator.data: 1 secrets, 1 put" in run()
    factor.refresh_from_db()
    assert Fernet(crypto.keys()[0]).decrypt(factor.data["secret"]) == b"totp"
    assert factor.data["n"] == 1
    assert "mfa.Authenticator.data: 1 secrets, 0 put" in run("--resume")
    grown_old(crypto.key_file())
    assert "Removed 1 old keys." in run("--drop-old")


def test_the_key_of_client_secrets(project: Project, owner_actor: Actor) -> None:
    account = ServiceAccount.objects.create(project=project, name="a")
    hasher = hashers.SecretHasher()
    old = ServiceAccountSecret.objects.create(account=account, digest=hasher.encode("s", hasher.salt()))
    assert "2 keys are in use or kept" in run("--client-secrets")
    assert hasher.verify("s", old.digest)
    assert hasher.must_update(old.digest)
    printed = run("--client-secrets", "--drop-old")
    assert "Removed 0 old keys." in printed
    assert "1 client secrets and invitations still need them" in printed
    old.delete()
    assert "Removed 1 old keys." in run("--client-secrets", "--drop-old")
    assert not hasher.verify("s", old.digest)
    assert stat.S_IMODE(hashers.key_file().stat().st_mode) == 0o600


def test_an_open_invitation_outlives_a_change_of_the_key(owner_actor: Actor) -> None:
    now = timezone.now()
    made = invitations.create(owner_actor, Role.USER, now)
    secret = made.link.partition("#")[2]
    run("--client-secrets")
    assert "1 client secrets and invitations still need them" in run("--client-secrets", "--drop-old")
    assert invitations.find(secret, now) == made.invitation
    invitations.withdraw(owner_actor, made.invitation)
    assert "Removed 1 old keys." in run("--client-secrets", "--drop-old")


def test_a_new_key_is_on_the_disk_before_it_is_used(keys_folder: Path) -> None:
    """A process that is killed while it writes leaves the old file or the new one, never half of one."""
    code = textwrap.dedent("""
        import os, sys; sys.path[:0] = [".", "platform"]
        from pathlib import Path
        from config import keyfiles
        real = os.fsync
        def killed(handle):
            real(handle)
            os.kill(os.getpid(), 9)
        os.fsync = killed
        keyfiles.replace(Path(sys.argv[1]), "new")
    """)
    path = keys_folder / "some.key"
    keyfiles.read_or_create(path, lambda: "old")
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False, timeout=30)
    assert done.returncode == -9
    assert path.read_text() == "old\n"
