"""IAM's console pages: who sees what, and that a secret is shown once."""

from __future__ import annotations

import logging
import re
from typing import Any

import pytest
from django.contrib.sessions.models import Session
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from iam import services
from iam.actors import Actor
from iam.models import Membership, Project, ServiceAccount, User
from iam.oauth.hashers import SecretHasher
from iam.roles import Role

pytestmark = pytest.mark.django_db

LIST = "/iam/service-accounts/"
CREATE = "/iam/service-accounts/create/"
FORM = {"name": "caller", "description": "", "roles": ["aiplatform.user"], "scope": "all"}


@pytest.fixture
def account(owner_actor: Actor) -> ServiceAccount:
    """An account with the role user."""
    return services.create_service_account(owner_actor, "embedder", [Role.USER], "calls the embeddings")[0]


@pytest.fixture
def anonymous_client() -> Client:
    """A browser in which nobody has signed in."""
    return Client()


def shown_secret(response: Any) -> str:
    """The secret in a page, "" if there is none."""
    found = re.search(r'id="client-secret" value="([^"]+)"', response.content.decode())
    return found.group(1) if found else ""


class TestWhoMayWhat:
    """Each page and button as owner, editor, viewer, outsider, anonymous."""

    @pytest.mark.parametrize("who", ["owner", "editor", "viewer", "outsider", "anonymous"])
    @pytest.mark.parametrize(
        ("method", "path", "allowed"),
        [
            ("get", LIST, 200),
            ("get", CREATE, 200),
            ("post", CREATE, 200),
            ("get", LIST + "{id}/", 200),
            ("post", LIST + "{id}/", 302),
            ("post", LIST + "{id}/secrets/", 200),
            ("post", LIST + "{id}/secrets/{secret}/delete/", 302),
            ("post", LIST + "{id}/disable/", 302),
            ("post", LIST + "{id}/enable/", 302),
            ("post", LIST + "{id}/delete/", 302),
            ("get", "/iam/members/", 200),
        ],
    )
    def test_page(
        self,
        who: str,
        method: str,
        path: str,
        allowed: int,
        account: ServiceAccount,
        request: pytest.FixtureRequest,
    ) -> None:
        client = request.getfixturevalue(f"{who}_client")
        address = path.format(id=account.id, secret=account.secrets.get().id)
        before = list(ServiceAccount.objects.values())
        response = client.get(address) if method == "get" else client.post(address, FORM)
        if who == "owner":
            assert response.status_code == allowed, response.content
            return
        if who == "outsider" and "{id}" not in path:
            assert response.status_code == allowed  # in their own project
            assert b"embedder" not in response.content
            assert b"owner@example.org" not in response.content
            return
        assert list(ServiceAccount.objects.values()) == before
        assert not shown_secret(response)
        if who == "anonymous":
            assert response.status_code == 302
            assert response["Location"].startswith("/accounts/login/?next=/iam/")
        else:
            assert response.status_code == (404 if who == "outsider" else 403)

    @pytest.mark.parametrize("action", ["secrets", "secrets/1/delete", "disable", "enable", "delete"])
    def test_a_link_changes_nothing(self, owner_client: Client, account: ServiceAccount, action: str) -> None:
        assert owner_client.get(f"{LIST}{account.id}/{action}/").status_code == 405
        assert ServiceAccount.objects.get().is_active

    def test_csrf(self, owner: User, account: ServiceAccount) -> None:
        client = Client(enforce_csrf_checks=True)
        client.force_login(owner)
        assert client.post(f"{LIST}{account.id}/delete/").status_code == 403
        assert ServiceAccount.objects.exists()


@pytest.mark.parametrize("unknown", ["sa-none", "%00", "é"])
def test_unknown_ids_are_404(owner_client: Client, unknown: str) -> None:
    assert owner_client.get(f"{LIST}{unknown}/").status_code == 404


