"""Signing in: second factors, limits on guessing, sessions, and what the audit log is told."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from datetime import timedelta
from typing import Any

import pytest
from allauth.mfa.models import Authenticator
from allauth.mfa.totp.internal.auth import format_hotp_value, hotp_value
from allauth.usersessions.models import UserSession
from cryptography.hazmat.primitives.asymmetric import ec
from django.contrib.sessions.models import Session
from django.core.cache import cache
from django.core.management import call_command
from django.db import connection
from django.test import Client, TestCase
from django.utils import timezone
from fido2.cose import ES256
from fido2.utils import websafe_encode
from fido2.webauthn import Aaguid, AttestationObject, AttestedCredentialData, AuthenticatorData

from iam.models import AuditEvent, User
from iam.sign_in import limits
from iam.tasks import clear_sessions
from tests.conftest import PASSWORD

pytestmark = [pytest.mark.django_db, pytest.mark.one_database]

LOGIN, SECURITY, SESSIONS = "/accounts/login/", "/accounts/security/", "/accounts/sessions/"
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:141.0) Gecko/20100101 Firefox/141.0"


def code(secret: str, step: int = 0) -> str:
    """What an authenticator app shows now; step: so many half minutes later."""
    return format_hotp_value(hotp_value(secret, int(time.time()) // 30 + step))


def sign_in(client: Client, user: User, password: str = PASSWORD, **extra: Any) -> Any:
    """Through the form."""
    return client.post(LOGIN, {"login": user.email, "password": password}, **extra)


def confirm(client: Client) -> None:
    """Confirm with the password that it is still the same person."""
    assert client.post("/accounts/confirm/", {"password": PASSWORD}).status_code == 302


def set_up_app(client: Client) -> tuple[str, list[str]]:
    """Switch the authenticator app on: its key, and the recovery codes, as the pages show them."""
    confirm(client)
    page = client.get("/accounts/two-step/app/").content.decode()
    secret = re.search(r'id="totp-secret" value="([A-Z2-7]+)"', page)
    assert secret
    assert 'src="data:image/svg+xml;base64,' in page
    with TestCase.captureOnCommitCallbacks(execute=True):
        answer = client.post("/accounts/two-step/app/", {"code": code(secret.group(1), -1)})
    assert answer["Location"] == "/accounts/two-step/recovery-codes/"
    shown = client.get(answer["Location"])
    assert "no-store" in shown["Cache-Control"]
    return secret.group(1), re.findall(r"<li>(\d{10})</li>", shown.content.decode())


def new_passkey(options: dict[str, Any], origin: str) -> str:
    """What a browser at `origin` answers when its device has made a key."""
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    made = AttestedCredentialData.create(Aaguid.NONE, os.urandom(16), ES256.from_cryptography_key(public))
    flags = AuthenticatorData.FLAG.UP | AuthenticatorData.FLAG.UV | AuthenticatorData.FLAG.AT
    device = AuthenticatorData.create(hashlib.sha256(options["rp"]["id"].encode()).digest(), flags, 0, made)
    told = {"type": "webauthn.create", "challenge": options["challenge"], "origin": origin}
    answer = {
        "id": websafe_encode(made.credential_id),
        "rawId": websafe_encode(made.credential_id),
        "type": "public-key",
        "response": {
            "clientDataJSON": websafe_encode(json.dumps({**told, "crossOrigin": False}).encode()),
            "attestationObject": websafe_encode(bytes(AttestationObject.create("none", device, {}))),
        },
        "clientExtensionResults": {"credProps": {"rk": True}},
    }
    return json.dumps(answer)


def actions() -> list[str]:
    """What is on record, oldest first."""
    return list(AuditEvent.objects.order_by("id").values_list("action", flat=True))


@pytest.fixture
def client() -> Client:
    """A browser that calls itself Firefox."""
    return Client(headers={"user-agent": FIREFOX})


class TestSecondFactors:
    def test_the_app_is_asked_for_and_a_code_works_once(self, owner: User, client: Client) -> None:
        sign_in(client, owner)
        secret, codes = set_up_app(client)
        assert len(set(codes)) == 10
        other = Client()
        assert sign_in(other, owner)["Location"] == "/accounts/two-step/authenticate/"
        assert other.get("/inference/").status_code == 302, "the password alone is not enough"
        now = code(secret)
        assert other.post("/accounts/two-step/authenticate/", {"code": "000000"}).status_code == 200
        assert other.post("/accounts/two-step/authenticate/", {"code": now})["Location"] == "/"
        assert other.get("/inference/").status_code == 200
        cache.delete(f"allauth.mfa.totp.used?user={owner.pk}&code={now}")  # as it forgets after half a minute
        again = Client()
        sign_in(again, owner)
        assert again.post("/accounts/two-step/authenticate/", {"code": now}).status_code == 200, "replayed"
        assert again.post("/accounts/two-step/authenticate/", {"code": codes[0]})["Location"] == "/"
        third = Client()
        sign_in(third, owner)
        assert third.post("/accounts/two-step/authenticate/", {"code": codes[0]}).status_code == 200
        assert "9 left" in client.get(SECURITY).content.decode()
        last = AuditEvent.objects.filter(action="session.sign_in").latest("id")
        assert last.after["with"] == ["password", "recovery_codes"]
        assert {"mfa.add", "mfa.failed"} <= set(actions())

    def test_recovery_codes_are_shown_once(self, owner: User, client: Client) -> None:
        sign_in(client, owner)
        _secret, codes = set_up_app(client)
        again = client.get("/accounts/two-step/recovery-codes/").content.decode()
        assert not any(one in again for one in codes)
        with TestCase.captureOnCommitCallbacks(execute=True):
            assert client.post("/accounts/two-step/recovery-codes/new/").status_code == 302
        fresh = client.get("/accounts/two-step/recovery-codes/").content.decode()
        assert len(set(re.findall(r"<li>(\d{10})</li>", fresh)) - set(codes)) == 10
        assert "mfa.reset" in actions()

    def test_secrets_are_not_in_the_database(self, owner: User, client: Client) -> None:
        sign_in(client, owner)
        secret, codes = set_up_app(client)
        with connection.cursor() as cursor:
            cursor.execute("SELECT data FROM mfa_authenticator")
            stored = str(cursor.fetchall())
        assert secret not in stored
        assert stored.count("gAAAA") == 2
        assert not any(one in stored for one in codes)
        told = str(list(AuditEvent.objects.values_list("after", flat=True)))
        assert secret not in told

    def test_factors_change_only_after_a_confirmation(self, owner: User, client: Client) -> None:
        sign_in(client, owner)
        for path in ("app/", "recovery-codes/new/"):
            answer = client.get(f"/accounts/two-step/{path}")
            assert answer["Location"].startswith("/accounts/confirm/?next=%2Faccounts%2Ftwo-step%2F")
        assert client.get("/accounts/passkeys/add/")["Location"].startswith("/accounts/confirm/")
        set_up_app(client)
        session = client.session
        for record in (records := session["account_authentication_methods"]):
            record["at"] -= 301
        session["account_authentication_methods"] = records
        session.save()
        for path in ("two-step/app/remove/", "two-step/recovery-codes/new/", "passkeys/add/"):
            assert client.post(f"/accounts/{path}")["Location"].startswith("/accounts/confirm/"), path
        assert Authenticator.objects.count() == 2
        confirm(client)
        assert client.post("/accounts/two-step/app/remove/").status_code == 302
        assert not Authenticator.objects.exists()

    def test_passkeys_belong_to_the_configured_address(
        self, owner: User, client: Client, settings: Any
    ) -> None:
        settings.BERTH_PUBLIC_URL = "https://berth.example.org:8443"
        settings.ALLOWED_HOSTS = ["testserver", "evil.example.org"]
        sign_in(client, owner)
        confirm(client)
        for origin in (
            "https://evil.berth.example.org:8443",
            "https://berth.example.org",
            "https://evil.example.org",
            "http://berth.example.org:8443",
            "https://berth.example.org:8443",
        ):
            page = client.get("/accounts/passkeys/add/", headers={"host": "evil.example.org"})
            found = re.search(r'id="passkey-options"[^>]*>(.*?)</script>', page.content.decode(), re.DOTALL)
            assert found
            options = json.loads(found.group(1))["publicKey"]
            assert options["rp"] == {"id": "berth.example.org", "name": "Berth"}
            client.post("/accounts/passkeys/add/", {"name": "x", "credential": new_passkey(options, origin)})
            made = Authenticator.objects.filter(type="webauthn").exists()
            assert made == (origin == settings.BERTH_PUBLIC_URL), origin

    def test_another_name_of_a_passkey_is_on_record(self, owner: User, client: Client) -> None:
        sign_in(client, owner)
        confirm(client)
        made = Authenticator.objects.create(user=owner, type="webauthn", data={"name": "phone"})
        for name in ("key ring", "key ring", "x" * 101):
            client.post(f"/accounts/passkeys/{made.pk}/rename/", {"name": name})
        told = AuditEvent.objects.get(action="mfa.change")
        assert (told.actor_name, told.before, told.after) == (
            owner.email,
            {"name": "phone"},
            {"name": "key ring"},
        )

    def test_a_locked_out_admin_gets_back_in(self, owner: User, client: Client, capsys: Any) -> None:
        owner.is_superuser = True
        owner.save()
        sign_in(client, owner)
        set_up_app(client)
        call_command("reset_admin_password", owner.email)
        password = capsys.readouterr().out.split()[-1]
        assert sign_in(Client(), owner, password)["Location"] == "/accounts/two-step/authenticate/"
        call_command("reset_admin_password", owner.email, "--remove-second-factors")
        password = capsys.readouterr().out.split()[-1]
        assert sign_in(Client(), owner, password)["Location"] == "/"
        assert not Authenticator.objects.exists()
        assert AuditEvent.objects.filter(action="mfa.remove", actor_kind="command").exists()

    def test_the_admin_site_has_no_door_of_its_own(self, owner: User) -> None:
        owner.is_staff = owner.is_superuser = True
        owner.save()
        browser = Client()
        answer = browser.post("/admin/login/", {"username": owner.email, "password": PASSWORD})
        assert answer.status_code == 302
        assert answer["Location"].startswith(LOGIN)
        assert browser.get("/admin/").status_code == 302


class TestGuessing:
    def guess(self, client: Client, email: str, address: str = "192.0.2.1") -> Any:
        return client.post(LOGIN, {"login": email, "password": "wrong"}, REMOTE_ADDR=address)

    def test_a_wrong_name_looks_like_a_wrong_password(self, owner: User) -> None:
        pages = [
            re.sub(r'value="[^"]*"', "", self.guess(Client(), email).content.decode())
            for email in (owner.email, "nobody@example.org")
        ]
        assert pages[0] == pages[1]
        assert "not correct" in pages[0]
        for email in (owner.email, "nobody@example.org"):
            for _ in range(limits.BY_ACCOUNT.failures):
                answer = self.guess(Client(), email)
            assert answer.status_code == 429

    def test_the_page_says_how_long_to_wait(self, owner: User) -> None:
        for n in range(limits.BY_ACCOUNT.failures):
            assert self.guess(Client(), owner.email, f"192.0.2.{n}").status_code == 200
        refused = self.guess(Client(), owner.email, "192.0.2.99")
        assert refused.status_code == 429
        assert 0 < int(refused["Retry-After"]) <= limits.BY_ACCOUNT.window_s
        assert re.search(r"Wait \d minute", refused.content.decode())
        assert sign_in(Client(), owner, REMOTE_ADDR="192.0.2.98").status_code == 429, "the right one too"

    def test_nobody_locks_out_who_has_signed_in_here_before(self, owner: User, client: Client) -> None:
        sign_in(client, owner)
        client.post("/accounts/logout/")
        for n in range(limits.BY_ACCOUNT.failures + 1):
            self.guess(Client(), owner.email, f"192.0.2.{n}")
        assert sign_in(Client(), owner).status_code == 429
        assert sign_in(client, owner)["Location"] == "/"
        client.post("/accounts/logout/")
        for _ in range(limits.BY_DEVICE.failures):
            assert self.guess(client, owner.email).status_code == 200
        assert self.guess(client, owner.email).status_code == 429, "a stolen browser is not let guess either"

    def test_the_mark_of_a_browser_is_its_peoples_alone(self, owner: User, editor: User) -> None:
        thief = Client()
        sign_in(thief, editor)
        thief.post("/accounts/logout/")
        for _ in range(limits.BY_ACCOUNT.failures):
            self.guess(thief, owner.email)
        assert self.guess(thief, owner.email).status_code == 429

    def test_an_address_is_limited_whatever_it_claims(self, owner: User, settings: Any) -> None:
        for n in range(limits.BY_ADDRESS.failures):
            answer = Client().post(
                LOGIN,
                {"login": f"someone{n}@example.org", "password": "x"},
                REMOTE_ADDR="192.0.2.1",
                headers={"x-forwarded-for": f"198.51.100.{n}"},
            )
            assert answer.status_code == 200
        assert sign_in(Client(), owner, REMOTE_ADDR="192.0.2.1").status_code == 429
        assert sign_in(Client(), owner, REMOTE_ADDR="192.0.2.2")["Location"] == "/"
        settings.BERTH_TRUSTED_PROXIES = ["192.0.2.1"]
        behind = {"REMOTE_ADDR": "192.0.2.1", "headers": {"x-forwarded-for": "203.0.113.9"}}
        assert sign_in(Client(), owner, **behind)["Location"] == "/", "another address behind our proxy"
        assert UserSession.objects.filter(ip="203.0.113.9").exists()

    def test_codes_are_guesses_too(self, owner: User, client: Client) -> None:
        sign_in(client, owner)
        secret, _codes = set_up_app(client)
        guesser = Client()
        sign_in(guesser, owner)
        for _ in range(limits.BY_ACCOUNT.failures):
            answer = guesser.post("/accounts/two-step/authenticate/", {"code": "000000"})
            assert answer.status_code == 200
        answer = guesser.post("/accounts/two-step/authenticate/", {"code": code(secret)})
        assert answer.status_code == 429
        assert guesser.get("/inference/").status_code == 302
        sign_in(client, owner)

    def test_passkeys_are_tried_by_address(self, owner: User) -> None:
        browser = Client()
        options = browser.get("/accounts/passkeys/sign-in/", headers={"accept": "application/json"}).json()
        assert options["request_options"]["publicKey"]["userVerification"] == "required"
        for _ in range(10):
            answer = browser.post("/accounts/passkeys/sign-in/", {"credential": '{"response": {}}'})
            assert answer["Location"] == LOGIN
        answer = browser.post("/accounts/passkeys/sign-in/", {"credential": "{}"})
        assert (answer.status_code, answer["Retry-After"]) == (429, "60")
        told = AuditEvent.objects.filter(action="session.sign_in_failed")
        assert [event.after for event in told] == [{"with": ["webauthn"]}] * 10

    def test_a_window_ends(self) -> None:
        for _ in range(limits.BY_ACCOUNT.failures):
            limits.begin("a@b.c", "192.0.2.1", now=1000.0)
        with pytest.raises(limits.TooMany) as refused:
            limits.begin("a@b.c", "192.0.2.1", now=1001.0)
        assert refused.value.wait_s == 300 - 1001 % 300
        limits.begin("a@b.c", "192.0.2.1", now=1001.0 + refused.value.wait_s)

    def test_right_guesses_do_not_clear_wrong_ones(self) -> None:
        for _ in range(limits.BY_ACCOUNT.failures - 1):
            limits.begin("a@b.c", "192.0.2.1", now=1000.0)
        for _ in range(3):
            limits.begin("a@b.c", "192.0.2.1", now=1000.0).succeeded()
        limits.begin("a@b.c", "192.0.2.1", now=1000.0)
        with pytest.raises(limits.TooMany):
            limits.begin("a@b.c", "192.0.2.1", now=1000.0)


class TestSessions:
    def test_the_list_names_device_address_and_this_one(self, owner: User, client: Client) -> None:
        sign_in(client, owner, REMOTE_ADDR="192.0.2.7")
        sign_in(Client(headers={"user-agent": "curl/8"}), owner, REMOTE_ADDR="2001:db8::1")
        page = client.get(SESSIONS, REMOTE_ADDR="192.0.2.7").content.decode()
        assert re.search(r"Firefox 141 · Linux <span[^>]*>this one", page)
        assert "192.0.2.7" in page
        assert "2001:db8::1" in page
        assert "curl/8" in page

    def test_one_or_all_others_are_ended(self, owner: User, editor: User, client: Client) -> None:
        sign_in(client, owner)
        others = [Client() for _ in range(3)]
        for other in others:
            sign_in(other, owner)
        stranger = Client()
        sign_in(stranger, editor)
        first = UserSession.objects.get(session_key=others[0].session.session_key)
        assert stranger.post(f"{SESSIONS}{first.pk}/end/").status_code == 404
        assert client.get(f"{SESSIONS}{first.pk}/end/").status_code == 405
        assert client.post(f"{SESSIONS}{first.pk}/end/").status_code == 302
        assert [other.get("/inference/").status_code for other in others] == [302, 200, 200]
        assert client.post(f"{SESSIONS}end/").status_code == 302
        assert [other.get("/inference/").status_code for other in others] == [302, 302, 302]
        assert client.get("/inference/").status_code == 200
        assert stranger.get("/inference/").status_code == 200
        told = AuditEvent.objects.filter(action="session.end").order_by("id")
        assert [event.after for event in told] == [{"sessions": 1}, {"sessions": 2}]
        assert client.post(f"{SESSIONS}end-all/")["Location"] == LOGIN
        assert client.get("/inference/").status_code == 302

    def test_a_new_password_ends_the_others(self, owner: User, client: Client) -> None:
        other = Client()
        sign_in(client, owner)
        sign_in(other, owner)
        fresh = "another long pass phrase"
        answer = client.post(
            "/accounts/password/change/", {"oldpassword": PASSWORD, "password1": fresh, "password2": fresh}
        )
        assert answer.status_code == 302
        assert client.get("/inference/").status_code == 200
        assert other.get("/inference/").status_code == 302
        assert UserSession.objects.filter(user=owner).count() == 1
        assert "password.change" in actions()

    def test_what_is_on_record(self, owner: User, client: Client) -> None:
        client.post(LOGIN, {"login": owner.email, "password": "wrong"}, REMOTE_ADDR="192.0.2.7")
        client.post(LOGIN, {"login": "nobody@example.org", "password": "wrong"})
        sign_in(client, owner)
        client.post("/accounts/logout/")
        assert actions() == ["session.sign_in_failed"] * 2 + ["session.sign_in", "session.sign_out"]
        failed, other, entered, _left = AuditEvent.objects.order_by("id")
        assert (failed.actor_kind, failed.target_name, failed.address) == (
            "anonymous",
            owner.email,
            "192.0.2.7",
        )
        assert (other.actor_kind, other.target_id) == ("anonymous", "")
        assert entered.after == {"with": ["password"], "device": "Firefox 141 · Linux"}
        assert not UserSession.objects.exists()

    def test_what_is_over_is_cleared(self, owner: User, client: Client) -> None:
        sign_in(client, owner)
        sign_in(gone := Client(), owner)
        Session.objects.filter(session_key=gone.session.session_key).update(
            expire_date=timezone.now() - timedelta(seconds=1)
        )
        clear_sessions()
        assert Session.objects.count() == UserSession.objects.count() == 1
        assert client.get("/inference/").status_code == 200

    def test_pages_of_mail_are_not_there(self, owner: User, client: Client) -> None:
        sign_in(client, owner)
        assert (
            client.post("/accounts/email/", {"action_add": "", "email": "x@example.org"}).status_code == 405
        )
        assert client.post("/accounts/password/reset/", {"email": owner.email}).status_code == 405
        assert client.get("/accounts/password/reset/key/1-set/").status_code == 404
        assert client.get("/accounts/sso/").status_code == 404
        assert client.get("/accounts/sso/callback/?code=x&state=y").status_code == 404
        assert "single sign-on" not in client.get(SECURITY).content.decode()
