"""Access logs are counted once, for whom they should be, and nothing that stands in them holds the counting up."""

from __future__ import annotations

import gzip
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import DatabaseError
from django.test import Client

from config.keyfiles import read_or_create
from endpoints.models import Endpoint, LastUse, LogPosition, TokenCount, Usage
from endpoints.usage import ingest, token_counts
from gateway.access_logs import START, Position
from gateway.control import LOG_HEADER, Shipment
from iam.actors import Actor
from iam.models import ApiKey, Project, ServiceAccount
from tests.support_access_log import line
from tests.support_endpoints import load_data, new_endpoint

pytestmark = pytest.mark.django_db
AT = datetime(2026, 11, 22, 10, 30, 5, tzinfo=UTC)
FILE = "01795392000000000000-abcdef01.log"
LATER = "01795392000000000009-abcdef01.log"  # of the same log


@pytest.fixture
def endpoint(editor_actor: Actor) -> Endpoint:
    load_data()
    return new_endpoint(editor_actor)


@pytest.fixture
def account(endpoint: Endpoint) -> ServiceAccount:
    return ServiceAccount.objects.create(project=endpoint.project, name="robot", tokens_per_month=1_000)


def send(*lines: bytes, gateway: str = "gw-1", file: str = FILE) -> Position:
    """As the next piece of the gateway's log."""
    after = ingest.stored(gateway, Position(file).log)
    begin = after if after.file == file else Position(file)
    return ingest.ingest(gateway, Shipment(begin, after), b"".join(lines), AT)


def call(
    endpoint: Endpoint | str, account: ServiceAccount | ApiKey | None, at: datetime = AT, **fields: Any
) -> bytes:
    name = endpoint if isinstance(endpoint, str) else endpoint.id
    return line(at, **{"endpoint": name, "sub": account and account.id, **fields})


def rows(**only: Any) -> list[Usage]:
    return list(Usage.objects.filter(**only).order_by("hour", "status", "subject"))


# ---- what is counted


def test_requests_are_added_up_by_hour_caller_and_answer(endpoint: Endpoint, account: ServiceAccount) -> None:
    good = [call(endpoint, account) for _ in range(3)]
    send(
        *good,
        call(endpoint, account, status=500, usage=None),
        call(endpoint, account, AT - timedelta(hours=1)),
    )
    send(call(endpoint, account, usage="- - 5", first_byte_ms=None))
    send(call(endpoint, account, usage="unread", bytes_out=3_000_000), gateway="gw-2")
    earlier, ok, bad = rows()
    assert (earlier.hour, earlier.requests) == (AT.replace(hour=9, minute=0, second=0), 1)
    assert (ok.hour, ok.status, ok.requests) == (AT.replace(minute=0, second=0), 200, 5)
    assert (ok.prompt_tokens, ok.completion_tokens, ok.estimated, ok.unread) == (3 * 9 + 25, 3 * 2 + 5, 1, 1)
    assert (ok.duration_ms, ok.first_byte_ms, ok.first_bytes) == (5 * 20, 4 * 15, 4)
    assert (ok.bytes_in, ok.bytes_out) == (500, 4 * 300 + 3_000_000)
    assert (bad.status, bad.requests, bad.prompt_tokens) == (500, 1, 0)
    assert endpoint.revision is not None
    model = endpoint.revision.model
    assert (ok.project_id, ok.endpoint_name) == (str(endpoint.project_id), endpoint.name)
    assert (ok.model_id, ok.model_name) == (str(model.id), model.name)
    assert (ok.subject, ok.subject_name) == (account.id, "robot")


def test_names_follow_and_what_was_used_outlives_its_endpoint(
    endpoint: Endpoint, account: ServiceAccount
) -> None:
    send(call(endpoint, account))
    Endpoint.objects.filter(pk=endpoint.pk).update(name="renamed")
    send(call(endpoint, account))
    Endpoint.objects.filter(pk=endpoint.pk).delete()
    # One that was deleted before anything of it was counted: its callers' project is its own.
    unheard = "me-00000000-0000-4000-8000-00000000dead"
    send(call(unheard, account), call(unheard, None))
    assert [row.requests for row in rows(endpoint_id=unheard)] == [1, 1]
    send(call(endpoint, account, sub="sa-gone"))
    send(call(endpoint, account, sub="sa-gone", status=404, usage=None))
    found = [(row.requests, row.endpoint_name, row.subject) for row in rows(endpoint_id=endpoint.id)]
    assert found == [(2, "renamed", account.id), (1, "renamed", "sa-gone"), (1, "renamed", "")]


