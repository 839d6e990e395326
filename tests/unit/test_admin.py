"""Django's admin: what it records, what it asks, what it hides, and that what is edited takes effect."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.contrib import admin
from django.test import Client
from django.utils import timezone

from endpoints.models import Gpu, InstanceType, Node, Region
from iam import services
from iam.actors import Actor
from iam.admin.audited import Audited, ReadOnly
from iam.belongings import NAMED
from iam.models import ApiKey, AuditEvent, Invitation, Membership, Project, Revocation, ServiceAccount, User
from iam.oauth.hashers import SecretHasher
from iam.roles import Role
from iam.signals import access_changed
from registry.models import Framework, RegisteredModel
from tests.conftest import PASSWORD, signed_in
from tests.support_endpoints import load_data, new_endpoint, ready_model

pytestmark = pytest.mark.django_db


@pytest.fixture
def staff() -> Client:
    """A superuser's browser."""
    return signed_in(User.objects.create_superuser("root@example.org", PASSWORD))


@pytest.fixture
def told() -> Iterator[list[Any]]:
    """Who told the gateways that something changed."""
    heard: list[Any] = []

    def hear(sender: Any, **_: Any) -> None:
        heard.append(sender)

    access_changed.connect(hear)
    yield heard
    access_changed.disconnect(hear)


@pytest.fixture
def account(owner_actor: Actor) -> ServiceAccount:
    """One with the role user."""
    return services.create_service_account(owner_actor, "ci", [Role.USER])[0]


def last(action: str) -> AuditEvent:
    event = AuditEvent.objects.filter(action=action).first()
    assert event is not None, [*AuditEvent.objects.values_list("action", flat=True)]
    return event


def form_of(staff: Client, url: str, **changes: Any) -> dict[str, Any]:
    """What a browser would send from that page, with changes."""
    page = staff.get(url)
    assert page.status_code == 200, url
    forms = [page.context["adminform"].form]
    formsets = [inline.formset for inline in page.context["inline_admin_formsets"]]
    values: dict[str, Any] = {}
    for formset in formsets:
        forms += [formset.management_form, *formset.initial_forms]
    for form in forms:
        for bound in form:
            names = (
                bound.field.widget.decompress(bound.value())
                if hasattr(bound.field.widget, "decompress")
                else None
            )
            if names is not None:
                values |= {f"{bound.html_name}_{i}": str(v) for i, v in enumerate(names) if v is not None}
            elif bound.value() is not False and bound.value() not in (None, ""):
                values[bound.html_name] = bound.value()
    return values | changes


def asked(staff: Client, url: str, values: dict[str, Any]) -> str:
    """The page that asks before these are saved; then they are. Nothing is changed by asking."""
    before = AuditEvent.objects.count()
    page = staff.post(url, values)
    assert page.status_code == 200
    assert AuditEvent.objects.count() == before
    sent = dict.fromkeys(re.findall(r'type="hidden" name="([^"]+)" value=', page.content.decode()))
    assert values.keys() | {"confirmed"} <= sent.keys()
    assert staff.post(url, {**values, "confirmed": "yes"}).status_code == 302
    return page.content.decode()


class TestAll:
    """What holds for every table that is registered."""

    def test_everything_is_on_record_or_read_only(self) -> None:
        for model, registered in admin.site._registry.items():
            assert isinstance(registered, (Audited, ReadOnly)), model

    def test_staff_alone(self, owner_client: Client, client: Client) -> None:
        for browser in (owner_client, client):
            assert browser.get("/admin/").status_code == 302
            assert browser.get("/admin/iam/auditevent/").status_code == 302

    def test_every_page_opens_and_nothing_in_it_is_inline(
        self, staff: Client, account: ServiceAccount, owner_actor: Actor
    ) -> None:
        load_data()
        new_endpoint(owner_actor)
        for model in admin.site._registry:
            base = f"/admin/{model._meta.app_label}/{model._meta.model_name}/"
            rows = model._default_manager.all()[:1]
            pages = [base, f"{base}?q=a", *(f"{base}{row.pk}/change/" for row in rows)]
            for url in pages:
                answer = staff.get(url)
                assert answer.status_code == 200, url
                page = answer.content.decode()
                assert "css/admin.css" in page
                assert " style=" not in page, url
                assert "<style" not in page, url
                assert " onclick=" not in page, url
                assert all("src=" in tag or "json" in tag for tag in page.split("<script")[1:]), url

    def test_no_secret_is_on_any_page(self, staff: Client, owner_actor: Actor, project: Project) -> None:
        load_data()
        model = ready_model(
            project, hub_token="hf_secret", registry_username="u", registry_password="pw_secret"
        )
        secret = services.create_service_account(owner_actor, "x", [Role.USER])[1]
        hasher = SecretHasher()
        Invitation.objects.create(
            project=project,
            role=Role.USER,
            digest=hasher.encode("inv_secret", "s"),
            expires_at=timezone.now(),
        )
        for url in (
            f"/admin/registry/registeredmodel/{model.pk}/change/",
            f"/admin/iam/serviceaccount/{ServiceAccount.objects.get().pk}/change/",
            f"/admin/iam/invitation/{Invitation.objects.get().pk}/change/",
            "/admin/registry/registeredmodel/",
        ):
            page = staff.get(url).content.decode()
            for hidden in ("hf_secret", "pw_secret", secret, "digest", "keyed"):
                assert hidden not in page, (url, hidden)


