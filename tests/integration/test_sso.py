"""Single sign-on against a provider that authlib runs: who gets in, as whom, and what is not believed."""

from __future__ import annotations

import base64
import hmac
import json
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from allauth.mfa.models import Authenticator
from allauth.socialaccount.models import SocialAccount, SocialApp, SocialToken
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from django.core.checks import run_checks
from django.test import Client
from joserfc.jwk import RSAKey

from iam.models import AuditEvent, Membership, Project, User
from iam.roles import Role
from iam.sign_in import limits
from iam.sso import id_tokens
from tests.conftest import PASSWORD
from tests.support_oidc import CLIENT, SECRET, Provider, oidc_provider

pytestmark = [pytest.mark.django_db, pytest.mark.one_database]

CONSOLE = "http://localhost:8000"
ANN = {"sub": "ann-1", "email": "Owner@Example.org", "email_verified": True, "name": "Ann Owner"}
NEW = {"sub": "new-1", "email": "new@example.org", "email_verified": True, "name": "New Person"}


@pytest.fixture(scope="module")
def server() -> Iterator[Provider]:
    """One provider for all tests here."""
    with oidc_provider(f"{CONSOLE}/accounts/sso/callback/") as running:
        yield running


@pytest.fixture
def provider(server: Provider, settings: Any) -> Provider:
    """It, unbent, and the console told of it."""
    server.person, server.bend, server.discovery, server.userinfo = dict(ANN), {}, {}, {}
    server.signs_with, server.algorithm, server.verifiers = None, "RS256", 0
    settings.BERTH_PUBLIC_URL = CONSOLE
    settings.BERTH_OIDC_ISSUER = server.url
    settings.BERTH_OIDC_CLIENT_ID, settings.BERTH_OIDC_CLIENT_SECRET = CLIENT, SECRET
    settings.BERTH_OIDC_NAME, settings.BERTH_OIDC_DOMAINS = "Example ID", []
    settings.BERTH_OIDC_PROJECT, settings.BERTH_OIDC_ROLE = "", Role.VIEWER
    return server


def there(client: Client, then: str = "", **extra: Any) -> str:
    """Press the button and let the provider answer: the address that it sends the browser back to."""
    asked = client.get(f"/accounts/sso/{then}", **extra)
    assert asked.status_code == 302, asked.content
    answer = httpx.get(asked["Location"], trust_env=False)
    assert answer.status_code == 302, answer.text
    return answer.headers["Location"]


def sign_in(client: Client, then: str = "") -> Any:
    """All of it."""
    back = urlsplit(there(client, then))
    return client.get(f"{back.path}?{back.query}")


def is_in(client: Client) -> bool:
    """Whether somebody is signed in."""
    return "_auth_user_id" in client.session


def _b64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


