"""Text that would be markup, in every text field there is, on every page there is: it stays text.

Fields come from the tables and pages from the URL table, so that a new one is covered by itself. What is written past
the forms comes from elsewhere in real life: logs, containers' names, identity providers, gateways.
"""

from __future__ import annotations

import csv
import io
import re
import uuid
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.apps import apps
from django.contrib import admin
from django.db import IntegrityError, models, transaction
from django.test import Client
from django.urls import reverse

from config import crypto
from endpoints.models import Event, Replica, Usage
from iam import audit
from iam.models import AuditEvent
from tests.conftest import signed_in
from tests.support_endpoints import load_data
from tests.support_tenancy import FILTERS, NO_OBJECT, World, routes, world

pytestmark = [pytest.mark.django_db, pytest.mark.one_database]

# Breaks out of texts, of attributes in either quote, of scripts and of templates.
MARKUP = '</script>\'"><xss-{n} xss-attr="{{{{7*7}}}}'
SHORT = '"><xss-{n}>'
LINK = "javascript:xss({n})"
# Attributes that lead somewhere or are run.
LEADING = {"href", "src", "action", "formaction", "srcdoc", "data", "poster", "xlink:href", "ping", "background",
           "hx-get", "hx-post", "hx-delete", "hx-put", "hx-patch", "ws-connect", "data-href", "data-url"}  # fmt: skip
# What the platform itself writes and reads as a name of something of its own, and what must lead to a row.
OWN = re.compile(
    r"(password|secret|digest|token|slug|code|kind|status|state|task|source|rule|action|_id|id|subject|"
    r"definition|weights_path|session_key|currency|family|gpu|language|locale|url|fingerprint|phase)$"
)
SEEN_AT_LEAST = {
    "endpoints.Endpoint.name", "endpoints.Event.actor_name", "endpoints.Event.params", "endpoints.Replica.name",
    "endpoints.Replica.evidence", "endpoints.Usage.endpoint_name", "endpoints.Usage.subject_name",
    "endpoints.Endpoint.reason_params", "registry.RegisteredModel.name", "registry.RegisteredModel.source_ref",
    "registry.RegisteredModel.facts", "iam.Project.name", "iam.User.email", "iam.ServiceAccount.name",
    "iam.ServiceAccount.description", "iam.ApiKey.name", "iam.AuditEvent.after", "iam.AuditEvent.target_name",
    "endpoints.Region.name",
}  # fmt: skip