class TestRecorded:
    """Field by field, by whom."""

    def test_a_row_is_added_changed_and_deleted(self, staff: Client) -> None:
        base = "/admin/endpoints/region/"
        staff.post(f"{base}add/", {"code": "DLT", "name": "Da Lat", "enabled": "on"})
        assert last("region.create").after == {"code": "DLT", "name": "Da Lat", "enabled": True}
        asked(staff, f"{base}DLT/change/", {"code": "DLT", "name": "Dalat"})
        event = last("region.change")
        assert (event.before, event.after) == (
            {"name": "Da Lat", "enabled": True},
            {"name": "Dalat", "enabled": False},
        )
        assert (event.actor_name, event.target_id, event.project_id) == ("root@example.org", "DLT", "")
        staff.post(f"{base}DLT/change/", {"code": "DLT", "name": "Dalat"})
        assert AuditEvent.objects.filter(action="region.change").count() == 1
        assert "Nothing can be created there" in staff.get(f"{base}DLT/delete/").content.decode()
        staff.post(f"{base}DLT/delete/", {"post": "yes"})
        assert last("region.delete").before["name"] == "Dalat"
        assert not Region.objects.filter(code="DLT").exists()

    def test_several_rows_are_deleted(self, staff: Client) -> None:
        for name in ("one", "two"):
            InstanceType.objects.create(name=name, family="x")
        chosen = {"action": "delete_selected", "_selected_action": ["one", "two"]}
        page = staff.post("/admin/endpoints/instancetype/", chosen)
        assert "Nobody can choose it any more" in page.content.decode()
        assert InstanceType.objects.count() == 2
        staff.post("/admin/endpoints/instancetype/", {**chosen, "post": "yes"})
        assert set(AuditEvent.objects.values_list("action", "target_id")) == {
            ("instance_type.delete", "one"),
            ("instance_type.delete", "two"),
        }

    def test_a_persons_password_and_roles(self, staff: Client, editor: User, project: Project) -> None:
        url = f"/admin/iam/user/{editor.pk}/"
        staff.post(f"{url}password/", {"password1": "other horse staple", "password2": "other horse staple"})
        event = last("user.change")
        assert event.before["password"] == event.after["password"] == "••••"
        member = Membership.objects.get(user=editor)
        staff.post(f"{url}change/", form_of(staff, f"{url}change/", **{"memberships-0-role": Role.VIEWER}))
        event = last("member.role")
        assert (event.before, event.after) == ({"role": Role.EDITOR}, {"role": Role.VIEWER})
        assert (event.target_id, event.project_id) == (str(member.pk), project.id)
        leaving = form_of(staff, f"{url}change/", **{"memberships-0-DELETE": "on"})
        assert "belongs to the project no more" in asked(staff, f"{url}change/", leaving)
        assert last("member.remove").target_id == str(member.pk)
        assert not Membership.objects.filter(user=editor).exists()

    def test_the_log_itself_stays(self, staff: Client, account: ServiceAccount) -> None:
        event = last("service_account.create")
        for path in ("add/", f"{event.pk}/delete/"):
            assert staff.get(f"/admin/iam/auditevent/{path}").status_code == 403
        page = staff.get(f"/admin/iam/auditevent/{event.pk}/change/").content.decode()
        assert "Created the service account" in page
        assert '<input type="submit"' not in page
        assert staff.post(f"/admin/iam/auditevent/{event.pk}/change/", {"action": "x"}).status_code == 403
        staff.post(
            "/admin/iam/auditevent/",
            {"action": "delete_selected", "_selected_action": [event.pk], "post": "yes"},
        )
        assert AuditEvent.objects.filter(pk=event.pk).exists()


