"""Projects, members and invitations: the pages, the API, and what follows from a role that is lost."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from threading import Barrier
from typing import Any

import pytest
from django.db import OperationalError, connections
from django.test import Client
from django.utils import timezone

from config.errors import Conflict
from endpoints.consumers import CHECK_S
from iam import grants, invitations, membership, projects, services
from iam.actors import Actor
from iam.models import ApiKey, AuditEvent, Invitation, Membership, Project, User
from iam.roles import Role
from registry.models import Framework
from tests.conftest import PASSWORD, make_member, signed_in
from tests.support_endpoints import load_data, new_endpoint, ready_model

pytestmark = pytest.mark.django_db

MEMBERS, INVITATIONS, PROJECTS = "/api/v1/members/", "/api/v1/invitations/", "/api/v1/projects/"
STRONG = "an ordinary wombat 71"


def send(client: Client, method: str, path: str, body: Any = None) -> Any:
    return getattr(client, method)(path, body, content_type="application/json")


def acts() -> list[str]:
    """The actions on record, oldest first."""
    return list(AuditEvent.objects.order_by("id").values_list("action", flat=True))


def key_of(user: User, project: Project) -> ApiKey:
    until = timezone.now() + timedelta(days=90)
    return ApiKey.objects.create(user=user, project=project, name="k", hint="abcd", expires_at=until)


def refused_by_gateways(key: ApiKey) -> bool:
    return key.token_grant in grants.revoked(timezone.now())


def member_of(user: User) -> Membership:
    return Membership.objects.get(user=user)


def invited(actor: Actor, **options: Any) -> tuple[Invitation, str]:
    """An invitation and its link's secret."""
    made = invitations.create(actor, options.pop("role", Role.USER), timezone.now(), **options)
    return made.invitation, made.link.partition("#")[2]


def opening(secret: str, client: Client | None = None) -> Client:
    """A browser that has opened the link."""
    client = client or Client()
    assert client.post("/invitation/", {"secret": secret}).status_code == 302
    return client


def at_once(attempts: Sequence[Callable[[], Any]], refusal: type[Exception]) -> int:
    """How many succeed of those that threads of their own try at the same time; all others are refused so."""
    begin = Barrier(len(attempts))

    def attempt(call: Callable[[], Any]) -> bool:
        begin.wait(10)
        deadline = time.monotonic() + 10
        try:
            while True:
                try:
                    call()
                except refusal:
                    return False
                except OperationalError:  # SQLite in memory refuses where a file would wait
                    assert time.monotonic() < deadline
                else:
                    return True
        finally:
            connections.close_all()

    with ThreadPoolExecutor(len(attempts)) as pool:
        return sum(pool.map(attempt, attempts))


class TestMembersApi:
    def test_add_change_remove(self, owner_client: Client, project: Project, outsider: User) -> None:
        made = send(owner_client, "post", MEMBERS, {"email": "Outsider@example.org", "role": Role.USER})
        assert made.status_code == 201, made.content
        path = f"{MEMBERS}{made.json()['id']}/"
        assert send(owner_client, "patch", path, {"role": Role.EDITOR}).json()["role"] == Role.EDITOR
        again = send(owner_client, "post", MEMBERS, {"email": outsider.email, "role": Role.USER})
        assert again.status_code == 400
        assert "email" in again.json()["errors"]
        assert owner_client.delete(path).status_code == 204
        assert owner_client.get(path).status_code == 404
        assert acts() == ["member.add", "member.role", "member.remove"]
        event = AuditEvent.objects.get(action="member.role")
        assert (event.before, event.after) == ({"role": Role.USER}, {"role": Role.EDITOR})
        assert (event.project_id, event.target_name) == (project.id, outsider.email)

    def test_nobody_of_that_address(self, owner_client: Client) -> None:
        answer = send(owner_client, "post", MEMBERS, {"email": "new@example.org", "role": Role.USER})
        assert answer.status_code == 400
        assert "invitation" in answer.json()["errors"]["email"][0]

    @pytest.mark.parametrize(
        "body", [{}, {"email": "x", "role": Role.USER}, {"email": "a@b.org", "role": "root"}]
    )
    def test_bad_input(self, owner_client: Client, body: Any) -> None:
        assert send(owner_client, "post", MEMBERS, body).status_code == 400

    def test_the_last_admin_stays(
        self, owner_client: Client, owner: User, editor: User, project: Project
    ) -> None:
        path = f"{MEMBERS}{member_of(owner).pk}/"
        for answer in (send(owner_client, "patch", path, {"role": Role.EDITOR}), owner_client.delete(path)):
            assert answer.status_code == 409
            assert answer.json()["type"] == "urn:berth:problem:last-admin"
        assert member_of(owner).role == Role.ADMIN
        second = make_member(project, "second@example.org", Role.ADMIN)
        second.is_active = False
        second.save()
        assert owner_client.delete(path).status_code == 409  # who can't sign in administers nothing
        send(owner_client, "patch", f"{MEMBERS}{member_of(editor).pk}/", {"role": Role.ADMIN})
        assert owner_client.delete(path).status_code == 204
        assert owner_client.get(MEMBERS).status_code == 403