def test_refusals_count_for_the_endpoint_and_name_no_stranger(
    endpoint: Endpoint, account: ServiceAccount, other_project: Project
) -> None:
    stranger = ServiceAccount.objects.create(project=other_project, name="stranger")
    nothing: dict[str, Any] = {"usage": None, "replica": None, "first_byte_ms": None, "attempts": 0}
    send(
        call(endpoint, account, status=401, **nothing),
        call(endpoint, stranger, status=404, **nothing),
        call(endpoint, account, status=403, **nothing),
        call(endpoint, account, status=429, **nothing),
        line(AT, endpoint="me-never-was", status=404, **nothing),
        line(AT, endpoint="unknown-endpoint", status=404, **nothing),
    )
    found = [(row.status, row.subject, row.requests) for row in rows()]
    assert found == [(401, "", 1), (403, account.id, 1), (404, "", 1), (429, account.id, 1)]
    assert {row.project_id for row in rows()} == {str(endpoint.project_id)}
    # Only the one over its limit was let in.
    assert LastUse.objects.get().subject == account.id
    stranger.refresh_from_db()
    assert stranger.last_used_at is None


def test_last_use_is_the_latest_whatever_order_gateways_ship_in(
    endpoint: Endpoint, account: ServiceAccount
) -> None:
    key = ApiKey.objects.create(
        project=endpoint.project, user=endpoint.project.memberships.get().user, name="k", expires_at=AT
    )
    newest = AT + timedelta(seconds=30)
    send(call(endpoint, account), call(endpoint, account, newest, client="192.0.2.9"), call(endpoint, key))
    send(call(endpoint, account, AT - timedelta(hours=5)), gateway="gw-2")
    use = LastUse.objects.get(subject=account.id)
    assert (use.endpoint_id, use.address) == (endpoint.id, "192.0.2.9")
    assert use.at == newest
    account.refresh_from_db()
    key.refresh_from_db()
    assert account.last_used_at == use.at
    assert key.last_used_at == AT


# ---- limits


def test_a_limit_counts_what_was_used_since_its_window_began_wherever(
    endpoint: Endpoint, account: ServiceAccount
) -> None:
    """Also before it was set, by each gateway alike; told of are those who have one."""
    free = ServiceAccount.objects.create(project=endpoint.project, name="free", requests_per_minute=5)
    send(call(endpoint, account), call(endpoint, account), call(endpoint, free))
    now = AT + timedelta(seconds=40)
    minute = "2026-11-22T10:30"
    assert token_counts.told("gw-2", now) == ({account.id: {"2026-11": 22}}, {})
    assert token_counts.told("gw-1", now) == ({}, {account.id: {"2026-11": 22}})
    send(call(endpoint, free, AT - timedelta(days=3)), call(endpoint, account), gateway="gw-2")
    Endpoint.objects.filter(pk=endpoint.pk).update(tokens_per_minute=10)
    ServiceAccount.objects.filter(pk=free.pk).update(tokens_per_month=10, tokens_per_minute=5)
    first = {
        account.id: {"2026-11": 22},
        free.id: {"2026-11": 11, minute: 11},
        endpoint.id: {minute: 33},
    }
    second = {account.id: {"2026-11": 11}, free.id: {"2026-11": 11}, endpoint.id: {minute: 11}}
    assert token_counts.told("gw-1", now) == (second, first)
    assert token_counts.told("gw-2", now) == (first, second)
    both, none = token_counts.told("gw-3", now)
    assert (both[account.id]["2026-11"], none) == (33, {})
    assert set(token_counts.told("gw-1", now + timedelta(minutes=1))[1][free.id]) == {"2026-11", minute}
    assert token_counts.told("gw-1", now + timedelta(minutes=2))[1][free.id] == {"2026-11": 11}
    assert token_counts.told("gw-1", now + timedelta(days=30)) == ({}, {})


