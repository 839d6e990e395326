"""No change without its record: every way of the API that changes something, and every service that acts for somebody.

A route that is not in the tables here fails: whoever adds one says how it is called, or why it changes nothing.
"""

from __future__ import annotations

import ast
import io
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.test import Client
from django.utils import timezone

from config.api_urls import router
from endpoints import services as endpoint_services
from endpoints.events import SENTENCES as EVENTS
from endpoints.models import Endpoint
from iam import audit_words, invitations, membership, services
from iam.actors import Actor
from iam.models import ApiKey, AuditEvent, Membership, User
from iam.roles import Role
from registry.models import ModelStatus
from tests.support_endpoints import load_data, new_endpoint, ready_model, spec_for

ROOT = Path(__file__).resolve().parents[2]
Asked = tuple[str, dict[str, Any]]


class World:
    """Rows to act on, made when they are asked for."""

    def __init__(self, actor: Actor) -> None:
        self.actor = actor

    def account(self) -> tuple[str, int]:
        """(its id, its secret's)."""
        made = services.create_service_account(self.actor, "ci", [Role.USER])[0]
        return made.id, made.secrets.get().pk

    def key(self) -> ApiKey:
        return services.create_api_key(self.actor, "laptop")[0]

    def person(self) -> User:
        return User.objects.create_user("new@example.org")

    def member(self) -> Membership:
        return membership.add_member(self.actor, self.person(), Role.USER)

    def endpoint(self) -> Endpoint:
        return new_endpoint(self.actor)

    def model(self, **fields: Any) -> str:
        return str(ready_model(self.actor.project, **fields).pk)

    def changed_endpoint(self) -> Endpoint:
        endpoint = self.endpoint()
        changes = {"settings": {"max_context": 512}}
        return endpoint_services.update_endpoint(actor=self.actor, endpoint=endpoint, changes=changes)

    def failed_endpoint(self) -> Endpoint:
        endpoint = self.endpoint()
        Endpoint.objects.filter(pk=endpoint.pk).update(reason_code="model_file_missing")
        return endpoint

    def disabled(self) -> str:
        account = services.create_service_account(self.actor, "ci", [Role.USER])[0]
        services.disable_service_account(self.actor, account)
        return account.id

    def to_create(self) -> dict[str, Any]:
        spec = spec_for(ready_model(self.actor.project))
        return {
            "name": spec.name,
            "region": spec.region,
            "model": spec.model_id,
            "instance_type": spec.instance_type,
            "min_replicas": 1,
            "max_replicas": 1,
        }


_IMPORT = {"name": "x", "framework": "llama-cpp", "source": "huggingface", "repo_id": "a/b"}
_INVITE = {"role": Role.USER, "email": "guest@example.org"}

# (method, route) → what to send where
CALLS: dict[tuple[str, str], Callable[[World], Asked]] = {
    ("post", "service-accounts/"): lambda w: ("", {"name": "ci", "roles": [Role.USER]}),
    ("patch", "service-accounts/{pk}/"): lambda w: (f"{w.account()[0]}/", {"requests_per_minute": 5}),
    ("delete", "service-accounts/{pk}/"): lambda w: (f"{w.account()[0]}/", {}),
    ("post", "service-accounts/{pk}/disable/"): lambda w: (f"{w.account()[0]}/disable/", {}),
    ("post", "service-accounts/{pk}/enable/"): lambda w: (f"{w.disabled()}/enable/", {}),
    ("post", "service-accounts/{pk}/secrets/"): lambda w: (f"{w.account()[0]}/secrets/", {}),
    ("delete", "service-accounts/{pk}/secrets/{secret_id}/"): lambda w: (
        "{}/secrets/{}/".format(*w.account()),
        {},
    ),
    ("post", "api-keys/"): lambda w: ("", {"name": "laptop"}),
    ("delete", "api-keys/{pk}/"): lambda w: (f"{w.key().id}/", {}),
    ("post", "members/"): lambda w: ("", {"email": w.person().email, "role": Role.USER}),
    ("patch", "members/{pk}/"): lambda w: (f"{w.member().pk}/", {"role": Role.VIEWER}),
    ("delete", "members/{pk}/"): lambda w: (f"{w.member().pk}/", {}),
    ("post", "invitations/"): lambda w: ("", _INVITE),
    ("delete", "invitations/{pk}/"): lambda w: (
        f"{invitations.create(w.actor, Role.USER, timezone.now() - timedelta(hours=1)).invitation.pk}/",
        {},
    ),
    ("post", "models/"): lambda w: ("", _IMPORT),
    ("patch", "models/{pk}/"): lambda w: (f"{w.model()}/", {"name": "other"}),
    ("delete", "models/{pk}/"): lambda w: (f"{w.model()}/", {}),
    ("post", "models/{pk}/retry/"): lambda w: (f"{w.model(status=ModelStatus.FAILED)}/retry/", {}),
    ("post", "endpoints/"): lambda w: ("", w.to_create()),
    ("patch", "endpoints/{pk}/"): lambda w: (f"{w.endpoint().pk}/", {"max_replicas": 3}),
    ("delete", "endpoints/{pk}/"): lambda w: (f"{w.endpoint().pk}/", {}),
    ("post", "endpoints/{pk}/fix/"): lambda w: (f"{w.failed_endpoint().pk}/fix/", {"fix": "reimport"}),
    ("post", "endpoints/{pk}/pause/"): lambda w: (f"{w.endpoint().pk}/pause/", {}),
    ("post", "endpoints/{pk}/restart/"): lambda w: (f"{w.endpoint().pk}/restart/", {}),
    ("post", "endpoints/{pk}/resume/"): lambda w: (f"{w.endpoint().pk}/resume/", {}),
    ("post", "endpoints/{pk}/rollback/"): lambda w: (f"{w.changed_endpoint().pk}/rollback/", {"revision": 1}),
}
# Routes that change nothing, and why they are no GET.
HARMLESS = {("post", "endpoints/{pk}/dry-run/"): "asks what thresholds would have done"}