class TestOnce:
    def create(self, client: Client, **changes: Any) -> Any:
        return client.post(CREATE, FORM | changes)

    def test_the_page_has_all_that_a_program_needs(self, owner_client: Client, settings: Any) -> None:
        response = self.create(owner_client)
        account = ServiceAccount.objects.get()
        secret = shown_secret(response)
        page = response.content.decode()
        assert SecretHasher().verify(secret, account.secrets.get().digest)
        assert f'value="{account.id}"' in page
        header = re.search(r'id="basic-header" value="([^"]+)"', page)
        assert header is not None
        token = Client().post(
            "/accounts-api/v2/auth/token",
            {"grant_type": "client_credentials"},
            content_type="application/json",
            headers={"Authorization": header.group(1)},
        )
        assert token.status_code == 200
        assert settings.BERTH_PUBLIC_URL + "/accounts-api/v2/auth/token" in page
        assert header.group(1) in re.search(r'id="curl".*?</pre>', page, re.S).group(0)  # type: ignore[union-attr]

    def test_no_cache_keeps_it(self, owner_client: Client, account: ServiceAccount) -> None:
        for response in (
            self.create(owner_client),
            owner_client.post(f"{LIST}{account.id}/secrets/"),
        ):
            assert shown_secret(response)
            assert "no-store" in response["Cache-Control"]

    def test_no_other_page_and_no_session_has_it(
        self, owner_client: Client, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        secret = shown_secret(self.create(owner_client))
        account = ServiceAccount.objects.get()
        for path in (LIST, CREATE, f"{LIST}{account.id}/"):
            assert secret not in owner_client.get(path).content.decode()
        assert secret not in caplog.text
        assert all(secret not in str(session.get_decoded()) for session in Session.objects.all())
        assert all(secret not in morsel.value for morsel in owner_client.cookies.values())

    def test_sending_the_form_again_shows_nothing(self, owner_client: Client) -> None:
        self.create(owner_client)
        again = self.create(owner_client)
        assert again.status_code == 422
        assert not shown_secret(again)
        assert "already a service account named caller" in again.content.decode()
        assert ServiceAccount.objects.count() == 1


class TestForm:
    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"name": ""}, "Give it a name."),
            ({"name": "x" * 81}, "at most 80 characters"),
            ({"roles": []}, "Choose at least one role."),
            ({"roles": ["root"]}, "root is not one of the available choices"),
            ({"description": "x" * 201}, "at most 200 characters"),
        ],
    )
    def test_errors_stand_at_their_field_and_nothing_is_lost(
        self, owner_client: Client, changes: dict[str, Any], words: str
    ) -> None:
        response = owner_client.post(CREATE, FORM | {"description": "typed before"} | changes)
        assert response.status_code == 422
        page = response.content.decode()
        assert words in page
        if "description" not in changes:
            assert "typed before" in page
        assert not ServiceAccount.objects.exists()

    def test_markup_in_a_name_is_text(self, owner_client: Client) -> None:
        owner_client.post(CREATE, FORM | {"name": "<script>alert(1)</script>"})
        assert "<script>alert" not in owner_client.get(LIST).content.decode()

    def test_edit(self, owner_client: Client, account: ServiceAccount) -> None:
        body = FORM | {"name": "renamed", "roles": ["aiplatform.viewer", "aiplatform.editor"]}
        assert owner_client.post(f"{LIST}{account.id}/", body).status_code == 302
        account.refresh_from_db()
        assert (account.name, account.roles) == ("renamed", ["aiplatform.viewer", "aiplatform.editor"])

    def test_edit_to_a_taken_name(
        self, owner_client: Client, owner_actor: Actor, account: ServiceAccount
    ) -> None:
        services.create_service_account(owner_actor, "taken", [Role.USER])
        response = owner_client.post(f"{LIST}{account.id}/", FORM | {"name": "taken"})
        assert response.status_code == 422
        page = response.content.decode()
        assert "already a service account named taken" in page
        assert "<h1>embedder</h1>" in page

    def test_a_third_secret_is_refused_in_words(self, owner_client: Client, account: ServiceAccount) -> None:
        owner_client.post(f"{LIST}{account.id}/secrets/")
        page = owner_client.post(f"{LIST}{account.id}/secrets/", follow=True)
        assert "at most 2 secrets" in page.content.decode()
        assert not shown_secret(page)


class TestLists:
    def test_ids_are_masked(self, owner_client: Client, account: ServiceAccount) -> None:
        page = owner_client.get(LIST).content.decode()
        assert f"<code>{account.id[:7]}…{account.id[-4:]}</code>" in page
        assert "owner@example.org" in page
        assert "never" in page

    def test_empty(self, owner_client: Client) -> None:
        assert "No service account yet" in owner_client.get(LIST).content.decode()

    def test_queries_do_not_grow_with_the_list(self, owner_client: Client, owner_actor: Actor) -> None:
        counts = []
        owner_client.get(LIST)  # the session is new to the list of sessions
        for start in (0, 5):
            for n in range(5):
                services.create_service_account(owner_actor, f"a{start + n}", [Role.USER])
            with CaptureQueriesContext(connection) as queries:
                owner_client.get(LIST)
            counts.append(len(queries))
        assert counts[0] == counts[1]

    def test_members(self, owner_client: Client, editor: User, outsider: User) -> None:
        page = owner_client.get("/iam/members/").content.decode()
        assert "owner@example.org" in page
        assert "editor@example.org" in page
        assert "outsider@example.org" not in page

    def test_vietnamese_readers_get_a_page(self, owner_client: Client, account: ServiceAccount) -> None:
        assert owner_client.get(LIST, headers={"Accept-Language": "vi"}).status_code == 200


