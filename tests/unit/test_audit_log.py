"""Reading the audit log: page, API, exports. Who may, what is found, and that a project sees its own alone."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime
from importlib import import_module
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import DatabaseError, connection, transaction
from django.test import Client
from pytest_django import DjangoAssertNumQueries

from config.csv_cells import safe
from iam import audit_log, audit_words
from iam.actors import Actor
from iam.audit import Command, record
from iam.models import AuditEvent, Project
from iam.origin import Origin, acting_from

pytestmark = [
    pytest.mark.django_db,
    # In production it is an ASGI server that takes the pieces.
    pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume"),
]
API = "/api/v1/audit-events/"


@pytest.fixture
def acts(owner_actor: Actor, outsider_actor: Actor) -> None:
    """Some in the project, one in another, one of the platform's own."""
    with acting_from(Origin("203.0.113.9", "0b9f3a52-6d0e-4a11-8c3e-5a1f0c9d7e21")):
        record(owner_actor, "endpoint.pause", kind="endpoint", name="embed-01", before={"paused_at": None})
        record(
            owner_actor,
            "model.change",
            kind="model",
            name="=cmd|' /C calc'!A0",
            before={"name": "tiny", "hub_token": "hf_old", "settings.max_context": 512},
            after={"name": "<b>tiny</b>", "hub_token": "hf_new", "settings.max_context": 1024},
        )
    record(outsider_actor, "endpoint.delete", kind="endpoint", name="theirs")
    record(Command("load_places"), "places.load", kind="places", name="platform-wide")


def _taken(answer: Any) -> str:
    return b"".join(answer).decode()


class TestWho:
    """Admins of the project."""

    @pytest.mark.parametrize("address", ["/audit/", API])
    def test_reads(self, address: str, owner_client: Client, editor_client: Client, client: Client) -> None:
        assert owner_client.get(address).status_code == 200
        assert editor_client.get(address).status_code == 403
        assert client.get(address).status_code in (302, 401)

    def test_takes(self, owner_client: Client, editor_client: Client, client: Client) -> None:
        assert editor_client.post("/audit/export.csv").status_code == 403
        assert client.post("/audit/export.csv").status_code == 302
        assert owner_client.get("/audit/export.csv").status_code == 405
        assert owner_client.post("/audit/export.exe").status_code == 404

    def test_a_project_sees_its_own_alone(self, acts: None, owner_client: Client) -> None:
        for shown in (
            owner_client.get("/audit/").content.decode(),
            owner_client.get(API).content.decode(),
            _taken(owner_client.post("/audit/export.csv")),
            _taken(owner_client.post("/audit/export.jsonl")),
        ):
            assert "embed-01" in shown
            assert "theirs" not in shown
            assert "platform-wide" not in shown

    def test_anothers_entry_is_not_there(self, acts: None, owner_client: Client) -> None:
        mine = AuditEvent.objects.get(target_name="embed-01")
        theirs = AuditEvent.objects.get(target_name="theirs")
        assert owner_client.get(f"{API}{mine.pk}/").json()["action"] == "endpoint.pause"
        assert owner_client.get(f"{API}{theirs.pk}/").status_code == 404
        assert owner_client.get(f"{API}{10**18}/").status_code == 404

    @pytest.mark.parametrize("method", ["post", "put", "patch", "delete"])
    def test_nothing_changes_it(self, acts: None, owner_client: Client, method: str) -> None:
        event = AuditEvent.objects.filter(target_name="embed-01").get()
        for address in (API, f"{API}{event.pk}/"):
            assert getattr(owner_client, method)(address).status_code == 405
        for refused in (event.save, event.delete, AuditEvent.objects.all().delete):
            with pytest.raises(TypeError):
                refused()
        with pytest.raises(TypeError):
            AuditEvent.objects.filter(pk=event.pk).update(action="x")
        with pytest.raises(TypeError):
            AuditEvent.objects.bulk_update([event], ["action"])

    @pytest.mark.parametrize(
        "statement",
        [
            "UPDATE iam_auditevent SET action = 'x'",
            "DELETE FROM iam_auditevent WHERE id > 0",
            {
                "sqlite": "INSERT OR REPLACE INTO iam_auditevent SELECT * FROM iam_auditevent",
                "postgresql": "TRUNCATE iam_auditevent",
            },
        ],
        ids=["update", "delete", "all at once"],
    )
    def test_the_database_refuses_too(self, acts: None, statement: str | dict[str, str]) -> None:
        text = statement if isinstance(statement, str) else statement[connection.vendor]
        with connection.cursor() as cursor:
            cursor.execute(_left_out())  # tests go without it
            with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
                cursor.execute(text)
        assert AuditEvent.objects.filter(action="endpoint.pause").exists()


def _left_out() -> str:
    """The trigger that tests go without, since they empty all tables (tests.conftest)."""
    number, place = {"sqlite": ("0004_audit_append_only", 1), "postgresql": ("0005_audit_not_emptied", 0)}[
        connection.vendor
    ]
    statement: str = import_module(f"iam.migrations.{number}").TRIGGERS[connection.vendor][place]
    return statement