def test_windows_that_are_over_are_forgotten(endpoint: Endpoint, account: ServiceAccount) -> None:
    counts = TokenCount.objects.values_list("window", flat=True)
    send(call(endpoint, account), call(endpoint, account, AT - timedelta(hours=1)))  # an hour late: no minute
    assert set(counts) == {"2026-11", "2026-11-22T10:30"}
    token_counts.prune(AT + timedelta(hours=1))
    assert set(counts.all()) == {"2026-11"}
    token_counts.prune(AT + timedelta(days=150))
    assert not counts.all()


# ---- once


def test_the_same_piece_counts_once_and_a_wrong_one_not_at_all(
    endpoint: Endpoint, account: ServiceAccount
) -> None:
    first, second = call(endpoint, account), call(endpoint, account)
    start = Shipment(Position(FILE), Position())
    end = ingest.ingest("gw-1", start, first, AT)
    assert end == Position(FILE, len(first))
    wrong = [start, Shipment(end, Position(FILE, 1)), Shipment(end, Position(LATER, end.offset))]
    wrong += [
        Shipment(end, START),
        Shipment(end, Position("other.log", end.offset)),
        Shipment(start.begin, end),
    ]
    for one in wrong:
        with pytest.raises(ingest.NotNext) as refusal:
            ingest.ingest("gw-1", one, first, AT)
        assert refusal.value.stored == end
    ingest.ingest("gw-1", Shipment(Position(LATER), end), second, AT)
    with pytest.raises(ingest.NotNext):  # the same file's beginning once more, late
        ingest.ingest("gw-1", Shipment(Position(LATER), end), second, AT)
    assert sum(row.requests for row in rows()) == 2


def test_each_home_of_a_gateway_has_a_log_of_its_own(endpoint: Endpoint, account: ServiceAccount) -> None:
    """The second one's clock is behind, and then the first one is found again."""
    text = call(endpoint, account)
    second = Shipment(Position("00000000000000000001-22.log"), Position(FILE, len(text)))
    send(text)
    ingest.ingest("gw-1", second, text, AT)
    with pytest.raises(ingest.NotNext):
        ingest.ingest("gw-1", second, text, AT)
    with pytest.raises(ingest.NotNext):
        ingest.ingest("gw-1", Shipment(Position(FILE), START), text, AT)
    assert [row.requests for row in rows()] == [2]
    send(text)
    ingest.ingest("gw-2", second, text, AT)
    assert [row.requests for row in rows()] == [4]


