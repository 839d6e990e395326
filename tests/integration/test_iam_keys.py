"""API keys in console and API, and what their pages share with those of service accounts."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import jwt
import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from endpoints.models import Endpoint, LastUse
from iam import services
from iam.actors import Actor
from iam.models import ApiKey, Membership, ServiceAccount, User
from iam.oauth import tokens
from iam.oauth.validator import client_for
from iam.roles import Role
from tests.conftest import actor_of, make_member, signed_in
from tests.support_endpoints import load_data, new_endpoint, ready_model

pytestmark = pytest.mark.django_db

PAGES = "/iam/api-keys/"
KEYS = "/api/v1/api-keys/"
ACCOUNTS = "/api/v1/service-accounts/"
ACCOUNT_PAGES = "/iam/service-accounts/"
FORM = {"name": "laptop", "days": "30", "scope": "all"}
ACCOUNT_FORM = {"name": "caller", "description": "", "roles": ["aiplatform.user"], "scope": "all"}
NEW_YEAR = "2099-01-01T00:00:00.000000Z"
FOREIGN = "me-00000000-0000-0000-0000-000000000000"


@pytest.fixture
def key(editor_actor: Actor) -> ApiKey:
    """The editor's."""
    return services.create_api_key(editor_actor, "notebook")[0]


@pytest.fixture
def account(owner_actor: Actor) -> ServiceAccount:
    """An account with the role user."""
    return services.create_service_account(owner_actor, "embedder", [Role.USER])[0]


@pytest.fixture
def endpoints(owner_actor: Actor) -> dict[str, Endpoint]:
    """Two of the project: one private, one not."""
    load_data()
    model = ready_model(owner_actor.project)
    return {
        name: new_endpoint(owner_actor, model, name=name, private=name == "chat") for name in ("chat", "open")
    }


@pytest.fixture
def other_client(project: Any) -> Client:
    """Another editor's browser."""
    return signed_in(make_member(project, "other@example.org", Role.EDITOR))


@pytest.fixture
def anonymous_client() -> Client:
    """A browser in which nobody has signed in."""
    return Client()


def send(client: Client, method: str, path: str, body: Any = None) -> Any:
    if method == "get":
        return client.get(path)
    return getattr(client, method)(path, body, content_type="application/json")


def shown_key(response: Any) -> str:
    """The key in a page, "" if there is none."""
    found = re.search(r'id="api-key" value="([^"]+)"', response.content.decode())
    return found.group(1) if found else ""


class TestWhoMayWhat:
    """Each page and call about the editor's key as everybody. "own": their own list, without that key."""

    TABLE: tuple[tuple[str, str, dict[str, Any]], ...] = (
        ("get", PAGES, {"owner": 200, "editor": 200, "other": "own", "viewer": 403, "outsider": "own"}),
        ("get", PAGES + "create/", {"owner": 200, "editor": 200, "viewer": 403}),
        ("get", PAGES + "{id}/", {"owner": 200, "editor": 200, "other": 404, "viewer": 403, "outsider": 404}),
        (
            "post",
            PAGES + "{id}/delete/",
            {"owner": 302, "editor": 302, "other": 404, "viewer": 403, "outsider": 404},
        ),
        ("get", KEYS, {"owner": 200, "editor": 200, "other": "own", "viewer": 403, "outsider": "own"}),
        ("get", KEYS + "{id}/", {"owner": 200, "editor": 200, "other": 404, "viewer": 403, "outsider": 404}),
        ("get", KEYS + "{id}/can-call/?endpoint=me-x", {"owner": 200, "editor": 200, "other": 404}),
        ("get", KEYS + "{id}/last-uses/", {"owner": 200, "editor": 200, "other": 404, "outsider": 404}),
        (
            "delete",
            KEYS + "{id}/",
            {"owner": 204, "editor": 204, "other": 404, "viewer": 403, "outsider": 404},
        ),
    )

    @pytest.mark.parametrize("who", ["owner", "editor", "other", "viewer", "outsider", "anonymous"])
    @pytest.mark.parametrize(("method", "path", "answers"), TABLE, ids=lambda value: str(value)[:40])
    def test_it(
        self,
        who: str,
        method: str,
        path: str,
        answers: dict[str, Any],
        key: ApiKey,
        request: pytest.FixtureRequest,
    ) -> None:
        if who != "anonymous" and who not in answers:
            return
        client = request.getfixturevalue(f"{who}_client")
        response = send(client, method, path.format(id=key.id))
        expected = answers.get(who, 401 if path.startswith("/api/") else 302)
        assert response.status_code == (200 if expected == "own" else expected), response.content
        if expected not in (200, 204, 302):
            assert b"notebook" not in response.content
        if expected == "own":
            assert b"notebook" not in response.content
            assert b"editor@example.org" not in response.content
        gone = expected == 204 or (path.endswith("delete/") and expected == 302 and who != "anonymous")
        assert ApiKey.objects.exists() is not gone

    def test_a_program_has_none(self, key: ApiKey, owner_actor: Actor) -> None:
        """A service account administers keys if it is an admin, and sees none if it is not; it never gets one."""
        for role, count in ((Role.ADMIN, 1), (Role.USER, 0)):
            made, _secret = services.create_service_account(owner_actor, role.value, [role])
            header = {"Authorization": f"Bearer {tokens.issue(client_for(made))}"}
            assert len(Client().get(KEYS, headers=header).json()["results"]) == count
            body = {"name": "x"}
            refused = Client().post(KEYS, body, content_type="application/json", headers=header)
            assert refused.status_code == 403
            assert "belongs to a person" in refused.json()["detail"]