class TestAdmin:
    @pytest.fixture
    def admin(self, owner: User) -> Client:
        """The owner, who may use Django's admin."""
        owner.is_staff = owner.is_superuser = True
        owner.save()
        client = Client()
        client.force_login(owner)
        return client

    ADD = "/admin/iam/serviceaccount/add/"

    def test_creating_shows_the_secret_once(self, admin: Client, project: Project) -> None:
        body = {"project": project.id, "name": "caller", "description": "", "roles": ["aiplatform.user"]}
        response = admin.post(self.ADD, body)
        assert response.status_code == 200
        assert "no-store" in response["Cache-Control"]
        account = ServiceAccount.objects.get()
        assert account.created_by_name == "owner@example.org"
        page = response.content.decode()
        secrets = [text for text in re.findall(r"<pre data-once>([^<]+)</pre>", page) if len(text) == 43]
        [secret] = secrets
        assert SecretHasher().verify(secret, account.secrets.get().digest)
        for path in (
            "/admin/iam/serviceaccount/",
            f"/admin/iam/serviceaccount/{account.id}/change/",
            "/admin/",
        ):
            shown = admin.get(path)
            assert shown.status_code == 200
            assert secret not in shown.content.decode()

    def test_bad_input(self, admin: Client, project: Project, account: ServiceAccount) -> None:
        body = {"project": project.id, "name": "embedder", "description": "", "roles": ["aiplatform.user"]}
        response = admin.post(self.ADD, body)
        assert response.status_code == 200
        assert ServiceAccount.objects.count() == 1
        assert b"data-once" not in response.content

    def test_disable_and_enable(self, admin: Client, account: ServiceAccount) -> None:
        for action, active in (("disable", False), ("enable", True)):
            body = {"action": action, "_selected_action": [account.id], "confirmed": "yes"}
            admin.post("/admin/iam/serviceaccount/", body)
            account.refresh_from_db()
            assert account.is_active is active

    @pytest.mark.parametrize("model", ["user", "project", "membership", "serviceaccount"])
    def test_every_page_opens(self, admin: Client, account: ServiceAccount, owner: User, model: str) -> None:
        row = {"user": owner, "project": account.project, "serviceaccount": account}.get(
            model, Membership.objects.first()
        )
        assert row is not None
        for path in ("", "add/", f"{row.pk}/change/"):
            assert admin.get(f"/admin/iam/{model}/{path}").status_code == 200, path

    def test_a_new_person_can_be_made(self, admin: Client) -> None:
        body = {
            "email": "new@example.org",
            "usable_password": "true",
            "password1": "a long enough phrase",
            "password2": "a long enough phrase",
            "memberships-TOTAL_FORMS": "0",
            "memberships-INITIAL_FORMS": "0",
        }
        response = admin.post("/admin/iam/user/add/", body)
        assert response.status_code == 302, response.content
        assert User.objects.get(email="new@example.org").check_password("a long enough phrase")

    def test_allauths_own_tables_are_not_offered(self, admin: Client) -> None:
        page = admin.get("/admin/").content.decode()
        assert "allauth_idp_oidc" not in page

    def test_not_for_an_everyday_owner(self, owner_client: Client) -> None:
        assert owner_client.get(self.ADD).status_code == 302


def test_whatever_is_wrong_with_a_form_is_told_at_once_and_all_that_was_typed_stays(
    owner_client: Client,
) -> None:
    """The services would tell one after the other."""
    typed = {
        **FORM,
        "scope": "named",
        "requests_per_minute": "0",
        "tokens_per_minute": str(2**31),
        "expires_at": "2020-01-01",
    }
    response = owner_client.post(CREATE, typed)
    form = response.context["form"]
    assert set(form.errors) == {"endpoints", "requests_per_minute", "tokens_per_minute", "expires_at"}
    page = response.content.decode()
    assert all(f'value="{typed[name]}"' in page for name in ("tokens_per_minute", "expires_at", "name"))


def test_a_refusal_says_what_it_takes_and_whom_to_ask(viewer_client: Client) -> None:
    """In the console and in the API alike."""
    page = viewer_client.get(LIST)
    answer = viewer_client.get("/api/v1/service-accounts/")
    assert page.status_code == answer.status_code == 403
    detail = answer.json()["detail"]
    assert "role Admin" in detail
    assert "yours is Viewer" in detail
    assert detail in page.content.decode()


def test_thousands_of_accounts_come_in_pages_and_are_found(owner_client: Client, owner_actor: Actor) -> None:
    """One page of two thousand was five megabytes and took fourteen seconds."""
    rows = [
        ServiceAccount(
            id=f"sa-{n:08x}-0000-4000-8000-000000000000",
            project=owner_actor.project,
            name=f"bulk {n:03}",
            roles=[Role.USER],
        )
        for n in range(120)
    ]
    ServiceAccount.objects.bulk_create(rows)
    first = owner_client.get(LIST)
    assert len(first.context["rows"]) == 50
    assert "page=2" in first.content.decode()
    last = owner_client.get(LIST, {"page": "99999"})
    assert len(last.context["rows"]) == 20
    for search in ("bulk 007", rows[7].id):
        found = owner_client.get(LIST, {"search": search})
        assert [row["account"].name for row in found.context["rows"]] == ["bulk 007"]
    nothing = owner_client.get(LIST, {"search": "<b>\x00nobody", "page": "x"})
    assert nothing.context["rows"] == []
    assert "&lt;b&gt;nobody" in nothing.content.decode()
