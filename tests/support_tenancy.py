"""Every address of the console, the API and the sockets, with the objects that stand in it, and two projects full of
objects. What is found here is found in the URL table: a new route is covered by itself, or fails until somebody says
what object its argument names (`OBJECTS`, `ROWS`, `CHOICES`)."""

from __future__ import annotations

import itertools
import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.apps import apps
from django.db.models import Model
from django.urls import get_resolver, resolve
from django.urls.resolvers import RoutePattern, URLPattern, URLResolver
from django.utils import timezone

from config.routing import websocket_urlpatterns
from endpoints.models import Decision, Endpoint, Event, LastUse, Replica, ReplicaState, ReplicaTime, Usage
from iam import invitations, services
from iam.actors import Actor
from iam.models import ApiKey, AuditEvent, Invitation, Membership, ServiceAccount, User
from iam.oauth import tokens
from iam.oauth.validator import client_for
from iam.roles import Role
from registry.models import RegisteredModel
from tests.conftest import actor_of, make_member
from tests.support_endpoints import new_endpoint, ready_model

# Not walked: Django's own admin is for the platform's staff, whatever the project; the rest knows no projects.
LEFT_OUT = ("admin/", "internal/", "accounts-api/", ".well-known/", "healthz", "readyz", "metrics")

# The argument of an address → what of a world it names.
OBJECTS = {
    "endpoint_id": "endpoint",
    "model_id": "model",
    "account_id": "account",
    "secret_id": "secret",
    "key_id": "key",
    "member_id": "member",
    "invitation_id": "invitation",
    "session_id": "session",
}
# `pk` of a resource of the API, by the model of its rows; `pk` elsewhere by the address's name.
ROWS: dict[type[Model], str] = {
    Endpoint: "endpoint",
    RegisteredModel: "model",
    ServiceAccount: "account",
    ApiKey: "key",
    Membership: "member",
    Invitation: "invitation",
    AuditEvent: "audit_event",
}
PK_OF = {"mfa_edit_webauthn": "passkey", "mfa_remove_webauthn": "passkey"}
# Arguments that name no object, each with the values to try.
CHOICES = {"form": ("csv", "json")}

# Addresses of the console that take a POST and nothing else.
POSTS_ONLY = frozenset(
    {"act", "rollback", "restart", "fix", "bulk", "retry", "delete", "dry_run", "changes", "credentials"}
)

# Parameters of queries that name an object; all others of the schema are in NO_OBJECT, or the test fails.
FILTERS = {
    **{"endpoint": "endpoint", "endpoint_id": "endpoint", "target": "endpoint", "target_id": "endpoint"},
    **{"model": "model", "model_id": "model", "from_model": "model"},
    **{"replica": "replica", "revision": "revision"},
    **{"account": "account", "subject": "account", "actor": "account", "key": "key", "api_key": "key"},
    **{"user": "user", "member": "member", "caller": "account"},
}
NO_OBJECT = frozenset(
    {
        "cursor",
        "page_size",
        "ordering",
        "search",
        "text",
        "status",
        "region",
        "source",
        "task",
        "framework",
        "kind",
    }
    | {
        "from",
        "to",
        "since",
        "until",
        "before",
        "step",
        "range",
        "tail",
        "follow",
        "download",
        "format",
        "group_by",
    }
    | {"by", "action", "request_id", "address", "target_kind", "actor_kind", "metric", "days", "at"}
)


@dataclass(frozen=True)
class World:
    """A project and one object of each kind in it; all names begin with `mark`."""

    mark: str
    owner: User
    actor: Actor
    ids: Mapping[str, str]
    token: str
    key_text: str

    @property
    def project_id(self) -> str:
        """Of all these objects."""
        return self.actor.project.id

    def shown_in(self, content: bytes, asked: str = "") -> list[str]:
        """What of this world can be read there: its mark, and ids that were not in the question itself."""
        text = content.decode("utf-8", "replace").lower()
        unmistakable = [found for found in (*self.ids.values(), self.project_id) if len(found) > 8]
        return [word for word in (self.mark, *unmistakable) if word.lower() in text and word not in asked]


