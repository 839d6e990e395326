"""What the services of service accounts allow, refuse and keep."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.core.exceptions import PermissionDenied, ValidationError
from django.core.management import CommandError, call_command

from iam import services, setup
from iam.actors import Actor, actor_for_account
from iam.models import MAX_SECRETS, Membership, Project, ServiceAccount, User
from iam.oauth.hashers import SecretHasher, new_secret
from iam.roles import Permission, Role, allows, roles_granting

pytestmark = pytest.mark.django_db


@pytest.fixture
def account(owner_actor: Actor) -> ServiceAccount:
    """An account with the role user."""
    return services.create_service_account(owner_actor, "caller", [Role.USER], "calls")[0]


def errors_of(call: Callable[[], object]) -> dict[str, list[str]]:
    with pytest.raises(ValidationError) as caught:
        call()
    return caught.value.message_dict


class TestCreate:
    def test_what_it_makes(self, owner_actor: Actor) -> None:
        account, secret = services.create_service_account(owner_actor, " caller ", [Role.USER], " calls ")
        stored = ServiceAccount.objects.get()
        assert stored == account
        assert (stored.name, stored.description, stored.roles) == ("caller", "calls", [Role.USER])
        assert stored.project == owner_actor.project
        assert stored.created_by == owner_actor.user
        assert stored.created_by_name == "owner@example.org"
        row = stored.secrets.get()
        assert row.hint == secret[-4:]
        assert secret not in row.digest
        assert SecretHasher().verify(secret, row.digest)

    def test_secrets_are_256_bits_and_never_alike(self) -> None:
        secrets = {new_secret() for _ in range(100)}
        assert len(secrets) == 100
        assert all(len(secret) == 43 for secret in secrets)  # 32 bytes in Base64 without padding

    def test_roles_in_order_and_once(self, owner_actor: Actor) -> None:
        wanted = [Role.EDITOR, Role.VIEWER, Role.EDITOR]
        account, _secret = services.create_service_account(owner_actor, "a", wanted)
        assert account.roles == [Role.VIEWER, Role.EDITOR]

    @pytest.mark.parametrize(
        ("name", "roles", "field"),
        [
            ("", [Role.USER], "name"),
            ("   ", [Role.USER], "name"),
            ("x" * 81, [Role.USER], "name"),
            ("caller", [Role.USER], "name"),
            ("b", [], "roles"),
            ("b", ["aiplatform.god"], "roles"),
        ],
    )
    def test_bad_input(
        self, owner_actor: Actor, account: ServiceAccount, name: str, roles: list[str], field: str
    ) -> None:
        found = errors_of(lambda: services.create_service_account(owner_actor, name, roles))
        assert list(found) == [field]
        assert ServiceAccount.objects.count() == 1

    def test_description_too_long(self, owner_actor: Actor) -> None:
        found = errors_of(lambda: services.create_service_account(owner_actor, "a", [Role.USER], "x" * 201))
        assert list(found) == ["description"]

    def test_the_same_name_in_another_project(self, account: ServiceAccount, outsider_actor: Actor) -> None:
        services.create_service_account(outsider_actor, account.name, [Role.USER])

    @pytest.mark.parametrize("who", ["editor_actor", "viewer_actor"])
    def test_only_admins(self, who: str, request: pytest.FixtureRequest) -> None:
        with pytest.raises(PermissionDenied):
            services.create_service_account(request.getfixturevalue(who), "a", [Role.VIEWER])

    def test_made_by_another_account(self, owner_actor: Actor) -> None:
        maker, _secret = services.create_service_account(owner_actor, "maker", [Role.ADMIN])
        made, _secret = services.create_service_account(actor_for_account(maker), "made", [Role.USER])
        assert made.created_by is None
        assert made.created_by_name == "maker"


class TestNobodyGrantsMoreThanTheyHave:
    @pytest.mark.parametrize("own", list(Role))
    @pytest.mark.parametrize("wanted", list(Role))
    def test_every_pair(self, project: Project, own: Role, wanted: Role) -> None:
        order = list(Role)
        actor = Actor(project, (own,))
        if order.index(wanted) <= order.index(own):
            assert services.clean_roles(actor, [wanted]) == [wanted]
        else:
            assert list(errors_of(lambda: services.clean_roles(actor, [wanted]))) == ["roles"]


class TestChange:
    def test_update(self, owner_actor: Actor, account: ServiceAccount) -> None:
        services.update_service_account(owner_actor, account, name="b", roles=[Role.EDITOR], description="c")
        account.refresh_from_db()
        assert (account.name, account.roles, account.description) == ("b", [Role.EDITOR], "c")

    def test_update_to_a_taken_name(self, owner_actor: Actor, account: ServiceAccount) -> None:
        other, _secret = services.create_service_account(owner_actor, "other", [Role.USER])
        found = errors_of(lambda: services.update_service_account(owner_actor, other, name="caller"))
        assert list(found) == ["name"]

    def test_disable_and_enable_twice(self, owner_actor: Actor, account: ServiceAccount) -> None:
        services.disable_service_account(owner_actor, account)
        first = account.disabled_at
        services.disable_service_account(owner_actor, account)
        account.refresh_from_db()
        assert account.disabled_at == first
        for _ in range(2):
            services.enable_service_account(owner_actor, account)
        account.refresh_from_db()
        assert account.is_active

    def test_secrets_have_a_limit(self, owner_actor: Actor, account: ServiceAccount) -> None:
        row, _plain = services.add_secret(owner_actor, account)
        assert account.secrets.count() == MAX_SECRETS
        assert list(errors_of(lambda: services.add_secret(owner_actor, account))) == ["secret"]
        services.delete_secret(owner_actor, row)
        services.add_secret(owner_actor, account)

    @pytest.mark.parametrize("who", ["editor_actor", "viewer_actor", "outsider_actor"])
    def test_nobody_else(self, who: str, account: ServiceAccount, request: pytest.FixtureRequest) -> None:
        actor = request.getfixturevalue(who)
        for call in (
            lambda: services.update_service_account(actor, account, name="x"),
            lambda: services.disable_service_account(actor, account),
            lambda: services.enable_service_account(actor, account),
            lambda: services.delete_service_account(actor, account),
            lambda: services.add_secret(actor, account),
            lambda: services.delete_secret(actor, account.secrets.get()),
        ):
            with pytest.raises(PermissionDenied):
                call()
        account.refresh_from_db()
        assert (account.name, account.is_active, account.secrets.count()) == ("caller", True, 1)


def test_the_contracts_table_of_roles() -> None:
    """Contract §7, written out."""
    assert {role: [p for p in Permission if allows([role], p)] for role in Role} == {
        Role.VIEWER: [Permission.VIEW],
        Role.USER: [Permission.VIEW, Permission.INVOKE],
        Role.EDITOR: [Permission.VIEW, Permission.INVOKE, Permission.EDIT],
        Role.ADMIN: list(Permission),
    }
    assert not allows(["aiplatform.god", ""], Permission.VIEW)
    assert roles_granting(Permission.INVOKE) == (Role.USER, Role.EDITOR, Role.ADMIN)


class TestSetup:
    def test_the_first_admin(self) -> None:
        made = setup.ensure_first_admin()
        assert made is not None
        email, password = made
        user = User.objects.get()
        assert email == user.email == "admin@berth.local"
        assert user.check_password(password)
        assert user.is_superuser
        membership = Membership.objects.get()
        assert (membership.user, membership.project.name, membership.role) == (user, "default", Role.ADMIN)

    def test_only_once(self) -> None:
        setup.ensure_first_admin()
        assert setup.ensure_first_admin() is None
        assert User.objects.count() == 1

    def test_configured_address(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("BERTH_ADMIN_EMAIL", "Ops@Example.org")
        made = setup.ensure_first_admin()
        assert made is not None
        assert made[0] == User.objects.get().email == "ops@example.org"

    def test_reset_prints_a_new_password_once(self, capsys: pytest.CaptureFixture[str]) -> None:
        made = setup.ensure_first_admin()
        assert made is not None
        call_command("reset_admin_password")
        printed = capsys.readouterr().out
        user = User.objects.get()
        assert not user.check_password(made[1])
        assert user.email in printed
        assert user.check_password(printed.split()[-1])

    @pytest.mark.parametrize("arguments", [(), ("nobody@example.org",)])
    def test_reset_without_such_an_admin(self, arguments: tuple[str, ...], editor: User) -> None:
        with pytest.raises(CommandError, match="make up"):
            call_command("reset_admin_password", *arguments)