class TestWhoGetsIn:
    def test_nothing_of_it_is_shown_without_a_provider(self, owner_client: Client) -> None:
        assert "/sso/" not in Client().get("/accounts/login/").content.decode()
        assert Client().get("/accounts/sso/").status_code == 404

    def test_a_verified_address_is_its_account_for_good(self, provider: Provider, owner: User) -> None:
        client = Client()
        page = client.get("/accounts/login/?next=/inference/").content.decode()
        assert "Sign in with Example ID" in page
        assert "/accounts/sso/?next=/inference/" in page
        answer = sign_in(client, "?next=/inference/")
        assert answer["Location"] == "/inference/"
        assert client.get("/inference/").status_code == 200
        assert client.session["_auth_user_id"] == str(owner.pk)
        assert provider.verifiers == 1
        assert "Connected" in client.get("/accounts/security/").content.decode()
        assert not SocialApp.objects.exists()
        assert not SocialToken.objects.exists()
        kept = SocialAccount.objects.get().extra_data
        assert kept == {
            "iss": provider.url,
            "sub": "ann-1",
            "email": "Owner@Example.org",
            "name": "Ann Owner",
        }
        provider.person["email"] = "ann.married@example.org"
        again = Client()
        sign_in(again)
        assert again.session["_auth_user_id"] == str(owner.pk), "known by the provider's id"
        told = AuditEvent.objects.filter(action="session.sign_in").latest("id")
        assert told.after["with"] == ["sso"]

    def test_the_link_ends_what_the_accounts_maker_could_come_back_with(
        self, provider: Provider, owner: User, owner_client: Client
    ) -> None:
        Authenticator.objects.create(user=owner, type=Authenticator.Type.RECOVERY_CODES, data={"seed": "x"})
        assert owner_client.get("/inference/").status_code == 200
        client = Client()
        sign_in(client)
        assert owner_client.get("/inference/").status_code == 302
        owner.refresh_from_db()
        assert not owner.check_password(PASSWORD)
        assert not Authenticator.objects.exists()
        assert client.get("/inference/").status_code == 200
        assert AuditEvent.objects.get(action="sso.link").after["second_factors_removed"] == 1

    def test_strangers_are_told_to_ask(self, provider: Provider, owner: User) -> None:
        provider.person = dict(NEW)
        client = Client()
        answer = sign_in(client)
        assert answer.status_code == 403
        assert "Ask an admin to invite you" in answer.content.decode()
        assert not is_in(client)
        assert User.objects.count() == 1

    def test_strangers_join_the_project_that_is_named(
        self, provider: Provider, project: Project, settings: Any
    ) -> None:
        settings.BERTH_OIDC_PROJECT, settings.BERTH_OIDC_ROLE = project.name, Role.USER
        provider.person = dict(NEW)
        client = Client()
        assert sign_in(client).status_code == 302
        made = User.objects.get()
        assert (made.email, made.first_name, made.has_usable_password()) == ("new@example.org", "New", False)
        assert Membership.objects.get(user=made).role == Role.USER
        assert client.get("/inference/").status_code == 200
        assert AuditEvent.objects.filter(action="sso.create").count() == 1
        sign_in(Client())
        assert User.objects.count() == 1

    @pytest.mark.parametrize("said", [False, None, "false", 1, "yes"])
    def test_an_unverified_address_is_nobodys(
        self, said: Any, provider: Provider, owner: User, project: Project, settings: Any
    ) -> None:
        settings.BERTH_OIDC_PROJECT = project.id
        if said is None:
            del provider.person["email_verified"]
        else:
            provider.person["email_verified"] = said
        client = Client()
        answer = sign_in(client)
        assert answer.status_code == 403
        assert not is_in(client)
        assert not SocialAccount.objects.exists()
        assert User.objects.count() == 1

    def test_other_domains_and_disabled_people_stay_out(
        self, provider: Provider, owner: User, project: Project, settings: Any
    ) -> None:
        settings.BERTH_OIDC_PROJECT = project.id
        settings.BERTH_OIDC_DOMAINS = ["corp.example"]
        assert sign_in(Client()).status_code == 403
        settings.BERTH_OIDC_DOMAINS = ["example.org"]
        User.objects.update(is_active=False)
        answer = sign_in(Client())
        assert answer.status_code == 403
        assert "switched off" in answer.content.decode()
        User.objects.update(is_active=True)
        sign_in(Client())
        User.objects.update(is_active=False)
        assert sign_in(client := Client())["Location"] == "/accounts/inactive/"
        assert not is_in(client)

    def test_the_second_step_is_still_asked_for(self, provider: Provider, owner: User) -> None:
        sign_in(Client())
        Authenticator.objects.create(user=owner, type=Authenticator.Type.TOTP, data={"secret": ""})
        client = Client()
        assert sign_in(client)["Location"] == "/accounts/two-step/authenticate/"
        assert not is_in(client)

    def test_userinfo_says_who_it_is_when_the_token_does_not(self, provider: Provider, owner: User) -> None:
        provider.userinfo = dict(ANN)
        provider.person = {"sub": "ann-1"}
        sign_in(client := Client())
        assert is_in(client)