def test_two_that_ship_at_once_are_told_apart_in_the_transaction(
    endpoint: Endpoint, account: ServiceAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = call(endpoint, account)
    send(text)
    monkeypatch.setattr(ingest, "stored", lambda *_: START)  # looked at before the other one's commit
    with pytest.raises(ingest.NotNext):
        ingest.ingest("gw-1", Shipment(Position(FILE), START), text, AT)
    assert rows()[0].requests == 1


def test_nothing_is_counted_when_the_transaction_fails(
    endpoint: Endpoint, account: ServiceAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(ingest, "_note_use", lambda *_: (_ for _ in ()).throw(DatabaseError("disk full")))
        with pytest.raises(DatabaseError):
            send(call(endpoint, account))
    assert not rows()
    assert not LogPosition.objects.exclude(file="").exists()
    send(call(endpoint, account))
    assert rows()[0].requests == 1


def test_what_cannot_be_read_is_left_out_and_named(
    endpoint: Endpoint, account: ServiceAccount, caplog: pytest.LogCaptureFixture
) -> None:
    odd = {"sub": "sa-\x00\ud800", "client": "\x00" * 500, "path": "\x00" * 9_000}
    text = b"rubbish\n\x00\n" + line(AT, endpoint=endpoint.id, **odd) + b'{"endpoint":"me-x"}\n'
    end = send(text, call(endpoint, account))
    assert [row.requests for row in rows()] == [1, 1]
    assert end.offset > len(text)
    assert "3 lines of gw-1's access log cannot be read" in caplog.text


# ---- over HTTP


def test_agents_ship_with_their_token(endpoint: Endpoint, account: ServiceAccount, settings: Any) -> None:
    token = read_or_create(settings.BERTH_GATEWAY_TOKEN_FILE)
    text = call(endpoint, account, datetime.now(UTC))

    def ship(body: bytes, **headers: str) -> Any:
        given = {**Shipment(Position(FILE), Position()).headers(), "X-Berth-Gateway": "gw-1", **headers}
        return Client().post(
            "/internal/gateway/usage", body, content_type=given.pop("Content-Type"), headers=given
        )

    assert ship(gzip.compress(text)).status_code == 401
    known = {"Authorization": f"Bearer {token}"}
    assert ship(b"no gzip", **known).status_code == 400
    assert ship(gzip.compress(b"\n" * 40_000_000), **known).status_code == 400
    assert ship(gzip.compress(text), **known, **{"X-Berth-Log": "x:-5"}).status_code == 400
    assert ship(gzip.compress(text), **known, **{"X-Berth-Gateway": ""}).status_code == 400
    counted = {"file": FILE, "offset": len(text)}
    found = ship(gzip.compress(text), **known).json()
    own = found.pop("own")
    assert found == {**counted, "elsewhere": {}}
    assert list(own) == [account.id]
    assert set(own[account.id].values()) == {11}
    again = ship(gzip.compress(text), **known)
    assert (again.status_code, again.json()) == (409, counted)
    assert rows()[0].requests == 1


def test_agents_without_lines_ask(endpoint: Endpoint, account: ServiceAccount, settings: Any) -> None:
    now = datetime.now(UTC)
    end = send(call(endpoint, account, now))
    month = token_counts.month_of(now)

    def ask(gateway: str, log: str, token: str) -> Any:
        headers = {"X-Berth-Gateway": gateway, LOG_HEADER: log, "Authorization": f"Bearer {token}"}
        return Client().get("/internal/gateway/usage", headers=headers)

    token = read_or_create(settings.BERTH_GATEWAY_TOKEN_FILE)
    assert ask("gw-1", "", "another").status_code == 401
    assert ask("", "", token).status_code == 400
    assert ask("gw-1", "x:y", token).status_code == 400
    told = ask("gw-1", f"{LATER}:0", token).json()
    assert (told["file"], told["offset"], told["elsewhere"]) == (FILE, end.offset, {})
    assert told["own"][account.id][month] == 11
    # A home that was lost: nothing of its new log is counted, and all that was before is its own.
    told = ask("gw-1", "", token).json()
    assert (told["file"], told["offset"], told["own"][account.id][month]) == ("", 0, 11)
    told = ask("gw-2", "", token).json()
    assert (told["own"], told["elsewhere"][account.id][month]) == ({}, 11)


def test_counts_of_lines_that_a_gateway_does_not_know_of_are_not_its_own(
    endpoint: Endpoint, account: ServiceAccount, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another shipment of it is counted between the two looks."""
    text = call(endpoint, account, datetime.now(UTC))
    ask = token_counts.told
    monkeypatch.setattr(token_counts, "told", lambda *given: (send(text), ask(*given))[1])
    headers = {
        **Shipment(Position(FILE), START, packed=False).headers(),
        "X-Berth-Gateway": "gw-1",
        "Authorization": f"Bearer {read_or_create(settings.BERTH_GATEWAY_TOKEN_FILE)}",
    }
    kind = headers.pop("Content-Type")
    told = Client().post("/internal/gateway/usage", text, content_type=kind, headers=headers).json()
    assert told == {"file": FILE, "offset": len(text), "elsewhere": {}, "own": {}}


def test_a_batch_takes_a_handful_of_queries(
    endpoint: Endpoint, account: ServiceAccount, django_assert_max_num_queries: Any
) -> None:
    lines = [call(endpoint, account, AT + timedelta(seconds=n)) for n in range(2000)]
    began = time.perf_counter()
    with django_assert_max_num_queries(25):
        send(*lines)
    assert time.perf_counter() - began < 5
    assert sum(row.requests for row in rows()) == 2000
