""" "Can it call this endpoint?" held against what the real gateway answers, for every caller and every endpoint."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings
from django.utils import timezone

from endpoints import gateway_feed
from endpoints.directory import Directory
from endpoints.models import Endpoint, Replica, ReplicaState
from iam import decisions, services
from iam.actors import Actor
from iam.decisions import Caller, Rule
from iam.directory import EndpointFacts
from iam.models import ApiKey, Membership, ServiceAccount, User
from iam.oauth import tokens
from iam.oauth.validator import client_for
from iam.roles import Role
from iam.selectors import roles_of
from tests.conftest import actor_of, make_member
from tests.support_endpoints import load_data, new_endpoint, ready_model
from tests.support_gateway import World

pytestmark = pytest.mark.django_db

# caller → endpoint → the rule that decides, in the order of ENDPOINTS
ENDPOINTS = ("mine", "second", "open", "foreign", "unknown")
FOREIGN, GONE = Rule.OTHER_PROJECT, Rule.UNKNOWN_ENDPOINT
OPEN = Rule.PUBLIC_ENDPOINT
TABLE: dict[str, tuple[Rule, ...]] = {
    "user": (Rule.ROLE, Rule.ROLE, OPEN, FOREIGN, GONE),
    "admin": (Rule.ROLE, Rule.ROLE, OPEN, FOREIGN, GONE),
    "viewer": (Rule.ROLE_MISSING, Rule.ROLE_MISSING, OPEN, FOREIGN, GONE),
    "narrowed": (Rule.NAMED, Rule.NARROWED, OPEN, FOREIGN, GONE),
    "narrowed viewer": (Rule.ROLE_MISSING, Rule.ROLE_MISSING, OPEN, FOREIGN, GONE),
    "widened": (Rule.ROLE, Rule.ROLE, OPEN, FOREIGN, GONE),
    "disabled": (Rule.DISABLED, Rule.DISABLED, OPEN, Rule.DISABLED, Rule.DISABLED),
    "enabled again": (Rule.ROLE, Rule.ROLE, OPEN, FOREIGN, GONE),
    "expired": (Rule.EXPIRED, Rule.EXPIRED, OPEN, Rule.EXPIRED, Rule.EXPIRED),
    "deleted": (Rule.DELETED, Rule.DELETED, OPEN, Rule.DELETED, Rule.DELETED),
    "key": (Rule.ROLE, Rule.ROLE, OPEN, FOREIGN, GONE),
    "narrowed key": (Rule.NAMED, Rule.NARROWED, OPEN, FOREIGN, GONE),
    "key of a viewer": (Rule.BLOCKED, Rule.BLOCKED, OPEN, Rule.BLOCKED, Rule.BLOCKED),
    "deleted key": (Rule.DELETED, Rule.DELETED, OPEN, Rule.DELETED, Rule.DELETED),
}


class Callers:
    """Who calls: what is stored of them, and the token that they have."""

    def __init__(self, actor: Actor, mine: Endpoint) -> None:
        self.actor = actor
        self.mine = mine
        self.tokens: dict[str, str] = {}
        self.found: dict[str, Caller | None] = {}
        self._accounts()
        self._keys()

    def _accounts(self) -> None:
        only = [self.mine.id]
        for name, role, ids in (
            ("user", Role.USER, None),
            ("admin", Role.ADMIN, None),
            ("viewer", Role.VIEWER, None),
            ("narrowed", Role.USER, only),
            ("narrowed viewer", Role.VIEWER, only),
            ("widened", Role.USER, only),
            ("disabled", Role.USER, None),
            ("enabled again", Role.USER, None),
            ("expired", Role.USER, None),
            ("deleted", Role.USER, None),
        ):
            account, _secret = services.create_service_account(self.actor, name, [role], endpoint_ids=ids)
            self.tokens[name] = tokens.issue(client_for(account))
        services.disable_service_account(self.actor, self.account("disabled"))
        again = self.account("enabled again")
        services.disable_service_account(self.actor, again)
        services.enable_service_account(self.actor, again)
        self.tokens["enabled again"] = tokens.issue(client_for(again))
        widened = services.update_service_account(self.actor, self.account("widened"), endpoint_ids=None)
        self.tokens["widened"] = tokens.issue(client_for(widened))
        ServiceAccount.objects.filter(name="expired").update(expires_at=timezone.now())
        assert services.expire_service_accounts(timezone.now()) == 1
        services.delete_service_account(self.actor, self.account("deleted"))
        for account in ServiceAccount.objects.all():
            self.found[account.name] = decisions.of_account(account)
        self.found["deleted"] = None

    def _keys(self) -> None:
        ids = [self.mine.id]
        person = make_member(self.actor.project, "person@example.org", Role.USER)
        leaving = make_member(self.actor.project, "leaving@example.org", Role.USER)
        for name, user, only in (
            ("key", person, None),
            ("narrowed key", person, ids),
            ("key of a viewer", leaving, None),
            ("deleted key", leaving, None),
        ):
            _key, text = services.create_api_key(actor_of(user), name, endpoint_ids=only)
            self.tokens[name] = text
        services.delete_api_key(actor_of(leaving), ApiKey.objects.get(name="deleted key"))
        membership = Membership.objects.get(user=leaving)
        membership.role = Role.VIEWER
        membership.save()
        for key in ApiKey.objects.all():
            self.found[key.name] = decisions.of_key(key, roles_of(key))
        self.found["deleted key"] = None

    def account(self, name: str) -> ServiceAccount:
        return ServiceAccount.objects.get(name=name)


@pytest.fixture
def world() -> Iterator[World]:
    """A gateway of this test's own."""
    running = World()
    yield running
    running.close()