class TestOnce:
    def test_the_page(self, editor_client: Client, endpoints: dict[str, Endpoint]) -> None:
        body = FORM | {"scope": "named", "endpoints": [endpoints["chat"].id], "tokens_per_minute": "500"}
        response = editor_client.post(PAGES + "create/", body)
        assert response.status_code == 200
        assert "no-store" in response["Cache-Control"]
        text, key = shown_key(response), ApiKey.objects.get()
        claims = jwt.decode(text, options={"verify_signature": False})
        assert claims["sub"] == key.id
        assert claims["access"] == f"{key.project_id},aiplatform.user,{endpoints['chat'].id},"
        assert claims["exp"] == int(key.expires_at.timestamp())
        assert key.tokens_per_minute == 500
        assert timedelta(days=29) < key.expires_at - timezone.now() <= timedelta(days=30)
        page = response.content.decode()
        for block in ("curl", "python", "credentials-file"):
            found = re.search(rf'id="{block}".*?</pre>', page, re.S)
            assert found is not None
            assert text in found.group(0)
            assert f"{endpoints['chat'].id}/v1" in found.group(0)
        for path in (PAGES, f"{PAGES}{key.id}/"):
            assert text not in editor_client.get(path).content.decode()

    def test_the_api(self, editor_client: Client) -> None:
        response = send(editor_client, "post", KEYS, {"name": "ci", "endpoints": None})
        assert response.status_code == 201
        assert "no-store" in response["Cache-Control"]
        made = response.json()
        assert jwt.decode(made["api_key"], options={"verify_signature": False})["sub"] == made["id"]
        assert (made["user"], made["status"], made["unused"]) == ("editor@example.org", "ACTIVE", False)
        assert made["hint"] == made["api_key"][-4:]
        for path in (KEYS, f"{KEYS}{made['id']}/"):
            assert made["api_key"] not in editor_client.get(path).content.decode()

    def test_the_management_api_does_not_take_it(self, editor_client: Client) -> None:
        text = send(editor_client, "post", KEYS, {"name": "ci"}).json()["api_key"]
        refused = Client().get("/api/v1/endpoints/", headers={"Authorization": f"Bearer {text}"})
        assert refused.status_code == 401
        assert "API keys are for calling endpoints" in refused.json()["detail"]

    def test_a_third_is_refused_in_words_and_nothing_typed_is_lost(self, editor_client: Client) -> None:
        for name in ("a", "b"):
            assert shown_key(editor_client.post(PAGES + "create/", FORM | {"name": name}))
        response = editor_client.post(PAGES + "create/", FORM | {"name": "typed before"})
        assert response.status_code == 422
        assert "You have 2 API keys" in response.content.decode()
        assert "typed before" in response.content.decode()
        assert "a (Alpha), b (Alpha)." in " ".join(editor_client.get(PAGES).content.decode().split())
        problem = send(editor_client, "post", KEYS, {"name": "c"})
        assert problem.status_code == 400
        assert "non_field_errors" in problem.json()["errors"]
        assert ApiKey.objects.count() == 2

    @pytest.mark.parametrize(
        ("body", "field"),
        [
            ({}, "name"),
            ({"name": "a", "expires_at": "soon"}, "expires_at"),
            ({"name": "a", "expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
            ({"name": "a", "expires_at": "2199-01-01T00:00:00Z"}, "expires_at"),
            ({"name": "a", "endpoints": [FOREIGN]}, "endpoints"),
            ({"name": "a", "endpoints": []}, "endpoints"),
            ({"name": "a", "endpoints": "me-1"}, "endpoints"),
            ({"name": "a", "endpoints": ["\x00"]}, "endpoints.0"),
            ({"name": "a", "requests_per_minute": 0}, "requests_per_minute"),
            ({"name": "a", "tokens_per_month": 2**70}, "tokens_per_month"),
            ({"name": "a", "tokens_per_month": "many"}, "tokens_per_month"),
        ],
    )
    def test_bad_input(
        self, editor_client: Client, endpoints: dict[str, Endpoint], body: Any, field: str
    ) -> None:
        response = send(editor_client, "post", KEYS, body)
        assert response.status_code == 400
        assert field in response.json()["errors"]
        assert not ApiKey.objects.exists()


class TestAccounts:
    """What is new about service accounts."""

    def test_patch(
        self, owner_client: Client, account: ServiceAccount, endpoints: dict[str, Endpoint]
    ) -> None:
        path = f"{ACCOUNTS}{account.id}/"
        ids = sorted(item.id for item in endpoints.values())
        body = {
            "endpoints": ids,
            "requests_per_minute": 60,
            "tokens_per_month": 10**12,
            "expires_at": NEW_YEAR,
        }
        answered = send(owner_client, "patch", path, body).json()
        assert {name: answered[name] for name in body} == body
        answered = send(owner_client, "patch", path, dict.fromkeys(body)).json()
        assert {answered[name] for name in body} == {None}

    def test_unknown_endpoints_are_the_fields_error(
        self, owner_client: Client, account: ServiceAccount, outsider: User
    ) -> None:
        load_data()
        theirs = new_endpoint(actor_of(outsider)).id
        for item in (theirs, FOREIGN):
            response = send(owner_client, "patch", f"{ACCOUNTS}{account.id}/", {"endpoints": [item]})
            assert response.status_code == 400
            assert response.json()["errors"]["endpoints"] == [f"This project has no endpoint {item}."]

    def test_a_secret_with_an_end(self, owner_client: Client, account: ServiceAccount) -> None:
        path = f"{ACCOUNTS}{account.id}/secrets/"
        made = send(owner_client, "post", path, {"expires_at": NEW_YEAR}).json()
        assert made["expires_at"] == NEW_YEAR
        for body in ({"expires_at": "2020-01-01T00:00:00Z"}, {"expires_at": 5}):
            assert "expires_at" in send(owner_client, "post", path, body).json()["errors"]

    def test_status_and_unused(self, owner_client: Client, account: ServiceAccount) -> None:
        long_ago = timezone.now() - timedelta(days=100)
        ServiceAccount.objects.update(created_at=long_ago, expires_at=timezone.now())
        for row in (
            owner_client.get(ACCOUNTS).json()["results"][0],
            owner_client.get(f"{ACCOUNTS}{account.id}/").json(),
        ):
            assert (row["status"], row["unused"], row["last_used_at"]) == ("EXPIRED", True, None)
        for path in (ACCOUNT_PAGES, f"{ACCOUNT_PAGES}{account.id}/"):
            page = owner_client.get(path).content.decode()
            assert "unused for 90 days" in page
            assert "Expired" in page

    def test_where_a_secret_was_used(self, owner_client: Client, owner_actor: Actor) -> None:
        made, secret = services.create_service_account(owner_actor, "caller", [Role.USER])
        body = {"grant_type": "client_credentials", "client_id": made.id, "client_secret": secret}
        Client(REMOTE_ADDR="203.0.113.9").post("/accounts-api/v2/auth/token", body, "application/json")
        row = owner_client.get(f"{ACCOUNTS}{made.id}/").json()["secrets"][0]
        assert row["last_used_from"] == "203.0.113.9"
        assert "203.0.113.9" in owner_client.get(f"{ACCOUNT_PAGES}{made.id}/").content.decode()

    def test_an_expired_account_gets_no_token(self, owner_actor: Actor) -> None:
        made, secret = services.create_service_account(owner_actor, "caller", [Role.USER])
        body = {"grant_type": "client_credentials", "client_id": made.id, "client_secret": secret}
        answers = []
        for left in (100, 0):
            ServiceAccount.objects.update(expires_at=timezone.now() + timedelta(seconds=left))
            answers.append(Client().post("/accounts-api/v2/auth/token", body, "application/json"))
        assert [answer.status_code for answer in answers] == [200, 401]
        assert 95 <= answers[0].json()["expires_in"] <= 100

    def test_last_uses(
        self,
        owner_client: Client,
        account: ServiceAccount,
        endpoints: dict[str, Endpoint],
        outsider: User,
    ) -> None:
        theirs = new_endpoint(actor_of(outsider), name="their-secret-name")
        now = timezone.now()
        for number, item in enumerate((endpoints["chat"].id, theirs.id, "me-gone")):
            at = now - timedelta(days=number)
            LastUse.objects.create(subject=account.id, endpoint_id=item, address="203.0.113.9", at=at)
        rows = owner_client.get(f"{ACCOUNTS}{account.id}/last-uses/").json()["results"]
        assert [row["endpoint_name"] for row in rows] == ["chat", "", ""]
        assert {row["address"] for row in rows} == {"203.0.113.9"}
        page = owner_client.get(f"{ACCOUNT_PAGES}{account.id}/").content.decode()
        assert "203.0.113.9" in page
        assert "their-secret-name" not in page

    def test_the_form_keeps_what_it_does_not_change(
        self, owner_client: Client, account: ServiceAccount, endpoints: dict[str, Endpoint]
    ) -> None:
        """An hour of day that was set by the API, and an endpoint that is gone."""
        until = timezone.now().replace(microsecond=0) + timedelta(days=40, hours=5)
        ids = [endpoints["chat"].id, "me-gone"]
        ServiceAccount.objects.update(expires_at=until, endpoint_ids=ids)
        path = f"{ACCOUNT_PAGES}{account.id}/"
        page = owner_client.get(path).content.decode()
        assert "(deleted) me-gone" in page
        body = ACCOUNT_FORM | {
            "scope": "named",
            "endpoints": ids,
            "expires_at": until.date().isoformat(),
            "requests_per_minute": "9",
        }
        assert owner_client.post(path, body).status_code == 302
        account.refresh_from_db()
        assert (account.expires_at, account.requests_per_minute) == (until, 9)
        assert account.endpoint_ids == sorted(ids)
        assert account.grant == 1

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"scope": "named"}, "Choose at least one endpoint"),
            ({"scope": "named", "endpoints": [FOREIGN]}, "is not one of the available choices"),
            ({"requests_per_minute": "0"}, "greater than or equal to 1"),
            ({"expires_at": "2020-01-01"}, "Choose a moment in the future."),
            ({"expires_at": "soon"}, "Enter a valid date."),
            ({"scope": ""}, "This field is required."),
        ],
    )
    def test_errors_stand_at_their_field(
        self,
        owner_client: Client,
        endpoints: dict[str, Endpoint],
        changes: dict[str, Any],
        words: str,
    ) -> None:
        response = owner_client.post(ACCOUNT_PAGES + "create/", ACCOUNT_FORM | changes)
        assert response.status_code == 422
        assert words in response.content.decode()
        assert not ServiceAccount.objects.exists()

    def test_the_way_through_a_rotation(self, owner_client: Client, account: ServiceAccount) -> None:
        path = f"{ACCOUNT_PAGES}{account.id}/"
        first = account.secrets.get()

        def step() -> str:
            page = owner_client.get(path).content.decode()
            found = re.search(r'<li aria-current="step">\s*<b>([^<]+)</b>', page)
            assert found is not None
            return found.group(1)

        assert step() == "Add a second secret"
        assert owner_client.post(f"{path}secrets/", {"expires_at": "2099-01-01"}).status_code == 200
        assert step() == "Move your programs over"
        ago = timezone.now() - timedelta(hours=2)
        account.secrets.exclude(pk=first.pk).update(created_at=ago, last_used_at=timezone.now())
        account.secrets.filter(pk=first.pk).update(created_at=ago - timedelta(days=9), last_used_at=ago)
        assert step() == "Delete the old one"
        assert f"secrets/{first.pk}/delete/" in owner_client.get(path).content.decode()
        owner_client.post(f"{path}secrets/{first.pk}/delete/")
        assert step() == "Add a second secret"

    def test_a_bad_date_of_a_secret_is_said(self, owner_client: Client, account: ServiceAccount) -> None:
        for typed, words in (
            ("soon", "Enter a valid date."),
            ("2020-01-01", "Choose a moment in the future."),
        ):
            path = f"{ACCOUNT_PAGES}{account.id}/secrets/"
            page = owner_client.post(path, {"expires_at": typed}, follow=True).content.decode()
            assert words in page
        assert account.secrets.count() == 1