class TestWhatIsNotBelieved:
    """Each is a sign-in that would work but for one lie."""

    @pytest.mark.parametrize(
        "bend",
        [
            {"nonce": "another"},
            {"nonce": None},
            {"iss": "https://evil.example"},
            {"iss": None},
            {"aud": ["somebody-else"]},
            {"aud": [CLIENT, "somebody-else"]},
            {"azp": "somebody-else"},
            {"exp": int(time.time()) - 120},
            {"exp": None},
            {"nbf": int(time.time()) + 3600},
            {"sub": None},
        ],
        # A time has no place in a name: every worker has to find the same tests.
        ids=lambda bend: str(
            {name: "a time" if isinstance(value, int) else value for name, value in bend.items()}
        ),
    )
    def test_claims(self, bend: dict[str, Any], provider: Provider, owner: User) -> None:
        provider.bend = bend
        client = Client()
        answer = sign_in(client)
        assert answer.status_code == 401
        assert not is_in(client)
        assert AuditEvent.objects.filter(action="session.sign_in_failed").count() == 1

    def test_another_key(self, provider: Provider, owner: User) -> None:
        provider.signs_with = RSAKey.generate_key(2048, {"kid": "one"})
        assert sign_in(client := Client()).status_code == 401
        assert not is_in(client)

    @pytest.mark.parametrize("algorithm", ["none", "HS256"])
    def test_signatures_that_are_none(self, algorithm: str, provider: Provider) -> None:
        keys = {"keys": [provider.key.as_dict(private=False)]}
        now = int(time.time())
        claims = {
            "iss": provider.url,
            "aud": CLIENT,
            "sub": "ann-1",
            "iat": now,
            "exp": now + 60,
            "nonce": "n",
        }
        pem = provider.key.as_pem(private=False)

        def token(header: dict[str, str], sign: Callable[[bytes], bytes]) -> str:
            signed = b".".join(_b64(json.dumps(part).encode()) for part in (header, claims))
            return (signed + b"." + _b64(sign(signed))).decode()

        def verify(text: str) -> dict[str, Any]:
            return id_tokens.verify(text, keys, issuer=provider.url, client_id=CLIENT, nonce="n")

        rsa = load_pem_private_key(provider.key.as_pem(private=True), None)
        assert isinstance(rsa, RSAPrivateKey)
        good = token({"alg": "RS256", "kid": "one"}, lambda data: rsa.sign(data, PKCS1v15(), SHA256()))
        assert verify(good)["sub"] == "ann-1"
        forged = token(
            {"alg": algorithm, "kid": "one"},
            lambda data: hmac.digest(pem, data, "sha256") if algorithm == "HS256" else b"",
        )
        with pytest.raises(id_tokens.InvalidToken):
            verify(forged)
        for broken in ("", "a.b.c", good + "x", token({"alg": "RS256", "kid": "two"}, lambda data: b"")):
            with pytest.raises(id_tokens.InvalidToken):
                verify(broken)

    def test_another_issuers_configuration(self, provider: Provider, owner: User) -> None:
        provider.discovery = {"issuer": "https://evil.example"}
        assert Client().get("/accounts/sso/").status_code == 401
        provider.discovery = {"token_endpoint": "http://evil.example/token"}
        assert Client().get("/accounts/sso/").status_code == 401

    def test_userinfo_of_another_person(self, provider: Provider, owner: User) -> None:
        provider.person = {"sub": "mallory"}
        provider.userinfo = dict(ANN)
        assert sign_in(client := Client()).status_code == 401
        assert not is_in(client)

    def test_answers_to_questions_that_this_browser_did_not_ask(
        self, provider: Provider, owner: User
    ) -> None:
        mallory, victim = Client(), Client()
        back = urlsplit(there(mallory))
        victim.get("/accounts/sso/")
        assert victim.get(f"{back.path}?{back.query}").status_code == 401
        assert not is_in(victim)
        code = parse_qs(back.query)["code"][0]
        own = parse_qs(urlsplit(victim.get("/accounts/sso/")["Location"]).query)["state"][0]
        assert victim.get(f"{back.path}?code={code}&state={own}").status_code == 401, "another's code: PKCE"
        assert not is_in(victim)

    def test_an_answer_counts_once(self, provider: Provider, owner: User) -> None:
        client = Client()
        back = urlsplit(there(client))
        assert client.get(f"{back.path}?{back.query}").status_code == 302
        client.post("/accounts/logout/")
        assert client.get(f"{back.path}?{back.query}").status_code == 401
        assert not is_in(client)

    def test_what_the_link_to_us_says_does_not_count(
        self, provider: Provider, owner: User, editor_client: Client, settings: Any
    ) -> None:
        settings.ALLOWED_HOSTS = ["*"]
        asked = editor_client.get(
            "/accounts/sso/?process=connect&scope=admin&auth_params=prompt%3Dnone&next=https://evil.example/",
            headers={"host": "evil.example"},
        )
        query = parse_qs(urlsplit(asked["Location"]).query)
        assert query["redirect_uri"] == [f"{CONSOLE}/accounts/sso/callback/"]
        assert set(query["scope"][0].split()) == {"openid", "profile", "email"}
        assert "prompt" not in query
        assert query["code_challenge_method"] == ["S256"]
        answer = sign_in(editor_client, "?process=connect&next=https://evil.example/")
        assert answer["Location"] == "/"
        assert editor_client.session["_auth_user_id"] == str(owner.pk), (
            "signed in anew, connected to nobody else"
        )
        assert SocialAccount.objects.get().user == owner

    def test_bad_answers_are_limited_by_address(self, provider: Provider, owner: User) -> None:
        client = Client()
        for _ in range(limits.BY_ADDRESS.failures):
            assert client.get("/accounts/sso/callback/?code=x&state=y").status_code == 401
        assert client.get("/accounts/sso/callback/?code=x&state=y").status_code == 429
        assert not AuditEvent.objects.exists(), "nobody asked: nothing to record"
        assert sign_in(Client()).status_code == 429

    def test_links_belong_to_their_issuer(self, provider: Provider, owner: User, settings: Any) -> None:
        sign_in(Client())
        provider.person = {"sub": "ann-1", "email": "mallory@example.org", "email_verified": True}
        with oidc_provider(provider.callback) as another:
            another.person = provider.person
            settings.BERTH_OIDC_ISSUER = another.url
            assert sign_in(client := Client()).status_code == 403
            assert not is_in(client)


def test_wrong_settings_are_told_at_start(settings: Any) -> None:
    settings.BERTH_OIDC_ISSUER = "http://id.example.org"
    settings.BERTH_OIDC_CLIENT_ID = ""
    settings.BERTH_OIDC_PROJECT, settings.BERTH_OIDC_ROLE = "default", "boss"
    assert {error.id for error in run_checks()} >= {"berth.E030", "berth.E031", "berth.E032"}