def serving(endpoint: Endpoint, replica: Any) -> None:
    assert endpoint.revision is not None
    Replica.objects.create(
        endpoint=endpoint,
        revision=endpoint.revision,
        slot=1,
        name=f"r-{endpoint.id}",
        state=ReplicaState.READY,
        host="127.0.0.1",
        port=replica.target().port,
    )


def facts_of(endpoint: Endpoint) -> EndpointFacts:
    return Directory().find(endpoint.project_id, [endpoint.id])[endpoint.id]


@pytest.mark.timeout(60)
def test_the_gateway_decides_the_same(world: World, owner_actor: Actor, outsider: User) -> None:
    load_data()
    replica = world.replica()
    model = ready_model(owner_actor.project)
    endpoints = {
        "mine": new_endpoint(owner_actor, model, name="mine"),
        "second": new_endpoint(owner_actor, model, name="second"),
        "open": new_endpoint(owner_actor, model, name="open", private=False),
        "foreign": new_endpoint(actor_of(outsider), name="foreign"),
    }
    for item in endpoints.values():
        serving(item, replica)
    callers = Callers(owner_actor, endpoints["mine"])
    facts: dict[str, EndpointFacts | None] = {name: facts_of(item) for name, item in endpoints.items()}
    facts["unknown"] = None
    told = gateway_feed.targets()
    world.gateway.ready()
    world.gateway.publish(*told.endpoints, tokens=told.tokens, revoked=told.revoked, callers=told.callers)
    paths = {name: f"/v1/{item.id}/v1/models" for name, item in endpoints.items()}
    paths["unknown"] = "/v1/me-00000000-0000-0000-0000-000000000000/v1/models"

    wrong = []
    for name, rules in TABLE.items():
        for where, rule in zip(ENDPOINTS, rules, strict=True):
            decision = decisions.decide(callers.found[name], facts[where], timezone.now())
            answer = world.gateway.get(paths[where], callers.tokens[name])
            seen = (decision.rule, decision.status, decision.allowed)
            if seen != (rule, answer.status, answer.status == 200):
                wrong.append((name, where, seen, rule, answer.status))
    assert wrong == []
    assert len(TABLE) * len(ENDPOINTS) == 70


def test_no_token_outlives_its_account(owner_actor: Actor) -> None:
    soon = timezone.now() + timedelta(seconds=100)
    account, _secret = services.create_service_account(owner_actor, "a", [Role.USER], expires_at=soon)
    claims = tokens.verify(tokens.issue(client_for(account)))
    assert int(soon.timestamp()) - 1 <= claims["exp"] <= int(soon.timestamp())
    forever, _secret = services.create_service_account(owner_actor, "b", [Role.USER])
    left = tokens.verify(tokens.issue(client_for(forever)))["exp"] - time.time()
    assert settings.BERTH_TOKEN_LIFETIME_S - 5 < left <= settings.BERTH_TOKEN_LIFETIME_S