class TestEffect:
    """What is edited here counts at the gateways as if it had been edited in the console."""

    def test_a_role_taken_from_an_account_revokes_its_tokens(
        self, staff: Client, account: ServiceAccount, told: list[Any]
    ) -> None:
        url = f"/admin/iam/serviceaccount/{account.id}/change/"
        assert "A role goes" in asked(staff, url, form_of(staff, url, roles=[Role.VIEWER]))
        account.refresh_from_db()
        assert account.roles == [Role.VIEWER]
        assert Revocation.objects.filter(grant=f"{account.id}:1").exists()
        assert Revocation in told
        assert AuditEvent.objects.filter(action="service_account.update").count() == 1

    def test_limits(self, staff: Client, account: ServiceAccount, told: list[Any]) -> None:
        url = f"/admin/iam/serviceaccount/{account.id}/change/"
        assert staff.post(url, form_of(staff, url, requests_per_minute="0")).status_code == 200
        assert staff.post(url, form_of(staff, url, requests_per_minute="60")).status_code == 302
        account.refresh_from_db()
        assert account.requests_per_minute == 60
        assert ServiceAccount in told
        assert last("service_account.update").after == {"requests_per_minute": 60}

    def test_a_name_that_is_taken_is_told(
        self, staff: Client, account: ServiceAccount, owner_actor: Actor
    ) -> None:
        services.create_service_account(owner_actor, "other", [Role.USER])
        keys = [services.create_api_key(owner_actor, name)[0] for name in ("laptop", "other")]
        for url in (
            f"/admin/iam/serviceaccount/{account.id}/change/",
            f"/admin/iam/apikey/{keys[0].id}/change/",
        ):
            answer = staff.post(url, form_of(staff, url, name="other"))
            assert answer.status_code == 200
            assert "This name is taken there" in answer.content.decode()

    def test_a_date_that_has_passed_is_refused(self, staff: Client, account: ServiceAccount) -> None:
        url = f"/admin/iam/serviceaccount/{account.id}/change/"
        past = {"expires_at_0": "2020-01-01", "expires_at_1": "00:00:00"}
        answer = staff.post(url, form_of(staff, url, **past))
        assert "Choose a moment in the future" in answer.content.decode()

    def test_disabling_asks_first(self, staff: Client, account: ServiceAccount, told: list[Any]) -> None:
        chosen = {"action": "disable", "_selected_action": [account.id]}
        page = staff.post("/admin/iam/serviceaccount/", chosen).content.decode()
        assert "Disable these service accounts?" in page
        assert account.name in page
        account.refresh_from_db()
        assert account.disabled_at is None
        staff.post("/admin/iam/serviceaccount/", {**chosen, "confirmed": "yes"})
        account.refresh_from_db()
        assert account.disabled_at is not None
        assert Revocation in told

    def test_deactivating_a_person_blocks_their_keys(
        self, staff: Client, owner: User, owner_actor: Actor, told: list[Any]
    ) -> None:
        key = services.create_api_key(owner_actor, "laptop")[0]
        chosen = {"action": "deactivate", "_selected_action": [owner.pk]}
        assert "Deactivate these people?" in staff.post("/admin/iam/user/", chosen).content.decode()
        assert User.objects.get(pk=owner.pk).is_active
        staff.post("/admin/iam/user/", {**chosen, "confirmed": "yes"})
        assert not User.objects.get(pk=owner.pk).is_active
        key.refresh_from_db()
        assert key.blocked
        assert ApiKey in told
        assert last("user.change").after == {"is_active": False}
        staff.post("/admin/iam/user/", {"action": "activate", "_selected_action": [owner.pk]})
        key.refresh_from_db()
        assert not key.blocked

    def test_forms_that_take_something_away_ask_first(
        self, staff: Client, editor: User, owner_actor: Actor, account: ServiceAccount
    ) -> None:
        url = f"/admin/iam/user/{editor.pk}/change/"
        off = form_of(staff, url)
        off.pop("is_active")
        assert "signed out everywhere" in asked(staff, url, off)
        assert not User.objects.get(pk=editor.pk).is_active
        assert staff.post(url, form_of(staff, url, is_active="on")).status_code == 302
        assert "may do everything" in asked(staff, url, form_of(staff, url, is_superuser="on"))
        url = f"/admin/iam/serviceaccount/{account.id}/change/"
        services.add_secret(owner_actor, account)
        values = form_of(staff, url, **{"secrets-0-DELETE": "on"})
        assert "gets no more tokens" in asked(staff, url, values)
        assert account.secrets.count() == 1
        assert last("secret.delete").actor_name == "root@example.org"

    def test_a_deleted_key_is_refused_and_its_limits_are_told(
        self, staff: Client, owner_actor: Actor, told: list[Any]
    ) -> None:
        key = services.create_api_key(owner_actor, "laptop", expires_at=timezone.now() + timedelta(days=9))[0]
        url = f"/admin/iam/apikey/{key.id}/"
        assert staff.get("/admin/iam/apikey/add/").status_code == 403
        staff.post(f"{url}change/", form_of(staff, f"{url}change/", tokens_per_minute="500"))
        assert ApiKey in told
        assert last("api_key.change").after == {"tokens_per_minute": 500}
        staff.post(f"{url}delete/", {"post": "yes"})
        assert Revocation.objects.filter(grant=key.token_grant).exists()
        assert last("api_key.delete").project_id == owner_actor.project.id

    def test_credentials_are_replaced_blind(self, staff: Client, project: Project) -> None:
        load_data()
        model = ready_model(project, hub_token="hf_old")
        url = f"/admin/registry/registeredmodel/{model.pk}/change/"
        half = staff.post(url, {"new_registry_username": "robot"})
        assert "Enter user and password together" in half.content.decode()
        staff.post(url, {"new_hub_token": "hf_new"})
        assert RegisteredModel.objects.get().hub_token == "hf_new"
        event = last("model.change")
        assert (event.before, event.after) == ({"hub_token": "••••"}, {"hub_token": "••••"})
        staff.post(url, {})
        assert RegisteredModel.objects.get().hub_token == "hf_new"
        assert "fetched again until new ones" in asked(staff, url, {"forget": "on"})
        assert RegisteredModel.objects.get().hub_token == ""
        assert last("model.change").after == {"hub_token": ""}

    def test_switching_off_asks_first_and_switching_on_does_not(self, staff: Client) -> None:
        load_data()
        region = Region.objects.create(code="DLT", name="Da Lat")
        node = Node.objects.create(name="n1", region=region)
        gpu = Gpu.objects.create(uuid="GPU-1", node=node, index=0, model="a40", vram_bytes=1)
        rows = (
            (region, "enabled", "Nothing can be created there"),
            (InstanceType.objects.latest("gpu_count", "name"), "enabled", "Nobody can choose it"),
            (Framework.objects.get(slug="vllm"), "enabled", "Nobody can import"),
            (node, "schedulable", "takes no new replicas"),
            (node, "gpus-0-enabled", "No replica gets it"),
            (gpu, "enabled", "No replica gets it"),
        )
        for row, field, words in rows:
            url = f"/admin/{row._meta.app_label}/{row._meta.model_name}/{row.pk}/change/"
            values = form_of(staff, url)
            assert staff.post(url, values).status_code == 302, url
            del values[field]
            assert words in asked(staff, url, values), url
            assert field not in form_of(staff, url)
            assert staff.post(url, {**values, field: "on"}).status_code == 302, url
            assert field in form_of(staff, url)

    def test_an_endpoints_limits(self, staff: Client, owner_actor: Actor) -> None:
        load_data()
        endpoint = new_endpoint(owner_actor)
        url = f"/admin/endpoints/endpoint/{endpoint.pk}/change/"
        assert staff.post(url, {"max_concurrency": "0"}).status_code == 200
        assert staff.post(url, {"max_concurrency": "7"}).status_code == 302
        endpoint.refresh_from_db()
        assert endpoint.max_concurrency == 7
        event = last("endpoint.change")
        assert (event.before, event.after) == ({"max_concurrency": None}, {"max_concurrency": 7})
        assert event.actor_name == "root@example.org"

    def test_a_project_that_holds_something_stays(
        self, staff: Client, project: Project, account: ServiceAccount
    ) -> None:
        load_data()
        model = ready_model(project)
        assert staff.post(f"/admin/iam/project/{project.id}/delete/", {"post": "yes"}).status_code == 403
        model.delete()
        for number in range(NAMED):
            ServiceAccount.objects.create(project=project, name=f"a{number:03}")
        staff.post(f"/admin/iam/project/{project.id}/delete/", {"post": "yes"})
        assert not Project.objects.filter(pk=project.id).exists()
        assert Revocation.objects.filter(grant__startswith=account.id).exists()
        told = last("project.delete").before
        assert told["name"] == "Alpha"
        # Counted all, named no more than fit.
        assert told["service_accounts"]["count"] == NAMED + 1
        assert len(told["service_accounts"]["rows"]) == NAMED
        assert told["service_accounts"]["rows"][0].startswith("a000 (sa-")
