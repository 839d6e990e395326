"""The management API of IAM, and what every resource of the API has in common."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from django.conf import settings
from django.core.management import call_command
from django.test import Client

from iam import services
from iam.actors import Actor
from iam.models import Membership, Project, ServiceAccount, User
from iam.oauth import keys, tokens
from iam.oauth.validator import client_for
from iam.roles import Role

pytestmark = pytest.mark.django_db

ACCOUNTS = "/api/v1/service-accounts/"
MEMBERS = "/api/v1/members/"
PEOPLE = ["owner", "editor", "viewer", "outsider", "anonymous"]


@pytest.fixture
def account(owner_actor: Actor) -> ServiceAccount:
    """An account with the role user."""
    return services.create_service_account(owner_actor, "caller", [Role.USER])[0]


@pytest.fixture
def anonymous_client() -> Client:
    """A browser in which nobody has signed in."""
    return Client()


def bearer(actor: Actor, role: Role) -> dict[str, str]:
    """The header of a new service account with `role`."""
    name = f"{role.value} {ServiceAccount.objects.count()}"
    account, _secret = services.create_service_account(actor, name, [role])
    return {"Authorization": f"Bearer {tokens.issue(client_for(account))}"}


def send(client: Client, method: str, path: str, body: Any = None) -> Any:
    if method == "get":
        return client.get(path)
    return getattr(client, method)(path, body, content_type="application/json")


def is_problem(response: Any, status: int) -> dict[str, Any]:
    """Check an RFC 9457 answer."""
    assert response.status_code == status, response.content
    assert response["Content-Type"].startswith("application/problem+json")
    body: dict[str, Any] = response.json()
    assert body["status"] == status
    assert body["type"].startswith("urn:berth:problem:")
    assert body["title"]
    assert body["detail"]
    return body


class TestWhoMayWhat:
    """Each call as owner, editor, viewer, outsider, anonymous."""

    @pytest.mark.parametrize("who", PEOPLE)
    @pytest.mark.parametrize(
        ("method", "path", "body", "allowed"),
        [
            ("get", ACCOUNTS, None, 200),
            ("post", ACCOUNTS, {"name": "new", "roles": ["aiplatform.user"]}, 201),
            ("get", ACCOUNTS + "{id}/", None, 200),
            ("patch", ACCOUNTS + "{id}/", {"name": "renamed"}, 200),
            ("post", ACCOUNTS + "{id}/disable/", None, 200),
            ("post", ACCOUNTS + "{id}/enable/", None, 200),
            ("post", ACCOUNTS + "{id}/secrets/", None, 201),
            ("delete", ACCOUNTS + "{id}/secrets/{secret}/", None, 204),
            ("delete", ACCOUNTS + "{id}/", None, 204),
            ("get", MEMBERS, None, 200),
        ],
    )
    def test_call(
        self,
        who: str,
        method: str,
        path: str,
        body: Any,
        allowed: int,
        account: ServiceAccount,
        request: pytest.FixtureRequest,
    ) -> None:
        client = request.getfixturevalue(f"{who}_client")
        address = path.format(id=account.id, secret=account.secrets.get().id)
        before = list(ServiceAccount.objects.values())
        response = send(client, method, address, body)
        if who == "owner":
            assert response.status_code == allowed, response.content
        elif who == "outsider" and "{id}" not in path:
            assert response.status_code == allowed  # in their own project
            assert b"caller" not in response.content
            assert b"owner@example.org" not in response.content
        else:
            expected = {"outsider": 404, "anonymous": 401}.get(who, 403)
            is_problem(response, expected)
            assert list(ServiceAccount.objects.values()) == before
        if who == "anonymous":
            assert response["WWW-Authenticate"] == 'Bearer realm="Berth"'

    @pytest.mark.parametrize("role", list(Role))
    def test_with_a_token(self, role: Role, owner_actor: Actor) -> None:
        response = Client().get(ACCOUNTS, headers=bearer(owner_actor, role))
        assert response.status_code == (200 if role == Role.ADMIN else 403)

    def test_foreign_project_by_query(
        self, owner_client: Client, other_project: Project, outsider: User
    ) -> None:
        foreign = is_problem(owner_client.get(f"{ACCOUNTS}?project={other_project.id}"), 404)
        missing = is_problem(owner_client.get(f"{ACCOUNTS}?project=prj-none"), 404)
        assert foreign == missing

    def test_own_second_project_by_query(
        self, owner_client: Client, owner: User, other_project: Project, account: ServiceAccount
    ) -> None:
        Membership.objects.create(user=owner, project=other_project, role=Role.ADMIN)
        assert owner_client.get(f"{ACCOUNTS}?project={other_project.id}").json()["results"] == []
        here = owner_client.get(f"{ACCOUNTS}?project={account.project_id}").json()["results"]
        assert [row["id"] for row in here] == [account.id]

    def test_a_token_stays_in_its_project(self, owner_actor: Actor, other_project: Project) -> None:
        header = bearer(owner_actor, Role.ADMIN)
        assert Client().get(f"{ACCOUNTS}?project={owner_actor.project.id}", headers=header).status_code == 200
        is_problem(Client().get(f"{ACCOUNTS}?project={other_project.id}", headers=header), 404)

    def test_a_token_wins_over_the_session(self, owner_client: Client, owner_actor: Actor) -> None:
        is_problem(owner_client.get(ACCOUNTS, headers=bearer(owner_actor, Role.VIEWER)), 403)


class TestTokens:
    def refused(self, token: str) -> None:
        response = Client().get(ACCOUNTS, headers={"Authorization": f"Bearer {token}"})
        told = is_problem(response, 401)
        began = 'Bearer realm="Berth", error="invalid_token", error_description="'
        assert response["WWW-Authenticate"].startswith(began)
        assert response["WWW-Authenticate"].isascii()
        assert f"{settings.BERTH_PUBLIC_URL}/accounts-api/v2/auth/token" in told["detail"]

    def token(self, owner_actor: Actor) -> str:
        return bearer(owner_actor, Role.ADMIN)["Authorization"].split()[1]

    @pytest.mark.parametrize("token", ["", "x", "a.b.c", "é"])
    def test_rubbish(self, token: str) -> None:
        self.refused(token)

    def test_rubbish_is_not_saved_by_a_session(self, owner_client: Client) -> None:
        response = owner_client.get(ACCOUNTS, headers={"Authorization": "Bearer x"})
        is_problem(response, 401)

    def test_expired(self, owner_actor: Actor) -> None:
        claims = tokens.verify(self.token(owner_actor))
        claims["exp"] = int((datetime.now(UTC) - timedelta(seconds=1)).timestamp())
        key = keys.signing_key()
        self.refused(jwt.encode(claims, key.private, "RS256", headers={"kid": key.kid}))

    def test_disabled_and_deleted_at_once(self, owner_actor: Actor) -> None:
        token = self.token(owner_actor)
        account = ServiceAccount.objects.get()
        services.disable_service_account(owner_actor, account)
        self.refused(token)
        services.enable_service_account(owner_actor, account)
        self.refused(token)  # a token that was revoked stays so
        again = tokens.issue(client_for(account))
        assert Client().get(ACCOUNTS, headers={"Authorization": f"Bearer {again}"}).status_code == 200
        services.delete_service_account(owner_actor, account)
        self.refused(again)

    def test_a_role_that_was_taken_away_counts_at_once(self, owner_actor: Actor) -> None:
        token = self.token(owner_actor)
        account = ServiceAccount.objects.get()
        services.update_service_account(owner_actor, account, roles=[Role.USER])
        self.refused(token)
        again = tokens.issue(client_for(account))
        is_problem(Client().get(ACCOUNTS, headers={"Authorization": f"Bearer {again}"}), 403)


class TestServiceAccounts:
    def test_create_shows_the_secret_once(self, owner_client: Client) -> None:
        body = {"name": "caller", "roles": ["aiplatform.user"], "description": "calls"}
        response = send(owner_client, "post", ACCOUNTS, body)
        assert response.status_code == 201
        assert "no-store" in response["Cache-Control"]
        made = response.json()
        assert made["id"] == made["client_id"]
        assert made["created_by"] == "owner@example.org"
        assert made["status"] == "ACTIVE"
        secret = made["client_secret"]
        token = Client().post(
            "/accounts-api/v2/auth/token",
            {"grant_type": "client_credentials", "client_id": made["id"], "client_secret": secret},
            content_type="application/json",
        )
        assert token.status_code == 200
        for path in (ACCOUNTS, f"{ACCOUNTS}{made['id']}/"):
            content = owner_client.get(path).content.decode()
            assert secret not in content
            assert "digest" not in content
            assert secret[-4:] in content

    @pytest.mark.parametrize(
        ("body", "field"),
        [
            ({}, "name"),
            ({"name": "", "roles": ["aiplatform.user"]}, "name"),
            ({"name": "x" * 81, "roles": ["aiplatform.user"]}, "name"),
            ({"name": "caller", "roles": ["aiplatform.user"]}, "name"),
            ({"name": "a"}, "roles"),
            ({"name": "a", "roles": []}, "roles"),
            ({"name": "a", "roles": "aiplatform.user"}, "roles"),
            ({"name": "a", "roles": ["root"]}, "roles.0"),
            ({"name": "a", "roles": [{}]}, "roles.0"),
            ([], "non_field_errors"),
        ],
    )
    def test_bad_input(self, owner_client: Client, account: ServiceAccount, body: Any, field: str) -> None:
        problem = is_problem(send(owner_client, "post", ACCOUNTS, body), 400)
        assert field in problem["errors"]
        assert all(isinstance(text, str) for texts in problem["errors"].values() for text in texts)

    def test_patch_only_what_is_given(self, owner_client: Client, account: ServiceAccount) -> None:
        response = send(owner_client, "patch", f"{ACCOUNTS}{account.id}/", {"description": "new"})
        assert response.json()["description"] == "new"
        account.refresh_from_db()
        assert (account.name, account.roles) == ("caller", [Role.USER])

    def test_a_third_secret(self, owner_client: Client, account: ServiceAccount) -> None:
        path = f"{ACCOUNTS}{account.id}/secrets/"
        second = send(owner_client, "post", path)
        assert second.status_code == 201
        assert "no-store" in second["Cache-Control"]
        problem = is_problem(send(owner_client, "post", path), 400)
        assert "secret" in problem["errors"]
        assert owner_client.delete(f"{path}{second.json()['id']}/").status_code == 204
        assert send(owner_client, "post", path).status_code == 201

    def test_a_secret_of_another_account(
        self, owner_client: Client, owner_actor: Actor, account: ServiceAccount
    ) -> None:
        other, _secret = services.create_service_account(owner_actor, "other", [Role.USER])
        secret = other.secrets.get().id
        is_problem(owner_client.delete(f"{ACCOUNTS}{account.id}/secrets/{secret}/"), 404)

    def test_disable_then_enable(self, owner_client: Client, account: ServiceAccount) -> None:
        path = f"{ACCOUNTS}{account.id}/"
        assert send(owner_client, "post", path + "disable/").json()["status"] == "DISABLED"
        assert send(owner_client, "post", path + "enable/").json()["status"] == "ACTIVE"


class TestPages:
    def test_by_cursor(self, owner_client: Client, owner_actor: Actor, settings: Any) -> None:
        settings.ALLOWED_HOSTS = ["*"]
        names = [f"a{n}" for n in range(5)]
        for name in names:
            services.create_service_account(owner_actor, name, [Role.USER])
        seen: list[str] = []
        path = f"{ACCOUNTS}?page_size=2"
        while path:
            page = owner_client.get(path, HTTP_HOST="evil.example").json()
            seen += [row["name"] for row in page["results"]]
            link = page["next"]
            assert link is None or link.startswith(settings.BERTH_PUBLIC_URL + ACCOUNTS)
            path = link.removeprefix(settings.BERTH_PUBLIC_URL) if link else ""
        assert seen == names[::-1]

    @pytest.mark.parametrize(("cursor", "status"), [("o=x", 404), ("p=not-a-date", 400)])
    def test_a_broken_cursor(self, owner_client: Client, cursor: str, status: int) -> None:
        encoded = base64.b64encode(cursor.encode()).decode()
        is_problem(owner_client.get(ACCOUNTS, {"cursor": encoded}), status)

    def test_members(self, owner_client: Client, owner: User, viewer: User, outsider: User) -> None:
        rows = owner_client.get(MEMBERS).json()["results"]
        assert {(row["email"], row["role"]) for row in rows} == {
            ("owner@example.org", "aiplatform.admin"),
            ("viewer@example.org", "aiplatform.viewer"),
        }


class TestEveryErrorIsAProblem:
    def test_unknown_address(self, owner_client: Client) -> None:
        is_problem(owner_client.get("/api/v1/nothing/"), 404)
        is_problem(owner_client.get("/api/nothing"), 404)

    def test_unknown_id(self, owner_client: Client) -> None:
        for unknown in ("sa-none", "%00", "sa-1.json", "..%2f", "é"):
            is_problem(owner_client.get(f"{ACCOUNTS}{unknown}/"), 404)
        is_problem(owner_client.get(f"{ACCOUNTS}?project=%00"), 404)

    def test_method(self, owner_client: Client) -> None:
        response = owner_client.delete(ACCOUNTS)
        is_problem(response, 405)
        assert "GET" in response["Allow"]

    def test_broken_json(self, owner_client: Client) -> None:
        is_problem(owner_client.post(ACCOUNTS, "{", content_type="application/json"), 400)

    def test_other_content_type(self, owner_client: Client) -> None:
        is_problem(owner_client.post(ACCOUNTS, "<a/>", content_type="text/xml"), 415)

    def test_csrf(self, owner: User) -> None:
        client = Client(enforce_csrf_checks=True)
        client.force_login(owner)
        is_problem(client.post(ACCOUNTS, {}, content_type="application/json"), 403)

    def test_a_token_needs_no_csrf(self, owner_actor: Actor) -> None:
        client = Client(enforce_csrf_checks=True)
        body = {"name": "a", "roles": ["aiplatform.user"]}
        header = bearer(owner_actor, Role.ADMIN)
        assert client.post(ACCOUNTS, body, content_type="application/json", headers=header).status_code == 201

    def test_a_person_without_a_project(self) -> None:
        client = Client()
        client.force_login(User.objects.create_user("lost@example.org"))
        is_problem(client.get(ACCOUNTS), 403)

    def test_a_defect(self, owner: User, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(*_args: Any, **_kwargs: Any) -> None:
            raise RuntimeError("sensitive words")

        monkeypatch.setattr(services, "create_service_account", broken)
        client = Client(raise_request_exception=False)
        client.force_login(owner)
        body = {"name": "a", "roles": ["aiplatform.user"]}
        response = client.post(ACCOUNTS, body, content_type="application/json")
        is_problem(response, 500)
        assert b"sensitive" not in response.content


class TestSchema:
    def test_it_tells_of_everything(self, client: Client) -> None:
        response = client.get("/api/schema/?format=json")
        assert response.status_code == 200
        schema = response.json()
        assert schema["openapi"].startswith("3.")
        assert schema["components"]["securitySchemes"]["accessToken"]["scheme"] == "bearer"
        paths = schema["paths"]
        for path, methods in {
            "/api/v1/service-accounts/": {"get", "post"},
            "/api/v1/service-accounts/{id}/": {"get", "patch", "delete"},
            "/api/v1/service-accounts/{id}/disable/": {"post"},
            "/api/v1/service-accounts/{id}/enable/": {"post"},
            "/api/v1/service-accounts/{id}/secrets/": {"post"},
            "/api/v1/service-accounts/{id}/secrets/{secret_id}/": {"delete"},
            "/api/v1/service-accounts/{id}/can-call/": {"get"},
            "/api/v1/service-accounts/{id}/last-uses/": {"get"},
            "/api/v1/api-keys/": {"get", "post"},
            "/api/v1/api-keys/{id}/": {"get", "delete"},
            "/api/v1/api-keys/{id}/can-call/": {"get"},
            "/api/v1/api-keys/{id}/last-uses/": {"get"},
        }.items():
            assert methods == set(paths[path]) - {"parameters"}, path

    def test_it_is_valid_and_without_doubts(self, tmp_path: Path) -> None:
        call_command("spectacular", "--validate", "--fail-on-warn", "--file", str(tmp_path / "schema.yml"))

    def test_docs_page(self, client: Client) -> None:
        response = client.get("/api/docs/")
        assert response.status_code == 200
        assert b"<style" not in response.content
        assert b"<script>" not in response.content


def test_a_name_that_is_no_field_is_refused(owner_client: Client, account: ServiceAccount) -> None:
    """A limit with a typing error in it would be no limit; what the API itself told may come back."""
    wrong = {"request_per_minute": 5}
    for answer in (
        owner_client.patch(f"{ACCOUNTS}{account.id}/", wrong, content_type="application/json"),
        owner_client.post(ACCOUNTS, {"name": "n", "roles": ["aiplatform.user"], **wrong}, "application/json"),
    ):
        assert answer.status_code == 400
        assert "requests_per_minute" in answer.json()["errors"]["request_per_minute"][0]
    told = owner_client.get(f"{ACCOUNTS}{account.id}/").json()
    same = owner_client.patch(f"{ACCOUNTS}{account.id}/", told, content_type="application/json")
    assert same.status_code == 200


def test_a_limit_that_no_column_holds_is_told_as_too_high(owner_client: Client) -> None:
    """Not as one that is below 1."""
    body = {"name": "n", "roles": ["aiplatform.user"], "tokens_per_minute": 2**31}
    answer = owner_client.post(ACCOUNTS, body, content_type="application/json")
    assert answer.status_code == 400
    assert str(2**31 - 1) in answer.json()["errors"]["tokens_per_minute"][0]


def test_the_schema_describes_errors(client: Client) -> None:
    """Of every operation, as problems."""
    schema = client.get("/api/schema/", headers={"Accept": "application/json"}).json()
    assert set(schema["components"]["schemas"]["Problem"]["required"]) == {
        "type",
        "title",
        "status",
        "detail",
    }
    for operations in schema["paths"].values():
        for method in operations.keys() & {"get", "post", "patch", "delete"}:
            content = operations[method]["responses"]["default"]["content"]
            assert list(content) == ["application/problem+json"]
