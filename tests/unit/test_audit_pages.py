"""No change without its record, on pages: every address of console and sign-in that changes something, posted to.

The addresses come from the URL table. One that is in none of the tables here fails: whoever adds one says what of it is
recorded, or why there is nothing to record. (The API's calls are in test_audit_complete, Django's admin in test_admin.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from allauth.mfa.models import Authenticator
from allauth.usersessions.models import UserSession
from django.test import Client
from django.utils import timezone

from endpoints.models import Endpoint, Event
from iam import audit_words, invitations
from iam.models import AuditEvent, ServiceAccount
from iam.roles import Role
from registry.models import ModelStatus
from tests.conftest import PASSWORD, signed_in
from tests.support_endpoints import load_data
from tests.support_tenancy import LEFT_OUT, whole_table
from tests.unit.test_audit_complete import World

pytestmark = [pytest.mark.django_db, pytest.mark.one_database]

ONE = "/inference/{endpoint_id}/"
FORM = {"min_replicas": "1", "max_replicas": "3", "region": "HCM", "private": "on", "name": "embed-01"}
Asked = tuple[dict[str, str], dict[str, Any]]


def account(w: World) -> Asked:
    return {"account_id": w.account()[0]}, {}


def endpoint(**body: Any) -> Callable[[World], Asked]:
    return lambda w: ({"endpoint_id": w.endpoint().pk}, body)


def paused(w: World) -> Asked:
    made = w.endpoint()
    Endpoint.objects.filter(pk=made.pk).update(paused_at=timezone.now())
    return {"endpoint_id": made.pk}, {}


def updated_in_vain(w: World) -> Asked:
    """An endpoint whose update failed: the revision before serves on."""
    made = w.endpoint()
    Endpoint.objects.filter(pk=made.pk).update(failed_update={"revision": 2})
    return {"endpoint_id": made.pk}, {}


def settings_form(w: World) -> Asked:
    made = w.endpoint()
    assert made.revision is not None
    chosen = {"model_id": str(made.revision.model_id), "instance_type": made.revision.instance_type_id}
    return {"endpoint_id": made.pk}, FORM | chosen


def create_form(w: World) -> Asked:
    return {}, FORM | {"model_id": w.model(), "instance_type": "local-cpu"}


def invitation(w: World) -> invitations.NewInvitation:
    return invitations.create(w.actor, Role.USER, timezone.now())


def passkey(w: World) -> Asked:
    assert w.actor.user is not None
    made = Authenticator.objects.create(user=w.actor.user, type="webauthn", data={"name": "phone"})
    return {"pk": str(made.pk)}, {"name": "key ring"}


def session(w: World) -> Asked:
    assert w.actor.user is not None
    signed_in(w.actor.user).get("/inference/")
    return {"session_id": str(UserSession.objects.exclude(session_key="").latest("pk").pk)}, {}


NEW_PASSWORD = {
    "oldpassword": PASSWORD,
    "password1": "an ordinary wombat 71",
    "password2": "an ordinary wombat 71",
}
# address → the action on record, and what to send where
POSTS: dict[str, tuple[str, Callable[[World], Asked]]] = {
    "/iam/service-accounts/create/": (
        "service_account.create",
        lambda w: ({}, {"name": "ci", "roles": [Role.USER], "scope": "all"}),
    ),
    "/iam/service-accounts/{account_id}/": (
        "service_account.update",
        lambda w: (account(w)[0], {"name": "other", "roles": [Role.USER], "scope": "all"}),
    ),
    "/iam/service-accounts/{account_id}/secrets/": ("secret.create", account),
    "/iam/service-accounts/{account_id}/secrets/{secret_id}/delete/": (
        "secret.delete",
        lambda w: (dict(zip(("account_id", "secret_id"), map(str, w.account()), strict=True)), {}),
    ),
    "/iam/service-accounts/{account_id}/disable/": ("service_account.disable", account),
    "/iam/service-accounts/{account_id}/enable/": (
        "service_account.enable",
        lambda w: ({"account_id": w.disabled()}, {}),
    ),
    "/iam/service-accounts/{account_id}/delete/": (
        "service_account.delete",
        lambda w: (account(w)[0], {"confirm": ServiceAccount.objects.latest("created_at").name}),
    ),
    "/iam/api-keys/create/": ("api_key.create", lambda w: ({}, {"name": "k", "days": "30", "scope": "all"})),
    "/iam/api-keys/{key_id}/delete/": (
        "api_key.delete",
        lambda w: ({"key_id": w.key().id}, {"confirm": "laptop"}),
    ),
    "/iam/project/rename/": ("project.rename", lambda w: ({}, {"name": "Gamma"})),
    "/iam/project/delete/": ("project.delete", lambda w: ({}, {"confirm": w.actor.project.name})),
    "/iam/project/create/": ("project.create", lambda w: ({}, {"name": "Gamma"})),
    "/iam/members/invite/": ("member.add", lambda w: ({}, {"email": w.person().email, "role": Role.USER})),
    "/iam/members/{member_id}/role/": (
        "member.role",
        lambda w: ({"member_id": str(w.member().pk)}, {"role": Role.VIEWER}),
    ),
    "/iam/members/{member_id}/remove/": ("member.remove", lambda w: ({"member_id": str(w.member().pk)}, {})),
    "/iam/invitations/{invitation_id}/withdraw/": (
        "invitation.withdraw",
        lambda w: ({"invitation_id": str(invitation(w).invitation.pk)}, {}),
    ),
    "/audit/export.{form}": ("audit.export", lambda w: ({"form": "csv"}, {})),
    "/registry/import/": (
        "model.import",
        lambda w: ({}, {"name": "m", "source": "image", "image": "team/server:1", "port": "80"}),
    ),
    "/registry/{model_id}/retry/": (
        "model.retry_import",
        lambda w: ({"model_id": w.model(status=ModelStatus.FAILED)}, {}),
    ),
    "/registry/{model_id}/credentials/": (
        "model.change",
        lambda w: ({"model_id": w.model()}, {"registry_username": "u", "registry_password": "p"}),
    ),
    "/registry/{model_id}/delete/": ("model.delete", lambda w: ({"model_id": w.model()}, {})),
    "/inference/bulk/pause/": ("endpoint.pause", lambda w: ({}, {"endpoint": [w.endpoint().pk]})),
    "/inference/bulk/resume/": ("endpoint.resume", lambda w: ({}, {"endpoint": [*paused(w)[0].values()]})),
    "/inference/bulk/delete/": ("endpoint.delete", lambda w: ({}, {"endpoint": [w.endpoint().pk]})),
    "/inference/create/": ("endpoint.create", create_form),
    ONE + "settings/": ("endpoint.change", settings_form),
    ONE + "do/rollback/": (
        "endpoint.rollback",
        lambda w: ({"endpoint_id": w.changed_endpoint().pk}, {"revision": "1"}),
    ),
    ONE + "do/restart/": ("endpoint.restart", endpoint()),
    ONE + "do/fix/": (
        "model.reimport",
        lambda w: ({"endpoint_id": w.failed_endpoint().pk}, {"fix": "reimport"}),
    ),
    ONE + "do/pause/": ("endpoint.pause", endpoint()),
    ONE + "do/resume/": ("endpoint.resume", paused),
    ONE + "do/retry/": ("endpoint.retry", endpoint()),
    ONE + "do/keep/": ("endpoint.keep_revision", updated_in_vain),
    ONE + "do/delete/": ("endpoint.delete", endpoint()),
    "/accounts/logout/": ("session.sign_out", lambda w: ({}, {})),
    "/accounts/password/change/": ("password.change", lambda w: ({}, NEW_PASSWORD)),
    "/accounts/passkeys/{pk}/rename/": ("mfa.change", passkey),
    "/accounts/passkeys/{pk}/remove/": ("mfa.remove", passkey),
    "/accounts/sessions/end/": ("session.end", lambda w: ({}, session(w)[1])),
    "/accounts/sessions/end-all/": ("session.end", lambda w: ({}, session(w)[1])),
    "/accounts/sessions/{session_id}/end/": ("session.end", session),
}
# Tried where their devices, codes and providers are: test_sign_in, test_sso, test_iam_people.
ELSEWHERE = {
    "/accounts/login/": "session.sign_in",
    "/accounts/password/set/": "password.set",
    "/accounts/two-step/authenticate/": "session.sign_in",
    "/accounts/two-step/recovery-codes/new/": "mfa.reset",
    "/accounts/two-step/app/": "mfa.add",
    "/accounts/two-step/app/remove/": "mfa.remove",
    "/accounts/passkeys/add/": "mfa.add",
    "/accounts/passkeys/sign-in/": "session.sign_in",
    "/accounts/sso/callback/": "sso.link",
    "/invitation/accept/": "invitation.accept",
    "/invitation/sign-up/": "user.sign_up",
}
# They show something, or change no more than this browser's own session.
NOTHING = {
    *("/accounts/signup/", "/accounts/inactive/", "/accounts/confirm/", "/accounts/password/reset/"),
    *("/accounts/security/", "/accounts/email/", "/accounts/two-step/", "/accounts/two-step/confirm/"),
    *("/accounts/two-step/recovery-codes/", "/accounts/passkeys/", "/accounts/passkeys/confirm/"),
    *("/accounts/sessions/", "/accounts/sso/", "/accounts/sso/error/", "/accounts/sso/cancelled/"),
    *("/accounts/sso/signup/", "/accounts/sso/connections/", "/iam/service-accounts/", "/iam/api-keys/"),
    *("/iam/api-keys/{key_id}/", "/iam/project/", "/iam/members/", "/invitation/", "/audit/", "/registry/"),
    *("/registry/{model_id}/", "/registry/{model_id}/state/", "/", "/console/project/", "/console/region/"),
    *("/console/language/", "/administration/machines/", "/usage/", "/usage/usage.csv", "/inference/", ONE),
    *("/inference/create/models/", "/inference/create/instance-types/", "/api/schema/", "/api/docs/"),
    *(f"{ONE}{tab}/" for tab in ("use", "logs", "metrics", "events", "scaling", "revisions")),
    *(ONE + "settings/changes/", ONE + "settings/dry-run/"),
}


def addresses() -> set[str]:
    """Those of the table, each verb of its own."""
    found = set()
    for template, _pattern in whole_table():
        if template.lstrip("/").startswith((*LEFT_OUT, "api/v1/")):
            continue
        head, mark, rest = template.partition("{verb|")
        verbs, _brace, tail = rest.partition("}")
        found |= {f"{head}{verb}{tail}" for verb in verbs.split("|")} if mark else {template}
    return found


def test_every_address_is_known() -> None:
    assert addresses() == POSTS.keys() | ELSEWHERE.keys() | NOTHING
    assert {action for action, _ in POSTS.values()} | {*ELSEWHERE.values()} <= audit_words.SENTENCES.keys()


@pytest.fixture
def browser(owner_actor: Any) -> Client:
    """Of an admin of the project and of the platform, who has just confirmed who they are."""
    owner = owner_actor.user
    owner.is_staff = True
    owner.save()
    client = Client()
    client.post("/accounts/login/", {"login": owner.email, "password": PASSWORD})
    client.post("/accounts/confirm/", {"password": PASSWORD})
    return client


@pytest.mark.parametrize("address", POSTS)
def test_every_change_is_on_record(address: str, owner_actor: Any, browser: Client) -> None:
    if "/accounts/" not in address and "/iam/" not in address:
        load_data()
    action, ask = POSTS[address]
    names, body = ask(World(owner_actor))
    known = set(AuditEvent.objects.values_list("pk", flat=True))
    answer = browser.post(address.format(**names), body)
    assert answer.status_code in (200, 302), answer.content[:2000]
    told = AuditEvent.objects.exclude(pk__in=known)
    assert action in {event.action for event in told}, (answer.status_code, answer.content[-1500:])
    assert {event.request_id for event in told} == {answer["X-Request-Id"]}
    assert {event.actor_name for event in told} == {"owner@example.org"}
    assert Event.objects.filter(kind__startswith="endpoint.").exists() or "endpoint." not in action