def routes() -> list[tuple[str, str]]:
    """Every (method, route) of the API that could change something."""
    found = []
    for pattern in router.urls:
        route = str(pattern.pattern).removeprefix("^").removesuffix("$")
        for name in ("pk", "secret_id"):
            head, mark, tail = route.partition(f"(?P<{name}>")
            route = f"{head}{{{name}}}{tail[tail.index(')') + 1 :]}" if mark else route
        methods = getattr(pattern.callback, "actions", {})
        found += [(method, route) for method in ("post", "put", "patch", "delete") if method in methods]
    return found


def test_every_route_is_known() -> None:
    assert set(routes()) == CALLS.keys() | HARMLESS.keys()


@pytest.mark.django_db
@pytest.mark.parametrize("route", CALLS, ids=lambda route: f"{route[0]} {route[1]}")
def test_every_route_is_on_record(route: tuple[str, str], owner_actor: Actor, owner_client: Client) -> None:
    load_data()
    path, body = CALLS[route](World(owner_actor))
    base = "/api/v1/" + route[1].partition("/")[0] + "/"
    known = set(AuditEvent.objects.values_list("pk", flat=True))
    answer = getattr(owner_client, route[0])(base + path, body, content_type="application/json")
    assert answer.status_code < 300, answer.content
    [event, *_others] = AuditEvent.objects.exclude(pk__in=known)
    assert (event.actor_name, event.project_id) == ("owner@example.org", owner_actor.project.id)
    assert event.request_id == answer["X-Request-Id"]
    assert event.target_name or event.target_id
    assert event.action in audit_words.SENTENCES
    assert event.target_kind in audit_words.KINDS
    if route[0] == "patch":
        assert event.before.keys() == event.after.keys() != set()


@pytest.mark.django_db
def test_djangos_own_commands_are_on_record(owner: User, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever makes themselves an admin at the machine, or a password for somebody, leaves a trace."""
    monkeypatch.setattr("getpass.getpass", lambda *_, **__: "an ordinary wombat 71")
    call_command("createsuperuser", "--noinput", "--email", "root@example.org", stdout=io.StringIO())
    call_command("changepassword", owner.email, stdout=io.StringIO())
    told = AuditEvent.objects.order_by("pk").values_list("action", "actor_kind", "actor_name", "target_name")
    assert list(told) == [
        ("user.create", "command", "manage.py createsuperuser", "root@example.org"),
        ("password.reset", "command", "manage.py changepassword", owner.email),
    ]


# Modules whose functions change something for an actor or a person; those that only read or check, and why.
SERVICES = (
    *("endpoints/services.py", "endpoints/fixes.py", "registry/services.py", "iam/membership.py"),
    *(
        "iam/projects.py",
        "iam/invitations.py",
        *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "iam/services").glob("*.py")),
    ),
)
READING = {"iam/invitations.py": {"open_ones"}}
ACTING = {"actor", "user", "person"}
# Services of other modules that leave the record for their caller.
RECORDING = {"record", "update_endpoint", "retry_endpoint", "rollback_endpoint", "reimport_model"}


def _called(function: ast.FunctionDef) -> set[str]:
    calls = [node.func for node in ast.walk(function) if isinstance(node, ast.Call)]
    return {call.attr if isinstance(call, ast.Attribute) else getattr(call, "id", "") for call in calls}


def _silent(source: str) -> set[str]:
    """Public functions that act for somebody, change something and never come to `record`."""
    functions = {node.name: node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}
    recording = set(RECORDING)
    while True:
        more = {name for name, node in functions.items() if not recording.isdisjoint(_called(node))}
        if more <= recording:
            break
        recording |= more
    changing = {"atomic", "save", "create", "delete", "update"}
    return {
        name
        for name, node in functions.items()
        if not name.startswith("_") and name not in recording
        if ACTING & {argument.arg for argument in (*node.args.args, *node.args.kwonlyargs)}
        if not changing.isdisjoint(_called(node))
    }


@pytest.mark.parametrize("module", SERVICES)
def test_every_service_records(module: str) -> None:
    assert _silent((ROOT / module).read_text()) <= READING.get(module, set())


def test_a_silent_service_is_found() -> None:
    source = (
        "def loud(actor, row):\n    row.save()\n    _told(row)\n"
        "def _told(row):\n    audit.record(row)\n"
        "def silent(actor, row):\n    row.save()\n"
    )
    assert _silent(source) == {"silent"}


def _recorded(source: str) -> set[str]:
    """The literal second argument of every call of `record`."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or len(node.args) < 2:
            continue
        name, action = getattr(node.func, "attr", getattr(node.func, "id", "")), node.args[1]
        if name == "record" and isinstance(action, ast.Constant):
            found.add(str(action.value))
    return found


def test_every_action_in_the_code_has_words() -> None:
    sources = (
        path.read_text() for app in ("endpoints", "iam", "registry") for path in (ROOT / app).rglob("*.py")
    )
    actions: set[str] = set().union(*(_recorded(source) for source in sources if "record(" in source))
    assert actions - EVENTS.keys() - audit_words.SENTENCES.keys() == set()
    assert len(actions) > 20