@pytest.mark.django_db(transaction=True)
def test_two_admins_cannot_remove_each_other_at_once(
    owner: User, owner_actor: Actor, project: Project
) -> None:
    second = make_member(project, "second@example.org", Role.ADMIN)
    pairs = [
        (owner_actor, member_of(second)),
        (Actor(project, (Role.ADMIN,), user=second), member_of(owner)),
    ]
    attempts = [partial(membership.remove_member, *pair) for pair in pairs]
    assert at_once(attempts, Conflict) == 1
    assert Membership.objects.filter(project=project, role=Role.ADMIN).count() == 1


class TestWhatFollows:
    """However a person loses a role: their keys are refused, their session has no project."""

    def lose(self, how: str, owner_actor: Actor, person: User) -> None:
        member = member_of(person)
        match how:
            case "role":
                membership.change_role(owner_actor, member, Role.VIEWER)
            case "membership":
                membership.remove_member(owner_actor, member)
            case "row":
                member.delete()
            case "rows":
                Membership.objects.filter(user=person).delete()
            case "account":
                person.is_active = False
                person.save()

    @pytest.mark.parametrize("how", ["role", "membership", "row", "rows", "account"])
    def test_keys_are_refused(self, how: str, owner_actor: Actor, editor: User, project: Project) -> None:
        key = key_of(editor, project)
        assert not refused_by_gateways(key)
        self.lose(how, owner_actor, editor)
        assert refused_by_gateways(key)

    def test_and_good_again_with_the_role(self, owner_actor: Actor, editor: User, project: Project) -> None:
        key = key_of(editor, project)
        membership.change_role(owner_actor, member_of(editor), Role.VIEWER)
        membership.change_role(owner_actor, member_of(editor), Role.USER)
        assert not refused_by_gateways(key)

    def test_a_deleted_person_takes_the_keys_along(self, editor: User, project: Project) -> None:
        key = key_of(editor, project)
        editor.delete()
        assert refused_by_gateways(key)

    def test_in_djangos_admin_too(self, editor: User, project: Project) -> None:
        staff = signed_in(User.objects.create_superuser("root@example.org", PASSWORD))
        key = key_of(editor, project)
        fields = {"email": editor.email, "first_name": "", "last_name": "", "is_staff": ""}
        formset = {"memberships-TOTAL_FORMS": "0", "memberships-INITIAL_FORMS": "0", "confirmed": "yes"}
        answer = staff.post(f"/admin/iam/user/{editor.pk}/change/", {**fields, **formset})
        assert answer.status_code == 302, answer.content
        assert refused_by_gateways(key)

    def test_djangos_admin_keeps_the_last_admin(self, owner: User, project: Project) -> None:
        staff = signed_in(User.objects.create_superuser("root@example.org", PASSWORD))
        path = f"/admin/iam/membership/{member_of(owner).pk}"
        assert staff.post(f"{path}/delete/", {"post": "yes"}).status_code == 403
        page = staff.post(f"{path}/change/", {"role": Role.USER})
        assert "is the last admin of Alpha" in page.content.decode()
        rows = {
            "memberships-TOTAL_FORMS": "1",
            "memberships-INITIAL_FORMS": "1",
            "memberships-0-id": str(member_of(owner).pk),
            "memberships-0-DELETE": "on",
            "name": "Alpha",
            "confirmed": "yes",
        }
        page = staff.post(f"/admin/iam/project/{project.pk}/change/", rows)
        assert "is the last admin of Alpha" in page.content.decode()
        assert member_of(owner).role == Role.ADMIN
        make_member(project, "second@example.org", Role.ADMIN)
        assert staff.post(f"{path}/delete/", {"post": "yes"}).status_code == 302

    @pytest.mark.parametrize("how", ["membership", "row", "account"])
    def test_the_session_loses_the_project_at_once(
        self, how: str, owner_actor: Actor, editor: User, editor_client: Client
    ) -> None:
        assert editor_client.get("/inference/").status_code == 200
        self.lose(how, owner_actor, editor)
        page = editor_client.get("/inference/")
        assert page.status_code == (302 if how == "account" else 403)
        assert b"Alpha" not in page.content

    def test_open_sockets_ask_again_in_time(self) -> None:
        """They close at the next question (tests/integration/test_console_live.py): within five seconds."""
        assert CHECK_S < 5