def world(mark: str) -> World:
    """A project with everything in it. Call `load_data` before."""
    from iam.models import Project

    project = Project.objects.create(name=f"{mark} project")
    owner = make_member(project, f"owner@{mark}.example", Role.ADMIN)
    actor = actor_of(owner)
    model = ready_model(project, f"{mark}-model")
    endpoint = new_endpoint(actor, model, name=f"{mark}-endpoint", max_replicas=2, cpu_percent=70)
    assert endpoint.revision is not None
    replica = Replica.objects.create(
        endpoint=endpoint,
        revision=endpoint.revision,
        slot=1,
        name=f"{mark}-replica",
        state=ReplicaState.FAILED,
    )
    Decision.objects.create(endpoint=endpoint, at=timezone.now(), rule="above", before=1, after=2)
    account, _secret = services.create_service_account(actor, f"{mark} account", [Role.ADMIN])
    key, key_text = services.create_api_key(actor, f"{mark} key")
    made = invitations.create(actor, Role.USER, timezone.now(), email=f"guest@{mark}.example")
    _used(project.id, endpoint, account)
    event = AuditEvent.objects.filter(project_id=project.id).order_by("id").first()
    assert event is not None
    assert Event.objects.filter(project=project).exists()
    ids = {
        "endpoint": endpoint.id,
        "model": str(model.pk),
        "replica": str(replica.pk),
        "replica_name": replica.name,
        "revision": str(endpoint.revision.pk),
        "account": account.id,
        "secret": str(account.secrets.get().pk),
        "key": key.id,
        "member": str(Membership.objects.get(project=project).pk),
        "user": str(owner.pk),
        "invitation": str(made.invitation.pk),
        "audit_event": str(event.pk),
        **_personal(owner),
    }
    return World(mark, owner, actor, ids, tokens.issue(client_for(account)), key_text)


def _used(project_id: str, endpoint: Endpoint, account: ServiceAccount) -> None:
    hour = timezone.now().replace(minute=0, second=0, microsecond=0) - timedelta(hours=1)
    row = {"hour": hour, "project_id": project_id, "endpoint_id": endpoint.id, "endpoint_name": endpoint.name}
    Usage.objects.create(
        **row, subject=account.id, subject_name=account.name, status=200, requests=7, prompt_tokens=70
    )
    ReplicaTime.objects.create(**row, instance_type="local-cpu", seconds=60)
    LastUse.objects.create(subject=account.id, endpoint_id=endpoint.id, address="192.0.2.7", at=hour)


def _personal(owner: User) -> dict[str, str]:
    """What belongs to a person and not to a project, of the apps that are installed."""
    found = {}
    if apps.is_installed("allauth.usersessions"):
        rows = apps.get_model("usersessions", "UserSession").objects
        session = rows.create(user=owner, ip="192.0.2.7", session_key=f"s{owner.pk}", user_agent="x")
        found["session"] = str(session.pk)
    if apps.is_installed("allauth.mfa"):
        rows = apps.get_model("mfa", "Authenticator").objects
        passkey = rows.create(user=owner, type="webauthn", data={"name": "mine", "credential": {}})
        found["passkey"] = str(passkey.pk)
    return found


