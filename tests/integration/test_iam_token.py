"""The token call of contract §2: what it accepts, what it answers, and that nobody can tell failures apart."""

from __future__ import annotations

import base64
import json
import logging
from datetime import timedelta
from typing import Any

import jwt
import pytest
from django.core.cache import cache
from django.db import OperationalError, connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from iam import services
from iam.actors import Actor
from iam.models import MAX_SECRETS, ServiceAccount, ServiceAccountSecret
from iam.oauth import failures, keys, tokens
from iam.oauth.hashers import SecretHasher

URL = "/accounts-api/v2/auth/token"
GRANT = {"grant_type": "client_credentials"}
STRANGER = "sa-11111111-2222-3333-4444-555555555555"


@pytest.fixture
def credentials(owner_actor: Actor) -> tuple[str, str]:
    """client_id and client_secret of an active account with the role user."""
    account, secret = services.create_service_account(owner_actor, "caller", ["aiplatform.user"])
    return account.id, secret


@pytest.fixture
def hashes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every digest that is computed."""
    made: list[str] = []
    encode = SecretHasher.encode

    def counting(self: SecretHasher, password: str, salt: str) -> str:
        made.append(password)
        return encode(self, password, salt)

    monkeypatch.setattr(SecretHasher, "encode", counting)
    return made


def basic(client_id: str, secret: str) -> str:
    return "Basic " + base64.b64encode(f"{client_id}:{secret}".encode()).decode()


def call(body: Any, authorization: str | None = None, **extra: Any) -> Any:
    """POST `body`: a dict as JSON, text as a form."""
    headers = {"Authorization": authorization} if authorization else {}
    kind = "application/x-www-form-urlencoded" if isinstance(body, str) else "application/json"
    content = body if isinstance(body, str) else json.dumps(body)
    return Client().post(URL, content, content_type=extra.pop("content_type", kind), headers=headers, **extra)


def refused(response: Any, status: int, error: str) -> dict[str, Any]:
    """Check an RFC 6749 §5.2 answer."""
    assert response.status_code == status, response.content
    assert response["Content-Type"] == "application/json"
    assert response["Cache-Control"] == "no-store"
    body: dict[str, Any] = response.json()
    assert body["error"] == error
    assert set(body) <= {"error", "error_description"}
    assert all(c == " " or ("!" <= c <= "~" and c not in '"\\') for c in body.get("error_description", ""))
    if status == 401:
        assert response["WWW-Authenticate"].startswith("Basic ")
    return body


@pytest.mark.django_db
class TestGranted:
    def test_the_contracts_own_call(self, credentials: tuple[str, str]) -> None:
        response = call({**GRANT, "scope": "email"}, basic(*credentials))
        assert response.status_code == 200
        assert response["Cache-Control"] == "no-store"
        body = response.json()
        token = body.pop("access_token")
        assert body == {"token_type": "Bearer", "expires_in": 1800, "refresh_expires_in": 0}
        assert token.startswith("eyJ")

    def test_form_body_with_basic(self, credentials: tuple[str, str]) -> None:
        assert call("grant_type=client_credentials", basic(*credentials)).status_code == 200

    def test_form_body_with_credentials(self, credentials: tuple[str, str]) -> None:
        body = f"grant_type=client_credentials&client_id={credentials[0]}&client_secret={credentials[1]}"
        assert call(body).status_code == 200

    def test_json_body_with_credentials(self, credentials: tuple[str, str]) -> None:
        body = {**GRANT, "client_id": credentials[0], "client_secret": credentials[1]}
        assert call(body).status_code == 200

    def test_json_with_a_charset(self, credentials: tuple[str, str]) -> None:
        response = call(GRANT, basic(*credentials), content_type="application/json; charset=utf-8")
        assert response.status_code == 200

    def test_percent_encoded_basic(self, credentials: tuple[str, str]) -> None:
        client_id = credentials[0].replace("-", "%2D")
        assert call(GRANT, basic(client_id, credentials[1])).status_code == 200

    def test_the_same_client_id_in_the_body_too(self, credentials: tuple[str, str]) -> None:
        assert call({**GRANT, "client_id": credentials[0]}, basic(*credentials)).status_code == 200

    @pytest.mark.parametrize("scope", ["email", "openid", "profile", "openid email profile", "", None])
    def test_known_scopes_change_nothing(self, credentials: tuple[str, str], scope: str | None) -> None:
        response = call({**GRANT, "scope": scope}, basic(*credentials))
        assert response.status_code == 200
        assert "scope" not in response.json()

    @pytest.mark.parametrize(
        "extra", ["resource=foo", "resource=a&resource=b", "client=x", "user=1", "scopes=x", "foo=1&foo=2"]
    )
    def test_what_it_does_not_know_is_ignored(self, credentials: tuple[str, str], extra: str) -> None:
        assert call(f"grant_type=client_credentials&{extra}", basic(*credentials)).status_code == 200

    def test_the_claims(self, credentials: tuple[str, str], settings: Any) -> None:
        first = call(GRANT, basic(*credentials)).json()["access_token"]
        second = call(GRANT, basic(*credentials)).json()["access_token"]
        header = jwt.get_unverified_header(first)
        assert header["alg"] == "RS256"
        [published] = json.loads(keys.public_jwks())["keys"]
        assert header["kid"] == published["kid"]
        claims = jwt.decode(
            first, jwt.PyJWK(published).key, algorithms=["RS256"], audience=settings.BERTH_TOKEN_AUDIENCE
        )
        account = ServiceAccount.objects.get(id=credentials[0])
        assert claims["iss"] == settings.BERTH_PUBLIC_URL
        assert claims["sub"] == credentials[0]
        assert claims["project"] == account.project_id
        assert claims["roles"] == ["aiplatform.user"]
        assert claims["exp"] - claims["iat"] == 1800
        assert claims["jti"] != tokens.verify(second)["jti"]

    def test_the_issuer_does_not_follow_the_host_header(
        self, credentials: tuple[str, str], settings: Any
    ) -> None:
        settings.ALLOWED_HOSTS = ["*"]
        token = call(GRANT, basic(*credentials), HTTP_HOST="evil.example").json()["access_token"]
        assert tokens.verify(token)["iss"] == settings.BERTH_PUBLIC_URL

    def test_either_of_two_secrets(self, credentials: tuple[str, str], owner_actor: Actor) -> None:
        account = ServiceAccount.objects.get(id=credentials[0])
        _row, second = services.add_secret(owner_actor, account)
        assert call(GRANT, basic(account.id, second)).status_code == 200
        assert call(GRANT, basic(*credentials)).status_code == 200

    def test_nothing_is_stored_but_the_time_of_use(self, credentials: tuple[str, str]) -> None:
        from allauth.idp.oidc.models import Client as OIDCClient
        from allauth.idp.oidc.models import Token

        assert call(GRANT, basic(*credentials)).status_code == 200
        assert not Token.objects.exists()
        assert not OIDCClient.objects.exists()

    def test_use_is_noted_at_most_once_a_minute(self, credentials: tuple[str, str]) -> None:
        call(GRANT, basic(*credentials))
        account = ServiceAccount.objects.get(id=credentials[0])
        used = account.last_used_at
        assert used is not None
        assert account.secrets.get().last_used_at == used
        with CaptureQueriesContext(
            connection,
        ) as queries:
            call(GRANT, basic(*credentials))
        assert not [q["sql"] for q in queries if not q["sql"].startswith("SELECT")]
        old = timezone.now() - timedelta(seconds=61)
        ServiceAccount.objects.update(last_used_at=old)
        ServiceAccountSecret.objects.update(last_used_at=old)
        call(GRANT, basic(*credentials))
        account.refresh_from_db()
        assert account.last_used_at is not None
        assert account.last_used_at > used
        assert account.secrets.get().last_used_at == account.last_used_at

    def test_a_database_that_takes_no_writes_still_gives_tokens(
        self, credentials: tuple[str, str], caplog: pytest.LogCaptureFixture
    ) -> None:
        def read_only(execute: Any, sql: str, *rest: Any) -> Any:
            if sql.startswith("UPDATE"):
                raise OperationalError("attempt to write a readonly database")
            return execute(sql, *rest)

        with connection.execute_wrapper(read_only):
            assert call(GRANT, basic(*credentials)).status_code == 200
        assert "was not noted" in caplog.text

    def test_neither_secret_nor_token_is_logged(
        self, credentials: tuple[str, str], caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        token = call(GRANT, basic(*credentials)).json()["access_token"]
        assert credentials[1] not in caplog.text
        assert basic(*credentials).split()[1] not in caplog.text
        assert token not in caplog.text


def _headers_but_id(answer: Any) -> dict[str, str]:
    return {name: value for name, value in answer.items() if name.lower() != "x-request-id"}


@pytest.mark.django_db
class TestRefused:
    def test_wrong_id_and_wrong_secret_read_alike(self, credentials: tuple[str, str]) -> None:
        answers = [
            call(GRANT, authorization)
            for authorization in (
                basic(credentials[0], "wrong"),
                basic(STRANGER, credentials[1]),
                basic("not-even-an-id", "x"),
                basic("sa-\x00", "x"),
            )
        ]
        for answer in answers:
            refused(answer, 401, "invalid_client")
        told = {(answer.content, *sorted(_headers_but_id(answer).items())) for answer in answers}
        assert len(told) == 1

    @pytest.mark.parametrize("second_secret", [False, True])
    def test_every_failure_takes_the_same_steps(
        self, credentials: tuple[str, str], owner_actor: Actor, hashes: list[str], second_secret: bool
    ) -> None:
        """Told apart by no clock: one query and as many digests as an account may have secrets, always."""
        account = ServiceAccount.objects.get(id=credentials[0])
        disabled, other_secret = services.create_service_account(owner_actor, "off", ["aiplatform.user"])
        services.disable_service_account(owner_actor, disabled)
        if second_secret:
            services.add_secret(owner_actor, account)
        call(GRANT, basic(STRANGER, "x"))  # makes the digest of nobody
        for client_id, secret in [
            (account.id, "wrong"),
            (STRANGER, credentials[1]),
            ("not-even-an-id", "x"),
            (disabled.id, other_secret),
            (disabled.id, "wrong"),
        ]:
            hashes.clear()
            with CaptureQueriesContext(connection) as queries:
                refused(call(GRANT, basic(client_id, secret)), 401, "invalid_client")
            assert hashes == [secret] * MAX_SECRETS
            assert len(queries) == 1

    def test_a_right_secret_of_another_account(
        self, credentials: tuple[str, str], owner_actor: Actor
    ) -> None:
        _other, secret = services.create_service_account(owner_actor, "other", ["aiplatform.user"])
        refused(call(GRANT, basic(credentials[0], secret)), 401, "invalid_client")

    def test_no_credentials(self) -> None:
        refused(call(GRANT), 401, "invalid_client")

    def test_only_an_id(self, credentials: tuple[str, str]) -> None:
        refused(call({**GRANT, "client_id": credentials[0]}), 401, "invalid_client")

    def test_another_scheme(self) -> None:
        refused(call(GRANT, "Bearer abc"), 401, "invalid_client")

    def test_deleted_account(self, credentials: tuple[str, str], owner_actor: Actor) -> None:
        services.delete_service_account(owner_actor, ServiceAccount.objects.get(id=credentials[0]))
        refused(call(GRANT, basic(*credentials)), 401, "invalid_client")

    def test_disabled_then_enabled(self, credentials: tuple[str, str], owner_actor: Actor) -> None:
        account = ServiceAccount.objects.get(id=credentials[0])
        services.disable_service_account(owner_actor, account)
        refused(call(GRANT, basic(*credentials)), 401, "invalid_client")
        services.enable_service_account(owner_actor, account)
        assert call(GRANT, basic(*credentials)).status_code == 200

    def test_expired_secret(self, credentials: tuple[str, str]) -> None:
        ServiceAccountSecret.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
        refused(call(GRANT, basic(*credentials)), 401, "invalid_client")

    def test_deleted_secret(self, credentials: tuple[str, str], owner_actor: Actor) -> None:
        services.delete_secret(owner_actor, ServiceAccountSecret.objects.get())
        refused(call(GRANT, basic(*credentials)), 401, "invalid_client")

    def test_a_digest_of_a_lost_key_fits_nothing(self, credentials: tuple[str, str]) -> None:
        forged = SecretHasher().encode("guess", "deadbeef")  # made with the key that stands for "no such key"
        ServiceAccountSecret.objects.update(digest=forged)
        refused(call(GRANT, basic(credentials[0], "guess")), 401, "invalid_client")

    @pytest.mark.parametrize(
        "authorization",
        [
            "Basic !!!",
            "Basic abc",
            "Basic " + base64.b64encode(b"\xff\xfe:x").decode(),
            "Basic " + base64.b64encode(b"no-colon").decode(),
            "Basic",
            "Basic ",
        ],
    )
    def test_malformed_basic(self, authorization: str) -> None:
        refused(call(GRANT, authorization), 400, "invalid_request")

    @pytest.mark.parametrize(
        "body",
        [
            "{",
            "[]",
            '"text"',
            "null",
            "",
            "\ufeff{}",
            "[" * 5000,
            '{"grant_type": "client_credentials", "grant_type": "client_credentials"}',
            '{"grant_type": 1}',
            '{"grant_type": ["client_credentials"]}',
            '{"grant_type": "client_credentials", "scope": ["email"]}',
            '{"grant_type": "client_credentials", "client_id": {}}',
        ],
    )
    def test_malformed_json(self, body: str, credentials: tuple[str, str]) -> None:
        response = call(body, basic(*credentials), content_type="application/json")
        refused(response, 400, "invalid_request")

    @pytest.mark.parametrize(
        "body",
        [
            b"\xff\xfe",
            b"grant_type=%ff",
            b"grant_type=client_credentials&grant_type=client_credentials",
            b"grant_type=client_credentials&scope=email&scope=email",
            b"grant_type=client_credentials&client_id=a&client_id=b",
            b'{"grant_type":"client_credentials"}',
            b"&".join(b"a=%d" % n for n in range(200)),
        ],
    )
    def test_malformed_form(self, body: bytes, credentials: tuple[str, str]) -> None:
        response = Client().post(
            URL,
            body,
            content_type="application/x-www-form-urlencoded",
            headers={"Authorization": basic(*credentials)},
        )
        refused(response, 400, "invalid_request")

    def test_lone_surrogates_are_just_wrong(self) -> None:
        body = '{"grant_type":"client_credentials","client_id":"\\ud800","client_secret":"\\udfff"}'
        refused(call(body, content_type="application/json"), 401, "invalid_client")

    def test_other_content_type(self, credentials: tuple[str, str]) -> None:
        refused(call("<a/>", basic(*credentials), content_type="text/xml"), 400, "invalid_request")
        response = Client().post(URL, GRANT, headers={"Authorization": basic(*credentials)})  # multipart
        refused(response, 400, "invalid_request")

    @pytest.mark.parametrize("size", [17 * 1024, 3 * 1024 * 1024])
    def test_huge_body(self, size: int) -> None:
        refused(call("grant_type=" + "a" * size), 400, "invalid_request")

    def test_missing_grant_type(self, credentials: tuple[str, str]) -> None:
        refused(call({"scope": "email"}, basic(*credentials)), 400, "invalid_request")
        refused(call("grant_type=", basic(*credentials)), 400, "invalid_request")

    @pytest.mark.parametrize(
        "grant", ["password", "refresh_token", "authorization_code", "CLIENT_CREDENTIALS", "x", "\ud800"]
    )
    def test_other_grant_types(self, credentials: tuple[str, str], grant: str) -> None:
        refused(call({"grant_type": grant}, basic(*credentials)), 400, "unsupported_grant_type")

    @pytest.mark.parametrize("scope", ["admin", "email admin", "EMAIL", "\ud800"])
    def test_unknown_scope(self, credentials: tuple[str, str], scope: str) -> None:
        refused(call({**GRANT, "scope": scope}, basic(*credentials)), 400, "invalid_scope")

    def test_credentials_in_both_places(self, credentials: tuple[str, str]) -> None:
        body = {**GRANT, "client_id": credentials[0], "client_secret": credentials[1]}
        refused(call(body, basic(*credentials)), 400, "invalid_request")

    def test_two_different_ids(self, credentials: tuple[str, str]) -> None:
        refused(call({**GRANT, "client_id": STRANGER}, basic(*credentials)), 400, "invalid_request")

    def test_query_parameters(self, credentials: tuple[str, str]) -> None:
        response = Client().post(
            URL + "?client_id=x",
            json.dumps(GRANT),
            content_type="application/json",
            headers={"Authorization": basic(*credentials)},
        )
        refused(response, 400, "invalid_request")

    @pytest.mark.parametrize("method", ["get", "put", "delete", "patch"])
    def test_other_methods(self, method: str) -> None:
        response = getattr(Client(), method)(URL)
        refused(response, 405, "invalid_request")
        assert response["Allow"] == "POST"

    def test_every_wrong_kind_of_parameter_is_an_answer(self, credentials: tuple[str, str]) -> None:
        """Whatever the JSON holds, it is never a 500."""
        for name in ("grant_type", "scope", "client_id", "client_secret", "resource", "client", "scopes"):
            for value in (1, 1.5, True, [], ["x"], {}, {"a": 1}, "x", "x y", "\x00", "é", None):
                body = {**GRANT, name: value}
                assert call(body, basic(*credentials)).status_code in (200, 400, 401), (name, value)


@pytest.mark.django_db
class TestTooManyFailures:
    @pytest.fixture(autouse=True)
    def _one_window(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("iam.oauth.failures.time.time", lambda: 1_000_010.0)

    def fail(self, times: int, **extra: Any) -> Any:
        for _ in range(times):
            response = call(GRANT, basic(STRANGER, "wrong"), **extra)
        return response

    def test_429_after_the_limit(self, credentials: tuple[str, str]) -> None:
        refused(self.fail(failures.LIMIT), 401, "invalid_client")
        response = call(GRANT, basic(*credentials))
        refused(response, 429, "temporarily_unavailable")
        assert int(response["Retry-After"]) == 60 - 1_000_010 % 60

    def test_another_address_is_not_held_up(self, credentials: tuple[str, str]) -> None:
        self.fail(failures.LIMIT, REMOTE_ADDR="192.0.2.7")
        assert call(GRANT, basic(*credentials), REMOTE_ADDR="192.0.2.7").status_code == 429
        assert call(GRANT, basic(*credentials), REMOTE_ADDR="192.0.2.8").status_code == 200

    def test_never_by_client_id(self, credentials: tuple[str, str]) -> None:
        for n in range(failures.LIMIT + 5):
            call(GRANT, basic(credentials[0], "wrong"), REMOTE_ADDR=f"192.0.2.{n}")
        assert call(GRANT, basic(*credentials), REMOTE_ADDR="198.51.100.1").status_code == 200

    def test_success_and_bad_requests_do_not_count(self, credentials: tuple[str, str]) -> None:
        for _ in range(failures.LIMIT + 5):
            call({"grant_type": "password"})
            call(GRANT, basic(*credentials))
        assert call(GRANT, basic(*credentials)).status_code == 200

    def test_the_next_window(self, credentials: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.fail(failures.LIMIT)
        monkeypatch.setattr("iam.oauth.failures.time.time", lambda: 1_000_020.0)
        assert call(GRANT, basic(*credentials)).status_code == 200

    def test_through_the_gateway_the_caller_counts(self, credentials: tuple[str, str]) -> None:
        through = {"REMOTE_ADDR": "127.0.0.1", "HTTP_X_FORWARDED_FOR": "203.0.113.9, 198.51.100.4"}
        self.fail(failures.LIMIT, **through)
        assert call(GRANT, basic(*credentials), **through).status_code == 429
        same_claim = {**through, "HTTP_X_FORWARDED_FOR": "203.0.113.9, 198.51.100.5"}
        assert call(GRANT, basic(*credentials), **same_claim).status_code == 200
        spoofed = {**through, "HTTP_X_FORWARDED_FOR": "192.0.2.99, 198.51.100.4"}
        assert call(GRANT, basic(*credentials), **spoofed).status_code == 429

    def test_nobody_else_may_say_who_calls(self, credentials: tuple[str, str]) -> None:
        for n in range(failures.LIMIT):
            call(GRANT, basic(STRANGER, "x"), REMOTE_ADDR="192.0.2.7", HTTP_X_FORWARDED_FOR=f"203.0.113.{n}")
        assert call(GRANT, basic(*credentials), REMOTE_ADDR="192.0.2.7").status_code == 429

    def test_an_ipv6_network_counts_as_one(self, credentials: tuple[str, str]) -> None:
        for n in range(failures.LIMIT):
            call(GRANT, basic(STRANGER, "x"), REMOTE_ADDR=f"2001:db8::{n:x}")
        assert call(GRANT, basic(*credentials), REMOTE_ADDR="2001:db8::ffff").status_code == 429
        assert call(GRANT, basic(*credentials), REMOTE_ADDR="2001:db8:0:1::1").status_code == 200

    def test_without_redis_tokens_are_still_issued(self, credentials: tuple[str, str], settings: Any) -> None:
        settings.CACHES = {
            "default": {
                "BACKEND": "django.core.cache.backends.redis.RedisCache",
                "LOCATION": "unix:///nonexistent/redis.sock",
            }
        }
        try:
            assert call(GRANT, basic(*credentials)).status_code == 200
            refused(call(GRANT, basic(STRANGER, "x")), 401, "invalid_client")
        finally:
            cache.close()
            settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}


@pytest.mark.django_db
class TestDiscovery:
    def test_it_names_the_same_server(self, settings: Any) -> None:
        settings.ALLOWED_HOSTS = ["*"]
        response = Client().get("/.well-known/openid-configuration", HTTP_HOST="evil.example")
        data = response.json()
        assert data["issuer"] == settings.BERTH_PUBLIC_URL
        assert data["token_endpoint"] == settings.BERTH_PUBLIC_URL + URL
        assert data["jwks_uri"] == settings.BERTH_PUBLIC_URL + "/.well-known/jwks.json"
        assert "evil" not in response.content.decode()
        assert data["grant_types_supported"] == ["client_credentials"]
        assert data["token_endpoint_auth_methods_supported"] == ["client_secret_basic", "client_secret_post"]

    def test_the_published_keys_hold_nothing_private(self) -> None:
        response = Client().get("/.well-known/jwks.json")
        assert response.content.decode() == keys.public_jwks()
        assert "max-age" in response["Cache-Control"]
        [key] = response.json()["keys"]
        assert set(key) == {"kty", "kid", "use", "alg", "n", "e"}