class Page(HTMLParser):
    """What a browser would make of it: `made` is what nobody of us wrote."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.made: list[str] = []
        self.forms: list[tuple[str, str, dict[str, str]]] = []
        self._form: dict[str, str] | None = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag.startswith("xss"):
            self.made.append(f"<{tag}>")
        self.made += [f"<{tag} {name}>" for name in given if name.startswith(("xss", "on", "style"))]
        self.made += [
            f"<{tag} {name}={value}>"
            for name, value in given.items()
            if name in LEADING and re.match(r"[\x00-\x20]*(javascript|vbscript|data:text)", value, re.I)
        ]
        self._note_form(tag, given)

    handle_startendtag = handle_starttag

    def _note_form(self, tag: str, given: dict[str, str]) -> None:
        if tag == "form":
            self._form = {}
            where = given.get("action") or given.get("hx-post") or ""
            self.forms.append((given.get("method", "get").lower(), where, self._form))
        elif tag in ("input", "textarea", "select") and self._form is not None and given.get("name"):
            kind = given.get("type", "text") if tag == "input" else tag
            typed = kind in ("text", "textarea", "search", "email", "url", "password")
            self._form[given["name"]] = "xss" if typed else given.get("value", "")

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._form = None


def text_fields() -> Iterator[tuple[type[models.Model], models.Field[Any, Any]]]:
    """Everything that holds free text."""
    for model in apps.get_models():
        if model._meta.app_label in (
            "contenttypes",
            "sessions",
            "auth",
            "admin",
            "socialaccount",
            "allauth_idp_oidc",
        ):
            continue
        for field in model._meta.concrete_fields:
            plain = isinstance(field, models.CharField | models.TextField | models.JSONField)
            skip = (
                field.primary_key
                or field.choices
                or field.is_relation
                or isinstance(field, crypto.EncryptedTextField)
            )
            if plain and not skip and not OWN.search(field.name):
                yield model, field


def poisoned(value: Any, text: str) -> Any:
    """`value` with every text in it replaced, and one more in each object."""
    if isinstance(value, dict):
        changed = {key: poisoned(inner, text) for key, inner in value.items()}
        return changed | {"detail": text, "error": text, "logs": text, text: text}
    if isinstance(value, list):
        return [poisoned(inner, text) for inner in value]
    return text if isinstance(value, str) else value


def store(form: str) -> dict[int, str]:
    """Write it everywhere. {number: field}"""
    fields = {}
    for number, (model, field) in enumerate(text_fields(), start=100):
        if model is AuditEvent:
            continue
        text = form.format(n=number)
        if (field.max_length or 10_000) < len(text):
            text = SHORT.format(n=number)
        for row in model._base_manager.all()[:20]:
            value = (
                poisoned(getattr(row, field.attname), text) if isinstance(field, models.JSONField) else text
            )
            unique = field.unique or any(field.name in group for group in model._meta.unique_together)
            try:
                with transaction.atomic():
                    model._base_manager.filter(pk=row.pk).update(**{field.attname: value})
            except IntegrityError:
                assert unique or model._meta.constraints, f"{model._meta.label}.{field.name}"
            fields[number] = f"{model._meta.label}.{field.name}"
    return fields


def enrich(full: World, form: str) -> dict[int, str]:
    """Rows that a world lacks: what happened to a deployment that failed, and what the audit log says of it."""
    replica = Replica.objects.get(name=full.ids["replica_name"])
    replica.evidence = {"exit_code": 1, "logs": "x", "error": "x", "image": "x"}
    replica.reason_code = "container_exited"
    replica.save()
    endpoint = replica.endpoint
    endpoint.status, endpoint.reason_code = "FAILED", "container_exited"
    endpoint.reason_params = {"exit_code": "x", "image": "x", "detail": "x"}
    endpoint.save()
    for kind in (
        "endpoint.changed",
        "replica.failed",
        "replica.started",
        "image.pulled",
        "revision.taken_back",
    ):
        Event.objects.create(
            project=endpoint.project, endpoint=endpoint, target=endpoint.id, kind=kind, actor_name="x",
            params={"fields": "x", "replica": "x", "reason": "x", "image": "x", "number": 1, "serving": 1},
        )  # fmt: skip
    text = form.format(n=1)
    audit.record(
        full.actor,
        "endpoint.update",
        endpoint,
        name=form.format(n=2),
        before={text: text, "a": [text]},
        after={"name": text},
    )
    gone()
    return {1: "iam.AuditEvent.after", 2: "iam.AuditEvent.target_name"}


def gone() -> None:
    """Usage of an endpoint and by an account that there are no more: their names stand in its own rows."""
    for row in Usage.objects.all():
        row.pk, row.endpoint_id, row.subject = None, f"me-{uuid.uuid4()}", f"sa-{uuid.uuid4()}"
        row.save(force_insert=True)


def pages(full: World) -> Iterator[str]:
    """Every address of the console, the API and the admin."""
    for route in routes():
        yield from route.addresses(full)
    yield from (
        f"{page}?by={by}" for page in ("/usage/", "/api/v1/usage/") for by in ("endpoint", "account", "model")
    )
    for model in admin.site._registry:
        name = f"admin:{model._meta.app_label}_{model._meta.model_name}"
        yield reverse(f"{name}_changelist")
        for row in model._default_manager.all()[:2]:
            yield from (reverse(f"{name}_{view}", args=[row.pk]) for view in ("change", "history", "delete"))


@pytest.fixture
def full() -> World:
    load_data()
    return world("zzalpha")


@pytest.fixture
def staff(full: World) -> Client:
    full.owner.is_staff = full.owner.is_superuser = True
    full.owner.save()
    client = signed_in(full.owner)
    client.raise_request_exception = False
    return client


def read(client: Client, address: str, faults: list[str], headers: Any = None) -> str:
    """The page's text, "" for what is none."""
    answer = client.get(address, headers=headers)
    kind = answer.get("Content-Type", "")
    if answer.status_code >= 500:
        faults.append(f"{address}: {answer.status_code}")
    if answer.streaming:
        return ""
    if kind.startswith("text/html") and answer.content:
        text = answer.content.decode()
        faults += [f"{address} makes {made}" for made in Page(text).made]
        if "49" in text and re.search(r'xss-attr=(&quot;|")49', text):
            faults.append(f"{address} computes what a template would")
        return text
    assert answer["X-Content-Type-Options"] == "nosniff", address
    return answer.content.decode(errors="replace")