class TestCanCall:
    @pytest.fixture
    def paths(self, account: ServiceAccount, key: ApiKey) -> list[tuple[str, str]]:
        """(page, call) of an account and of a key."""
        return [
            (f"{ACCOUNT_PAGES}{account.id}/", f"{ACCOUNTS}{account.id}/can-call/"),
            (f"{PAGES}{key.id}/", f"{KEYS}{key.id}/can-call/"),
        ]

    def test_page_and_api_say_the_same(
        self, owner_client: Client, paths: list[tuple[str, str]], endpoints: dict[str, Endpoint]
    ) -> None:
        for page, call in paths:
            for name, rule in (("chat", "role"), ("open", "public_endpoint")):
                query = {"endpoint": endpoints[name].id}
                answer = owner_client.get(call, query).json()
                assert (answer["allowed"], answer["rule"], answer["status"]) == (True, rule, 200)
                shown = owner_client.get(page, query).content.decode()
                assert f"Yes, it can call {name}." in shown
                assert answer["sentence"] in shown

    def test_it_follows(
        self,
        owner_client: Client,
        owner_actor: Actor,
        account: ServiceAccount,
        key: ApiKey,
        editor: User,
        paths: list[tuple[str, str]],
        endpoints: dict[str, Endpoint],
    ) -> None:
        services.update_service_account(owner_actor, account, endpoint_ids=[endpoints["open"].id])
        membership = Membership.objects.get(user=editor)
        membership.role = Role.VIEWER
        membership.save()
        query = {"endpoint": endpoints["chat"].id}
        rules = [owner_client.get(call, query).json() for _page, call in paths]
        assert [(rule["rule"], rule["status"]) for rule in rules] == [("narrowed", 403), ("blocked", 401)]
        for page, _call in paths:
            shown = owner_client.get(page, query).content.decode()
            assert "No, it can&#x27;t call chat." in shown or "No, it can't call chat." in shown

    def test_limits_are_told(
        self,
        owner_client: Client,
        owner_actor: Actor,
        account: ServiceAccount,
        endpoints: dict[str, Endpoint],
    ) -> None:
        Endpoint.objects.update(max_concurrency=4)
        services.update_service_account(owner_actor, account, tokens_per_month=4)
        for name, count in (("chat", 2), ("open", 1)):
            path = f"{ACCOUNTS}{account.id}/can-call/?endpoint={endpoints[name].id}"
            limits = owner_client.get(path).json()["limits"]
            assert len(limits) == count
            assert all("429" in sentence for sentence in limits)

    def test_an_endpoint_that_is_not_there(
        self, owner_client: Client, paths: list[tuple[str, str]], outsider: User
    ) -> None:
        load_data()
        theirs = new_endpoint(actor_of(outsider)).id
        for _page, call in paths:
            found = [owner_client.get(call, {"endpoint": item}).json() for item in (theirs, FOREIGN, "\x00")]
            assert found[0] == found[1] == found[2]
            assert (found[0]["rule"], found[0]["status"]) == ("unknown_endpoint", 404)
            assert "endpoint" in owner_client.get(call).json()["errors"]