class TestInvitations:
    def test_somebody_new(
        self, owner_client: Client, project: Project, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("DEBUG")
        shown = owner_client.post("/iam/members/invite/", {"email": "", "role": Role.EDITOR, "days": "7"})
        assert shown.status_code == 200
        assert "no-store" in shown["Cache-Control"]
        found = re.search(r'value="(http://[^"#]+/invitation/)#([\w-]{43})"', shown.content.decode())
        assert found is not None
        secret = found.group(2)
        assert secret not in owner_client.get("/iam/members/").content.decode()
        row = Invitation.objects.get()
        assert secret not in str(row.__dict__)

        browser = Client()
        assert browser.get("/invitation/").status_code == 200
        opening(secret, browser)
        page = browser.get("/invitation/").content.decode()
        assert all(word in page for word in ("Alpha", "Editor", "owner@example.org"))
        assert secret not in page
        weak = browser.post("/invitation/sign-up/", {"email": "new@example.org", "password": "12345"})
        assert weak.status_code == 422
        assert not User.objects.filter(email="new@example.org").exists()
        answer = browser.post("/invitation/sign-up/", {"email": "New@example.org", "password": STRONG})
        assert answer.status_code == 302, answer.content
        assert browser.get("/inference/").status_code == 200
        member = Membership.objects.get(user__email="new@example.org")
        assert (member.project, member.role) == (project, Role.EDITOR)
        assert acts() == ["invitation.create", "user.sign_up", "invitation.accept", "session.sign_in"]
        assert not AuditEvent.objects.filter(after__icontains=secret).exists()
        assert secret not in caplog.text

    def test_somebody_who_is_signed_in(
        self, owner_actor: Actor, outsider: User, outsider_client: Client
    ) -> None:
        row, secret = invited(owner_actor)
        opening(secret, outsider_client)
        assert outsider_client.get("/invitation/accept/").status_code == 405
        assert outsider_client.post("/invitation/accept/").status_code == 302
        assert Membership.objects.get(user=outsider, project=row.project).role == Role.USER
        row.refresh_from_db()
        assert row.accepted_by == outsider
        assert "Welcome to Alpha" in outsider_client.get("/").content.decode()

    def test_it_survives_a_sign_in(self, owner_actor: Actor, outsider: User) -> None:
        _row, secret = invited(owner_actor)
        browser = opening(secret)
        answer = browser.post(
            "/accounts/login/?next=/invitation/", {"login": outsider.email, "password": PASSWORD}
        )
        assert answer["Location"] == "/invitation/"
        assert browser.post("/invitation/accept/")["Location"] == "/"
        assert Membership.objects.filter(user=outsider, project=owner_actor.project).exists()

    def refused(self, secret: str) -> None:
        answer = Client().post("/invitation/", {"secret": secret})
        assert answer.status_code == 404
        text = answer.content.decode()
        assert "be used. Ask whoever sent it" in text
        assert "Alpha" not in text

    def test_used_over_withdrawn_unknown_are_told_alike(
        self, owner_actor: Actor, outsider: User, owner: User, project: Project
    ) -> None:
        now = timezone.now()
        used, first = invited(owner_actor)
        invitations.accept(used.pk, outsider, now)
        over, second = invited(owner_actor)
        Invitation.objects.filter(pk=over.pk).update(expires_at=now)
        gone, third = invited(owner_actor)
        invitations.withdraw(owner_actor, gone)
        _row, fourth = invited(owner_actor)
        make_member(project, "second@example.org", Role.ADMIN)
        self_made = member_of(owner)
        self_made.role = Role.USER
        self_made.save()  # who may not invite any more has no link left
        for secret in (first, second, third, fourth, "x", "", "a" * 43):
            if secret:
                self.refused(secret)
        assert list(invitations.usable(now)) == []

    def test_withdrawn_while_it_is_open(self, owner_actor: Actor, owner_client: Client) -> None:
        row, secret = invited(owner_actor)
        browser = opening(secret)
        owner_client.post(f"/iam/invitations/{row.pk}/withdraw/")
        answer = browser.post("/invitation/sign-up/", {"email": "new@example.org", "password": STRONG})
        assert answer.status_code == 404
        assert not User.objects.filter(email="new@example.org").exists()
        assert acts()[-1] == "invitation.withdraw"

    def test_for_one_address_alone(self, owner_actor: Actor, outsider_client: Client) -> None:
        row, secret = invited(owner_actor, email="New@Example.org")
        opening(secret, outsider_client)
        assert "another address" in outsider_client.post("/invitation/accept/", follow=True).content.decode()
        browser = opening(secret)
        browser.post("/invitation/sign-up/", {"email": "evil@example.org", "password": STRONG})
        row.refresh_from_db()
        assert row.accepted_by is not None
        assert row.accepted_by.email == "new@example.org"
        assert not User.objects.filter(email="evil@example.org").exists()

    def test_nobody_takes_over_an_account_by_signing_up(self, owner_actor: Actor, viewer: User) -> None:
        row, secret = invited(owner_actor)
        answer = opening(secret).post(
            "/invitation/sign-up/", {"email": "VIEWER@example.org", "password": STRONG}
        )
        assert answer.status_code == 422
        viewer.refresh_from_db()
        assert viewer.check_password(PASSWORD)
        row.refresh_from_db()
        assert row.accepted_at is None

    def test_a_member_uses_nothing_up(self, owner_actor: Actor, viewer: User, viewer_client: Client) -> None:
        row, secret = invited(owner_actor, role=Role.ADMIN)
        opening(secret, viewer_client)
        assert "already" in viewer_client.post("/invitation/accept/", follow=True).content.decode()
        row.refresh_from_db()
        assert row.accepted_at is None
        assert member_of(viewer).role == Role.VIEWER

    def test_the_api(self, owner_client: Client, viewer_client: Client, owner_actor: Actor) -> None:
        made = send(
            owner_client, "post", INVITATIONS, {"role": Role.USER, "email": "a@example.org", "days": 1}
        )
        assert made.status_code == 201, made.content
        assert "no-store" in made["Cache-Control"]
        row = made.json()
        assert row["link"].startswith("http://localhost:8000/invitation/#")
        [listed] = owner_client.get(INVITATIONS).json()["results"]
        assert listed == {name: value for name, value in row.items() if name != "link"}
        for bad in ({"role": "root"}, {"role": Role.USER, "days": 31}, {"role": Role.USER, "email": "x"}):
            assert send(owner_client, "post", INVITATIONS, bad).status_code == 400
        assert viewer_client.get(INVITATIONS).status_code == 403
        assert owner_client.delete(f"{INVITATIONS}{row['id']}/").status_code == 204
        assert owner_client.get(INVITATIONS).json()["results"] == []
        assert owner_client.get(f"{INVITATIONS}{'9' * 18}/").status_code == 404


@pytest.mark.django_db(transaction=True)
def test_of_many_who_open_a_link_at_once_one_gets_in(owner_actor: Actor) -> None:
    row, _secret = invited(owner_actor)
    people = [User.objects.create_user(f"p{number}@example.org") for number in range(6)]

    attempts = [partial(invitations.accept, row.pk, person, timezone.now()) for person in people]
    assert at_once(attempts, invitations.NotUsable) == 1
    assert Membership.objects.filter(user__in=people).count() == 1


class TestProjects:
    @pytest.fixture
    def staff(self, project: Project) -> User:
        """Of the platform, and in no project."""
        return User.objects.create_user("staff@example.org", PASSWORD, is_staff=True)

    def test_the_staff_makes_them(self, staff: User, owner_client: Client) -> None:
        browser = signed_in(staff)
        page = browser.get("/")
        assert page.status_code == 403
        assert "You belong to no project yet" in page.content.decode()
        assert browser.post("/iam/project/create/", {"name": "Alpha"}).status_code == 422
        assert browser.post("/iam/project/create/", {"name": " Gamma  one "}).status_code == 302
        assert "Gamma one" in browser.get("/").content.decode()
        assert Membership.objects.get(user=staff).role == Role.ADMIN
        assert acts() == ["project.create"]
        assert owner_client.get("/iam/project/create/").status_code == 403

    def test_rename(
        self, owner_client: Client, viewer_client: Client, project: Project, other_project: Project
    ) -> None:
        assert project.id in viewer_client.get("/iam/project/").content.decode()
        assert viewer_client.post("/iam/project/rename/", {"name": "x"}).status_code == 403
        assert owner_client.post("/iam/project/rename/", {"name": "Beta"}).status_code == 422
        assert owner_client.post("/iam/project/rename/", {"name": "Delta"}).status_code == 302
        project.refresh_from_db()
        assert project.name == "Delta"
        assert acts() == ["project.rename"]

    def test_delete_only_when_empty(self, owner_client: Client, owner_actor: Actor, project: Project) -> None:
        load_data()
        assert Framework.objects.exists()
        model = ready_model(project)
        endpoint = new_endpoint(owner_actor, model)
        owner_client.post("/iam/project/delete/", {"confirm": project.name})
        endpoint.delete()
        owner_client.post("/iam/project/delete/", {"confirm": project.name})
        model.delete()
        account, _secret = services.create_service_account(owner_actor, "caller", [Role.USER])
        key, _text = services.create_api_key(owner_actor, "laptop")
        owner_client.post("/iam/project/delete/", {"confirm": "alpha"})
        assert Project.objects.filter(pk=project.pk).exists()
        owner_client.post("/iam/project/delete/", {"confirm": project.name})
        assert not Project.objects.filter(pk=project.pk).exists()
        assert account.token_grant in grants.revoked(timezone.now())
        assert acts()[-1] == "project.delete"
        # One record for all that went: by id and name.
        event = AuditEvent.objects.latest("id")
        assert event.before == {
            "name": "Alpha",
            "service_accounts": {"count": 1, "rows": [f"caller ({account.id})"]},
            "api_keys": {"count": 1, "rows": [f"laptop, owner@example.org ({key.id})"]},
            "members": {"count": 1, "rows": ["owner@example.org (aiplatform.admin)"]},
        }
        assert owner_client.get("/").status_code == 403

    def test_the_list_of_ones_own(
        self, owner: User, owner_client: Client, outsider: User, project: Project, other_project: Project
    ) -> None:
        assert [row["id"] for row in owner_client.get(PROJECTS).json()["results"]] == [project.id]
        Membership.objects.create(user=owner, project=other_project, role=Role.VIEWER)
        rows = owner_client.get(PROJECTS).json()["results"]
        assert [(row["name"], row["roles"]) for row in rows] == [
            ("Alpha", [Role.ADMIN]),
            ("Beta", [Role.VIEWER]),
        ]
        assert signed_in(User.objects.create_user("lost@example.org")).get(PROJECTS).json()["results"] == []
        assert Client().get(PROJECTS).status_code == 401

    def test_the_browser_remembers(self, owner: User, owner_client: Client, other_project: Project) -> None:
        Membership.objects.create(user=owner, project=other_project, role=Role.VIEWER)
        owner_client.post("/console/project/", {"project": other_project.id})
        owner_client.post("/accounts/logout/")
        owner_client.post("/accounts/login/", {"login": owner.email, "password": PASSWORD})
        assert "Beta" in owner_client.get("/iam/project/").content.decode().split("<main")[1]

    def test_a_foreign_project_is_not_there(self, owner_client: Client, other_project: Project) -> None:
        foreign = owner_client.get(f"/inference/?project={other_project.id}")
        assert foreign.status_code == owner_client.get("/inference/?project=prj-none").status_code == 404

    def test_names(self, owner_actor: Actor) -> None:
        for name in ("", "  ", "x" * 81, "a\x00b"):
            with pytest.raises(Exception, match="name"):
                projects.rename_project(owner_actor, owner_actor.project, name)
