"""Narrowing, limits, dates and revocation of service accounts, and API keys: what the services allow, keep and tell."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from django.conf import settings
from django.core.exceptions import PermissionDenied, ValidationError
from django.utils import timezone

from endpoints.models import Endpoint, LastUse
from iam import grants, rotation, services
from iam.activity import activity
from iam.actors import Actor, actor_for_account
from iam.models import ApiKey, AuditEvent, Membership, Project, Revocation, ServiceAccount, User
from iam.models import ServiceAccountSecret as Secret
from iam.oauth import tokens
from iam.roles import Role
from iam.services.keys import LONGEST
from iam.signals import access_changed
from iam.tasks import sweep_identities
from tests.conftest import actor_of, make_member
from tests.support_endpoints import load_data, new_endpoint

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)


@pytest.fixture
def account(owner_actor: Actor) -> ServiceAccount:
    """An account with the role user."""
    return services.create_service_account(owner_actor, "caller", [Role.USER])[0]


@pytest.fixture
def endpoint(owner_actor: Actor) -> Endpoint:
    """An endpoint of the project."""
    load_data()
    return new_endpoint(owner_actor)


@pytest.fixture
def told() -> Iterator[list[Any]]:
    """What the gateways were told to look at."""
    heard: list[Any] = []

    def hear(sender: Any, **_: Any) -> None:
        heard.append(sender)

    access_changed.connect(hear, weak=False)
    yield heard
    access_changed.disconnect(hear)


def errors_of(call: Callable[[], object]) -> dict[str, list[str]]:
    with pytest.raises(ValidationError) as caught:
        call()
    return caught.value.message_dict


def actions() -> list[str]:
    return list(AuditEvent.objects.order_by("id").values_list("action", flat=True))


class TestRevocation:
    """What takes something away refuses the tokens that are out, and nothing else does."""

    def change(self, actor: Actor, account: ServiceAccount, **changes: Any) -> bool:
        """Whether the tokens from before are refused after this change."""
        grant = account.token_grant
        services.update_service_account(actor, account, **changes)
        refused = grant in grants.revoked(timezone.now())
        account.refresh_from_db()
        assert (account.token_grant == grant) is not refused
        assert account.token_grant not in grants.revoked(timezone.now())
        return refused

    @pytest.mark.parametrize(
        ("changes", "refused"),
        [
            ({"roles": [Role.VIEWER]}, True),
            ({"roles": [Role.EDITOR]}, True),
            ({"roles": [Role.USER]}, False),
            ({"name": "other", "description": "words"}, False),
            ({"requests_per_minute": 10, "tokens_per_month": 1}, False),
            ({"expires_at": NOW.replace(year=2099)}, False),
            ({}, False),
        ],
    )
    def test_by_change(
        self, owner_actor: Actor, account: ServiceAccount, changes: dict[str, Any], refused: bool
    ) -> None:
        assert self.change(owner_actor, account, **changes) is refused

    def test_by_narrowing(self, owner_actor: Actor, account: ServiceAccount, endpoint: Endpoint) -> None:
        assert self.change(owner_actor, account, endpoint_ids=[endpoint.id])
        assert not self.change(owner_actor, account, endpoint_ids=[endpoint.id, endpoint.id])
        assert self.change(owner_actor, account, endpoint_ids=None)

    def test_by_disabling_once(self, owner_actor: Actor, account: ServiceAccount) -> None:
        services.disable_service_account(owner_actor, account)
        services.disable_service_account(owner_actor, account)
        assert Revocation.objects.get().grant == f"{account.id}:1"
        services.enable_service_account(owner_actor, account)
        assert account.token_grant == f"{account.id}:2"

    def test_by_deleting(self, owner_actor: Actor, account: ServiceAccount) -> None:
        grant = account.token_grant
        services.delete_service_account(owner_actor, account)
        assert grant in grants.revoked(timezone.now())

    def test_a_stale_object_does_not_undo_another_change(
        self, owner_actor: Actor, account: ServiceAccount
    ) -> None:
        stale = ServiceAccount.objects.get()
        services.disable_service_account(owner_actor, account)
        services.update_service_account(owner_actor, stale, description="new")
        assert not ServiceAccount.objects.get().is_active
        assert not stale.is_active

    def test_limits_reach_the_gateways(
        self, owner_actor: Actor, account: ServiceAccount, told: list[Any]
    ) -> None:
        services.update_service_account(owner_actor, account, description="words")
        assert told == []
        services.update_service_account(owner_actor, account, tokens_per_minute=5)
        assert told == [ServiceAccount]
        services.create_service_account(owner_actor, "b", [Role.USER], requests_per_minute=5)
        assert len(told) == 2
        services.disable_service_account(owner_actor, account)
        told.clear()
        services.enable_service_account(owner_actor, account)
        assert told == [ServiceAccount]


class TestExpiry:
    def expire(self, account: ServiceAccount, ago: timedelta) -> None:
        ServiceAccount.objects.filter(pk=account.pk).update(expires_at=timezone.now() - ago)

    def test_once(self, account: ServiceAccount) -> None:
        self.expire(account, timedelta(seconds=3))
        now = timezone.now()
        assert services.expire_service_accounts(now) == 1
        assert grants.revoked(now) == [f"{account.id}:1"]
        assert services.expire_service_accounts(now + timedelta(seconds=5)) == 0
        assert AuditEvent.objects.filter(action="service_account.expire", actor_kind="platform").count() == 1

    def test_again_after_it_was_prolonged(self, owner_actor: Actor, account: ServiceAccount) -> None:
        self.expire(account, timedelta(seconds=3))
        services.expire_service_accounts(timezone.now())
        later = timezone.now() + timedelta(days=1)
        services.update_service_account(owner_actor, ServiceAccount.objects.get(), expires_at=later)
        assert services.expire_service_accounts(later - timedelta(seconds=1)) == 0
        assert services.expire_service_accounts(later) == 1

    def test_long_ago_nothing_is_left_to_revoke(self, account: ServiceAccount) -> None:
        self.expire(account, timedelta(seconds=settings.BERTH_TOKEN_LIFETIME_S + 1))
        assert services.expire_service_accounts(timezone.now()) == 0

    def test_the_clock_calls_it(self, account: ServiceAccount) -> None:
        self.expire(account, timedelta(seconds=3))
        old = timezone.now() - timedelta(days=1)
        Revocation.objects.create(grant="sa-old:1", expires_at=old)
        sweep_identities()
        assert list(Revocation.objects.values_list("grant", flat=True)) == [f"{account.id}:1"]
        schedule = settings.CELERY_BEAT_SCHEDULE["sweep-identities"]
        assert (schedule["task"], schedule["schedule"] <= 5) == (sweep_identities.name, True)

    def test_not_in_the_past(self, owner_actor: Actor, account: ServiceAccount) -> None:
        past = timezone.now() - timedelta(seconds=1)
        found = errors_of(lambda: services.update_service_account(owner_actor, account, expires_at=past))
        assert list(found) == ["expires_at"]
        assert list(errors_of(lambda: services.add_secret(owner_actor, account, past))) == ["expires_at"]

    def test_an_expired_account_can_be_renamed(self, owner_actor: Actor, account: ServiceAccount) -> None:
        self.expire(account, timedelta(days=1))
        account.refresh_from_db()
        services.update_service_account(
            owner_actor, account, name="was caller", expires_at=account.expires_at
        )
        assert ServiceAccount.objects.get().name == "was caller"


class TestNarrowing:
    def test_ids_once_and_in_order(self, owner_actor: Actor, endpoint: Endpoint) -> None:
        assert endpoint.revision is not None
        second = new_endpoint(owner_actor, endpoint.revision.model, name="b")
        ids = [second.id, endpoint.id, second.id]
        account, _secret = services.create_service_account(owner_actor, "a", [Role.USER], endpoint_ids=ids)
        assert account.endpoint_ids == sorted({second.id, endpoint.id})

    def test_unknown_and_foreign_are_told_alike(self, owner_actor: Actor, outsider: User) -> None:
        load_data()
        foreign = new_endpoint(actor_of(outsider)).id
        missing = "me-00000000-0000-0000-0000-000000000000"
        said = []
        for item in (foreign, missing):
            found = errors_of(
                lambda item=item: services.create_service_account(  # type: ignore[misc]
                    owner_actor, "a", [Role.USER], endpoint_ids=[item]
                )
            )
            said.append(str(found).replace(item, "ID"))
        assert said[0] == said[1]
        assert "endpoints" in said[0]
        assert not ServiceAccount.objects.exists()

    @pytest.mark.parametrize("ids", [[], [f"me-{n}" for n in range(services.MAX_ENDPOINTS + 1)]])
    def test_none_and_too_many(self, owner_actor: Actor, ids: list[str]) -> None:
        found = errors_of(
            lambda: services.create_service_account(owner_actor, "a", [Role.USER], endpoint_ids=ids)
        )
        assert list(found) == ["endpoints"]

    def test_what_is_gone_may_stay(self, owner_actor: Actor, endpoint: Endpoint) -> None:
        account, _secret = services.create_service_account(
            owner_actor, "a", [Role.USER], endpoint_ids=[endpoint.id]
        )
        ids = account.endpoint_ids
        ServiceAccount.objects.filter(pk=account.pk).update(endpoint_ids=["me-gone", *(ids or [])])
        services.update_service_account(owner_actor, account, endpoint_ids=["me-gone"])
        assert account.endpoint_ids == ["me-gone"]
        found = errors_of(
            lambda: services.update_service_account(owner_actor, account, endpoint_ids=["me-other"])
        )
        assert list(found) == ["endpoints"]


@pytest.mark.parametrize("name", ["requests_per_minute", "tokens_per_minute", "tokens_per_month"])
@pytest.mark.parametrize("value", [0, -1, 2**63])
def test_limits_that_are_none(owner_actor: Actor, account: ServiceAccount, name: str, value: int) -> None:
    changes: Any = {name: value}
    assert list(errors_of(lambda: services.update_service_account(owner_actor, account, **changes))) == [name]


class TestAudit:
    def test_every_act_is_on_record(self, owner_actor: Actor, account: ServiceAccount) -> None:
        services.update_service_account(owner_actor, account, roles=[Role.VIEWER], name="caller")
        services.update_service_account(owner_actor, account, name="caller")
        row, _secret = services.add_secret(owner_actor, account)
        services.delete_secret(owner_actor, row)
        services.disable_service_account(owner_actor, account)
        services.enable_service_account(owner_actor, account)
        services.delete_service_account(owner_actor, account)
        acts = ["create", "update", "disable", "enable", "delete"]
        assert [a for a in actions() if a.startswith("secret")] == ["secret.create", "secret.delete"]
        assert [a for a in actions() if a.startswith("service_account")] == [
            f"service_account.{act}" for act in acts
        ]
        update = AuditEvent.objects.get(action="service_account.update")
        assert (update.before, update.after) == ({"roles": [Role.USER]}, {"roles": [Role.VIEWER]})
        assert {event.project_id for event in AuditEvent.objects.all()} == {owner_actor.project.id}

    def test_no_record_holds_a_secret(self, owner_actor: Actor, editor_actor: Actor) -> None:
        account, first = services.create_service_account(owner_actor, "a", [Role.USER])
        _row, second = services.add_secret(owner_actor, account)
        _key, text = services.create_api_key(editor_actor, "laptop")
        kept = str(list(AuditEvent.objects.values()))
        assert all(secret not in kept for secret in (first, second, text))
        digests = [secret.digest for secret in Secret.objects.all()]
        assert all(digest not in kept for digest in digests)


def joined(actor: Actor, name: str) -> Actor:
    """The same person in a new project of that name, too."""
    assert actor.user is not None
    project = Project.objects.create(name=name)
    Membership.objects.create(user=actor.user, project=project, role=Role.USER)
    return Actor(project, (Role.USER,), user=actor.user)


class TestKeys:
    def test_what_it_makes(self, editor_actor: Actor, endpoint: Endpoint) -> None:
        key, text = services.create_api_key(
            editor_actor, " laptop ", endpoint_ids=[endpoint.id], tokens_per_minute=7
        )
        stored = ApiKey.objects.get()
        assert stored == key
        assert (stored.name, stored.user, stored.project) == (
            "laptop",
            editor_actor.user,
            editor_actor.project,
        )
        assert stored.hint == text[-4:]
        assert all(text not in str(value) for value in ApiKey.objects.values()[0].values())
        days = (stored.expires_at - timezone.now()) / timedelta(days=1)
        assert 89.9 < days <= 90
        assert actions()[-1] == "api_key.create"

    def test_the_management_api_refuses_it_in_words(self, editor_actor: Actor) -> None:
        _key, text = services.create_api_key(editor_actor, "laptop")
        with pytest.raises(tokens.InvalidToken, match="for calling endpoints"):
            tokens.verify(text)

    def test_two_a_person_over_all_projects(self, editor_actor: Actor, owner_actor: Actor) -> None:
        elsewhere = joined(editor_actor, "Gamma")
        services.create_api_key(editor_actor, "a")
        services.create_api_key(elsewhere, "b")
        for actor in (editor_actor, elsewhere):
            told = errors_of(partial(services.create_api_key, actor, "c"))
            assert list(told) == ["__all__"]
            assert "a (Alpha), b (Gamma)" in told["__all__"][0]
        services.create_api_key(owner_actor, "a")
        # The role is taken there: the key is blocked, and one of the two still.
        member = Membership.objects.get(user=editor_actor.user, project=elsewhere.project)
        member.role = Role.VIEWER
        member.save()
        assert ApiKey.objects.get(name="b").blocked
        assert errors_of(lambda: services.create_api_key(editor_actor, "c"))
        services.delete_api_key(elsewhere, ApiKey.objects.get(name="b"))
        services.create_api_key(editor_actor, "c")

    @pytest.mark.parametrize("how", ["expired", "left"])
    def test_what_nothing_can_be_done_with_makes_way(self, editor_actor: Actor, how: str) -> None:
        elsewhere = joined(editor_actor, "Gamma")
        services.create_api_key(elsewhere, "a")
        services.create_api_key(editor_actor, "b")
        if how == "expired":
            ApiKey.objects.filter(name="a").update(expires_at=timezone.now())
        else:
            Membership.objects.get(user=editor_actor.user, project=elsewhere.project).delete()
        services.create_api_key(editor_actor, "c")
        assert sorted(ApiKey.objects.values_list("name", flat=True)) == ["b", "c"]
        event = AuditEvent.objects.filter(action="api_key.delete").get()
        assert (event.target_name, event.project_id) == ("a", elsewhere.project.id)

    @pytest.mark.parametrize(
        ("values", "field"),
        [
            ({"name": ""}, "name"),
            ({"name": "x" * 81}, "name"),
            ({"name": "taken"}, "name"),
            ({"expires_at": datetime(2020, 1, 1, tzinfo=UTC)}, "expires_at"),
            ({"expires_at": timezone.now() + LONGEST + timedelta(days=1)}, "expires_at"),
            ({"endpoint_ids": ["me-none"]}, "endpoints"),
            ({"requests_per_minute": 0}, "requests_per_minute"),
        ],
    )
    def test_bad_input(self, editor_actor: Actor, values: dict[str, Any], field: str) -> None:
        services.create_api_key(editor_actor, "taken")
        wanted = {"name": "new", **values}
        assert list(errors_of(lambda: services.create_api_key(editor_actor, **wanted))) == [field]
        assert ApiKey.objects.count() == 1

    def test_not_for_viewers_nor_programs(
        self, viewer_actor: Actor, account: ServiceAccount, editor_actor: Actor
    ) -> None:
        assert editor_actor.user is not None
        stranger = Actor(Project.objects.create(name="Gamma"), (Role.ADMIN,), user=editor_actor.user)
        stale = Actor(
            viewer_actor.project, (Role.USER,), user=viewer_actor.user
        )  # the role was taken meanwhile
        for actor in (viewer_actor, actor_for_account(account), stranger, stale):
            with pytest.raises(PermissionDenied):
                services.create_api_key(actor, "x")
        assert not ApiKey.objects.exists()

    def test_who_may_delete_it(
        self, editor_actor: Actor, owner_actor: Actor, outsider_actor: Actor, project: Project
    ) -> None:
        other = actor_of(make_member(project, "other@example.org", Role.EDITOR))
        key, _text = services.create_api_key(editor_actor, "laptop")
        grant = key.token_grant
        for actor in (other, outsider_actor):
            with pytest.raises(PermissionDenied):
                services.delete_api_key(actor, key)
        assert grants.revoked(timezone.now()) == []
        services.delete_api_key(owner_actor, key)
        assert grants.revoked(timezone.now()) == [grant]
        # Until the token has expired by itself: a year at most.
        assert Revocation.objects.get().expires_at > key.expires_at

    def test_it_does_what_its_person_may(self, editor_actor: Actor) -> None:
        key, _text = services.create_api_key(editor_actor, "laptop")
        membership = Membership.objects.get(user=editor_actor.user)
        for role, refused in ((Role.VIEWER, [key.token_grant]), (Role.USER, [])):
            membership.role = role
            membership.save()
            assert grants.revoked(timezone.now()) == refused
        membership.delete()
        assert grants.revoked(timezone.now()) == [key.token_grant]

    def test_it_goes_with_its_person(self, editor_actor: Actor) -> None:
        key, _text = services.create_api_key(editor_actor, "laptop")
        assert editor_actor.user is not None
        editor_actor.user.delete()
        assert key.token_grant in grants.revoked(timezone.now())


class TestActivity:
    def of(self, account: ServiceAccount, **fields: Any) -> tuple[datetime | None, bool]:
        ServiceAccount.objects.filter(pk=account.pk).update(**fields)
        found = activity(ServiceAccount.objects.all(), NOW)[account.id]
        return found.last_used_at, found.unused

    def test_unused_for_90_days(self, account: ServiceAccount) -> None:
        day = timedelta(days=1)
        assert self.of(account, created_at=NOW - 89 * day) == (None, False)
        assert self.of(account, created_at=NOW - 90 * day) == (None, True)
        assert self.of(account, last_used_at=NOW - 91 * day) == (NOW - 91 * day, True)
        assert self.of(account, last_used_at=NOW - 89 * day) == (NOW - 89 * day, False)

    def test_a_call_counts_as_use(self, account: ServiceAccount) -> None:
        long_ago = NOW - timedelta(days=200)
        LastUse.objects.create(subject=account.id, endpoint_id="me-1", at=NOW - timedelta(days=3))
        LastUse.objects.create(subject=account.id, endpoint_id="me-2", at=NOW - timedelta(days=9))
        used = self.of(account, created_at=long_ago, last_used_at=long_ago)
        assert used == (NOW - timedelta(days=3), False)


class TestRotation:
    LIFE = timedelta(minutes=30)

    def secret(self, made: float, used: float | None = None, ends: float | None = None) -> Secret:
        """Minutes before NOW."""

        def at(minutes: float | None) -> datetime | None:
            return None if minutes is None else NOW - timedelta(minutes=minutes)

        return Secret(
            hint=f"{made:g}",
            created_at=NOW - timedelta(minutes=made),
            last_used_at=at(used),
            expires_at=at(ends),
        )

    def step(self, *secrets: Secret) -> int:
        found = rotation.rotation(secrets, NOW, self.LIFE)
        assert (found.older is None) is (found.step == rotation.ADD)
        return found.step

    def test_steps(self) -> None:
        assert self.step() == rotation.ADD
        assert self.step(self.secret(900, 5)) == rotation.ADD
        assert self.step(self.secret(900, 5), self.secret(1)) == rotation.MOVE
        assert self.step(self.secret(900, 5), self.secret(60, 3)) == rotation.MOVE
        assert self.step(self.secret(900, 31), self.secret(60, 3)) == rotation.DELETE

    def test_who_never_used_the_new_one_has_not_moved(self) -> None:
        assert self.step(self.secret(900, 500), self.secret(60)) == rotation.MOVE

    def test_a_token_may_still_be_good(self) -> None:
        assert self.step(self.secret(900, 500), self.secret(29, 20)) == rotation.MOVE

    def test_an_expired_one_is_moved_from(self) -> None:
        assert self.step(self.secret(900, 5, ends=1), self.secret(2)) == rotation.DELETE

    def test_the_older_one_goes(self) -> None:
        young, old = self.secret(60, 3), self.secret(900, 31)
        found = rotation.rotation([young, old], NOW, self.LIFE)
        assert (found.older, found.newer) == (old, young)