@dataclass(frozen=True)
class Route:
    """One address of the table.

    template   with {argument}s
    arguments  argument → what of a world it names, "" for one that names no object
    """

    template: str
    arguments: Mapping[str, str]
    choices: Mapping[str, tuple[str, ...]]
    pattern: URLPattern

    @property
    def name(self) -> str:
        """Of the address in the table."""
        return self.pattern.name or self.template

    @property
    def is_api(self) -> bool:
        """Whether it belongs to the management API."""
        return self.template.startswith("/api/")

    @property
    def objects(self) -> tuple[str, ...]:
        """The arguments that name objects."""
        return tuple(name for name, kind in self.arguments.items() if kind)

    @property
    def reads(self) -> bool:
        """Whether GET shows something."""
        actions = getattr(self.pattern.callback, "actions", None)
        return "get" in actions if actions is not None else self.name not in POSTS_ONLY

    def methods(self) -> tuple[str, ...]:
        """Those it knows, as far as it says, and one that it should not."""
        actions = getattr(self.pattern.callback, "actions", None)
        return (*actions, "put") if actions else ("get", "post", "delete")

    def addresses(self, *worlds: World) -> Iterator[str]:
        """Its addresses with objects of the first of `worlds`: all of them, then some with the others' objects."""
        mixtures = itertools.product(*([w.ids for w in worlds] for _ in self.objects))
        for ids in mixtures:
            if ids and not any(found is worlds[0].ids for found in ids):
                continue
            chosen = {
                name: found[self.arguments[name]] for name, found in zip(self.objects, ids, strict=True)
            }
            yield from self._filled(chosen)

    def nowhere(self) -> str:
        """An address of the same shape whose objects don't exist."""
        unknown = {name: _unlike(self.template, name, self.arguments[name]) for name in self.objects}
        return next(self._filled(unknown))

    def _filled(self, chosen: Mapping[str, str]) -> Iterator[str]:
        for values in itertools.product(*self.choices.values()):
            address = self.template.format(**chosen, **dict(zip(self.choices, values, strict=True)))
            assert resolve(address).func is self.pattern.callback, f"{address} leads elsewhere"
            yield address


def _unlike(template: str, name: str, kind: str) -> str:
    if kind in ("endpoint", "account", "key"):
        return {"endpoint": "me", "account": "sa", "key": "key"}[kind] + f"-{uuid.uuid4()}"
    return str(uuid.uuid4()) if kind == "model" else "987654321"


def routes() -> list[Route]:
    """The whole table of the console and the API. Raises KeyError for an argument that nobody has explained."""
    return [
        _route(template, pattern)
        for template, pattern in whole_table()
        if not template.lstrip("/").startswith(LEFT_OUT)
    ]


def whole_table() -> list[tuple[str, URLPattern]]:
    """Every address that web answers, Django's admin and machines' addresses included, with {argument}s."""
    return list(_walk(get_resolver().url_patterns, "/"))


def _walk(patterns: list[Any], before: str) -> Iterator[tuple[str, URLPattern]]:
    for pattern in patterns:
        address = before + _text(pattern.pattern)
        if isinstance(pattern, URLResolver):
            yield from _walk(pattern.url_patterns, address)
        else:
            yield address, pattern


def _text(pattern: Any) -> str:
    """As it stands in the table, converters and regular expressions as "{name}" or "{name|choice|choice}"."""
    if isinstance(pattern, RoutePattern):
        return re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", str(pattern))
    text = re.sub(r"\(\?P<(\w+)>([a-z]+(?:\|[a-z]+)+)\)", r"{\1|\2}", str(pattern))
    text = re.sub(r"\(\?P<(\w+)>[^()]*\)", r"{\1}", text)
    return text.removeprefix("^").removesuffix("$").replace("\\", "")


def _route(text: str, pattern: URLPattern) -> Route:
    arguments, choices = {}, {}
    for name, _bar, found in re.findall(r"{(\w+)(\|?)([^}]*)}", text):
        if found or name in CHOICES:
            choices[name] = tuple(found.split("|")) if found else CHOICES[name]
        else:
            arguments[name] = _kind(name, pattern)
    return Route(re.sub(r"{(\w+)\|[^}]*}", r"{\1}", text), arguments, choices, pattern)


def _kind(name: str, pattern: URLPattern) -> str:
    if name != "pk":
        return OBJECTS[name]
    rows = getattr(getattr(pattern.callback, "cls", None), "queryset", None)
    return ROWS[rows.model] if rows is not None else PK_OF[str(pattern.name)]


def sockets() -> list[tuple[str, tuple[str, ...]]]:
    """The addresses of the sockets with {argument}s, and those arguments."""
    found = []
    for pattern in websocket_urlpatterns:
        text = "/" + _text(pattern.pattern)
        found.append((text, tuple(re.findall(r"{(\w+)}", text))))
    return found


def everything() -> dict[str, list[Any]]:
    """All rows of our own tables, by table: equal before and after means that nothing was changed."""
    return {
        model._meta.label: sorted(map(repr, model._base_manager.values()))
        for app in ("endpoints", "iam", "registry")
        for model in apps.get_app_config(app).get_models()
    }