@pytest.mark.parametrize("form", [MARKUP, LINK])
def test_what_is_stored_stays_text(full: World, staff: Client, form: str) -> None:
    fields = enrich(full, form)
    fields |= store(form)
    faults: list[str] = []
    seen: set[str] = set()
    agent = {"user-agent": form.format(n=3)}
    staff.get("/inference/", headers=agent)
    assert "xss" in read(staff, "/accounts/sessions/", faults, agent)
    for address in pages(full):
        if "/webauthn/" in address or "/passkeys/" in address:
            continue  # of a device that there is not
        text = read(staff, address, faults)
        seen |= {fields.get(int(n), "") for n in re.findall(r"xss[-(](\d+)", text)}
    assert faults == []
    missing = SEEN_AT_LEAST - seen
    assert missing == set(), "these fields were shown nowhere: the test would not notice"


def test_what_is_typed_stays_text(full: World, staff: Client) -> None:
    """Every form of every page, filled with it and sent; each answer is looked at, errors with what was typed too."""
    faults: list[str] = []
    sent = 0
    for address in [one for one in pages(full) if not one.startswith("/api/")]:
        answer = staff.get(address)
        if answer.status_code != 200 or not answer.get("Content-Type", "").startswith("text/html"):
            continue
        for method, action, fields in Page(answer.content.decode()).forms:
            typed = {name: MARKUP.format(n=7) if value == "xss" else value for name, value in fields.items()}
            if MARKUP.format(n=7) not in typed.values():
                continue
            with transaction.atomic():
                to = action if action.startswith("/") else address.partition("?")[0]
                reply = getattr(staff, "get" if method == "get" else "post")(to, typed, follow=True)
                transaction.set_rollback(True)
            sent += 1
            staff.force_login(full.owner)
            if reply.status_code >= 500:
                faults.append(f"{to}: {reply.status_code}")
            if not reply.streaming and reply.get("Content-Type", "").startswith("text/html"):
                faults += [f"{to} from {address} makes {made}" for made in Page(reply.content.decode()).made]
    assert faults == []
    assert sent > 30


def test_what_is_asked_for_stays_text(full: World, staff: Client) -> None:
    """Every page with every parameter that any page knows."""
    faults: list[str] = []
    names = sorted(
        {*FILTERS, *NO_OBJECT, "q", "page", "tab", "next", "name", "project", "o", "_popup", "back"}
    )
    for address in pages(full):
        if "/webauthn/" not in address and "/passkeys/" not in address:
            read(
                staff,
                f"{address}?"
                + "&".join(f"{name}=%3C/script%3E'%22%3E%3Cxss-9%3E" for name in names)
                + "&next=javascript:xss(1)",
                faults,
            )
    assert faults == []


def whole(answer: Any) -> bytes:
    """The body, streamed or not."""

    async def collected() -> bytes:
        return b"".join([part async for part in answer.streaming_content])

    return async_to_sync(collected)() if answer.streaming else bytes(answer.content)


def test_spreadsheets_run_nothing(full: World, staff: Client) -> None:
    gone()
    formula = '=HYPERLINK("http://evil.example","x")'
    Usage.objects.update(endpoint_name=formula, subject_name="@SUM(1)")
    audit.record(full.actor, "endpoint.update", name=formula, kind="endpoint", after={"name": "-1"})
    answers = [staff.get(f"/usage/usage.csv?by={by}") for by in ("endpoint", "account")]
    answers.append(staff.post("/audit/export.csv"))
    found = []
    for answer in answers:
        assert answer.status_code == 200
        text = whole(answer).decode("utf-8-sig")
        cells = [cell for row in csv.reader(io.StringIO(text)) for cell in row]
        assert not [
            cell for cell in cells if cell.startswith(("=", "+", "@", "\t")) or re.match(r"-\D", cell)
        ]
        found += cells
    assert found.count(f"'{formula}") >= 2