class TestFound:
    """Filters, pages, words."""

    @pytest.mark.parametrize(
        ("asked", "found"),
        [
            ({}, {"embed-01", "=cmd|' /C calc'!A0"}),
            ({"action": "endpoint.pause"}, {"embed-01"}),
            ({"action": "endpoint"}, {"embed-01"}),
            ({"action": "end"}, set()),
            ({"target": "model"}, {"=cmd|' /C calc'!A0"}),
            ({"target": "embed"}, {"embed-01"}),
            ({"actor": "OWNER@"}, {"embed-01", "=cmd|' /C calc'!A0"}),
            ({"actor": "outsider"}, set()),
            ({"text": "203.0.113"}, {"embed-01", "=cmd|' /C calc'!A0"}),
            ({"text": "0b9f3a52-6d0e"}, {"embed-01", "=cmd|' /C calc'!A0"}),
            ({"text": "a\x00b"}, set()),
            ({"from": "2126-01-01"}, set()),
            ({"to": "2026-01-01"}, set()),
            ({"from": "2026-01-01", "to": "2126-01-01T00:00:00Z"}, {"embed-01", "=cmd|' /C calc'!A0"}),
        ],
    )
    def test_filters(self, acts: None, owner_client: Client, asked: dict[str, str], found: set[str]) -> None:
        rows = owner_client.get(API, asked).json()["results"]
        assert {row["target"]["name"] for row in rows} == found
        taken = _taken(owner_client.post("/audit/export.jsonl", asked)).splitlines()
        told = [json.loads(line) for line in taken]
        assert {row["target_name"] for row in told if row["action"] != "audit.export"} == found

    def test_a_day_counts_to_its_end(self) -> None:
        query = audit_log.parse({"from": "2026-11-22", "to": "2026-11-22"})
        assert (query.since, query.until) == (
            datetime(2026, 11, 22, tzinfo=UTC),
            datetime(2026, 11, 23, tzinfo=UTC),
        )
        assert audit_log.parse({"from": "2026-11-22T10:00:00 02:00"}).since == datetime(
            2026, 11, 22, 8, tzinfo=UTC
        )

    @pytest.mark.parametrize("wrong", ["yesterday", "2026-13-01", "9999-12-31", "2026-02-30T00:00:00Z"])
    def test_dates_that_are_none(self, owner_client: Client, wrong: str) -> None:
        with pytest.raises(ValidationError):
            audit_log.parse({"to": wrong})
        assert owner_client.get(API, {"to": wrong}).json()["errors"].keys() == {"to"}
        assert owner_client.get("/audit/", {"to": wrong}).status_code == 422
        assert owner_client.post("/audit/export.csv", {"to": wrong}).status_code == 422

    def test_pages(
        self,
        owner_actor: Actor,
        owner_client: Client,
        django_assert_max_num_queries: DjangoAssertNumQueries,
    ) -> None:
        for number in range(audit_log.PAGE + 3):
            record(owner_actor, "endpoint.pause", kind="endpoint", name=f"e{number}")
        owner_client.get("/audit/")  # the first request of a session writes who it is
        with django_assert_max_num_queries(8):
            first = owner_client.get("/audit/")
        assert len(first.context["events"]) == audit_log.PAGE
        second = owner_client.get(f"/audit/?{first.context['older']}")
        assert [event.target_name for event in second.context["events"]] == ["e2", "e1", "e0"]
        assert second.context["older"] == ""
        assert owner_client.get("/audit/?before=x").status_code == 422

    def test_what_changed_is_shown_and_secrets_are_not(self, acts: None, owner_client: Client) -> None:
        page = owner_client.get("/audit/").content.decode()
        assert "&lt;b&gt;tiny&lt;/b&gt;" in page
        assert "<b>tiny</b>" not in page
        assert "••••" in page
        assert "203.0.113.9" in page
        everything = page + "".join(
            _taken(owner_client.post(f"/audit/export.{form}")) for form in ("csv", "jsonl")
        )
        assert "hf_" not in everything + owner_client.get(API).content.decode()

    def test_an_act_without_words_is_shown_as_itself(self, owner_actor: Actor, owner_client: Client) -> None:
        record(owner_actor, "comet.catch", kind="comet", name="Halley")
        page = owner_client.get("/audit/").content.decode()
        assert "comet.catch" in page
        assert audit_words.kind_label("comet") == "comet"


class TestTaken:
    """Exports."""

    def test_csv_runs_nothing(self, acts: None, owner_client: Client) -> None:
        answer = owner_client.post("/audit/export.csv", {"target": "model"})
        assert answer["Content-Type"].startswith("text/csv")
        assert answer["Content-Disposition"].startswith('attachment; filename="berth-audit-')
        rows = list(csv.DictReader(io.StringIO(_taken(answer))))
        assert [row["target_name"] for row in rows] == ["'=cmd|' /C calc'!A0"]
        assert json.loads(rows[0]["after"])["settings.max_context"] == 1024
        assert [safe(text) for text in ("=1", "+1", "-1", "@a", "\t=1", "a=1", "")] == [
            *("'=1", "'+1", "'-1", "'@a", "'\t=1", "a=1", "")
        ]

    def test_is_on_record_itself(self, acts: None, owner_client: Client) -> None:
        owner_client.post("/audit/export.jsonl", {"actor": "owner", "from": "2026-01-01"})
        event = AuditEvent.objects.get(action="audit.export")
        assert event.after == {"format": "jsonl", "actor": "owner", "from": "2026-01-01T00:00:00+00:00"}

    def test_longer_than_a_piece(
        self, project: Project, owner_client: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("iam.audit_export._AT_ONCE", 3)
        for number in range(7):
            AuditEvent.objects.create(project_id=project.pk, actor_kind="platform", action=f"x.{number}")
        told = _taken(owner_client.post("/audit/export.jsonl")).splitlines()
        actions = [json.loads(line)["action"] for line in told]
        assert actions == ["audit.export", *(f"x.{number}" for number in range(6, -1, -1))]