class TestLists:
    def test_queries_do_not_grow(self, owner_client: Client, owner_actor: Actor, project: Any) -> None:
        for path in (PAGES, KEYS):
            owner_client.get(path)
            counts = []
            for start in (0, 4):
                for number in range(start, start + 4):
                    person = actor_of(make_member(project, f"p{path[1]}{number}@example.org", Role.USER))
                    services.create_api_key(person, "k")
                with CaptureQueriesContext(connection) as queries:
                    assert owner_client.get(path).status_code == 200
                counts.append(len(queries))
            assert counts[0] == counts[1]

    def test_the_menu_has_it_for_who_may_call(self, editor_client: Client, viewer_client: Client) -> None:
        assert f'href="{PAGES}"' in editor_client.get("/inference/").content.decode()
        assert f'href="{PAGES}"' not in viewer_client.get("/inference/").content.decode()

    def test_markup_in_names_is_text(
        self, owner_client: Client, owner_actor: Actor, endpoints: dict[str, Endpoint]
    ) -> None:
        name = "<script>alert(1)</script>"
        made, _secret = services.create_service_account(owner_actor, name, [Role.USER], name)
        key, _text = services.create_api_key(owner_actor, name)
        for path in (PAGES, f"{PAGES}{key.id}/", ACCOUNT_PAGES, f"{ACCOUNT_PAGES}{made.id}/"):
            assert "<script>alert" not in owner_client.get(path).content.decode()

    def test_vietnamese_readers_get_pages(
        self, owner_client: Client, key: ApiKey, account: ServiceAccount
    ) -> None:
        for path in (PAGES, f"{PAGES}{key.id}/", f"{ACCOUNT_PAGES}{account.id}/", PAGES + "create/"):
            assert owner_client.get(path, headers={"Accept-Language": "vi"}).status_code == 200
