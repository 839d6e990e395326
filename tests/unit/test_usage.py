"""What was used: replicas' time is counted exactly once, and every sum is what adding row by row comes to."""

from __future__ import annotations

import random
from collections import defaultdict
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from endpoints.models import (
    Endpoint,
    InstanceType,
    Replica,
    ReplicaState,
    ReplicaTime,
    SummedDays,
    Usage,
    UsageSum,
)
from endpoints.usage import by_day, replica_time
from endpoints.usage.adding import add
from endpoints.usage.figures import COUNTED, By, Figures, Only, Span
from endpoints.usage.query import overview, usage
from iam.actors import Actor
from iam.models import ApiKey, Project, ServiceAccount, User
from tests.support_endpoints import load_data, new_endpoint

pytestmark = pytest.mark.django_db
NOW = datetime(2026, 11, 22, 10, 30, 0, 400_000, tzinfo=UTC)
TYPE = "g1-standard-4x16-1rtx2080ti"


def ago(**delta: float) -> datetime:
    return NOW - timedelta(**delta)


@pytest.fixture
def endpoint(editor_actor: Actor) -> Endpoint:
    load_data()
    return new_endpoint(editor_actor)


def replica(endpoint: Endpoint, slot: int = 1, **fields: Any) -> Replica:
    assert endpoint.revision is not None
    name = f"{endpoint.id}-{slot}"
    return Replica.objects.create(
        endpoint=endpoint, revision=endpoint.revision, slot=slot, name=name, **fields
    )


def counted(**only: Any) -> int:
    return sum(ReplicaTime.objects.filter(**only).values_list("seconds", flat=True))


# ---- the time of replicas


def test_a_replica_counts_from_its_place_to_its_end_whenever_it_is_looked_at(endpoint: Endpoint) -> None:
    """Looks at random moments, also twice at one and with a clock that goes back, add up to the whole."""
    dice = random.Random(5)
    begun = ago(hours=5, seconds=7.3)
    row = replica(endpoint, state=ReplicaState.READY, claimed=True, counted_until=begun)
    at = begun
    for _ in range(60):
        at += timedelta(seconds=dice.uniform(-60, 400))
        replica_time.count(at)
    end = at + timedelta(seconds=200)
    Replica.objects.filter(pk=row.pk).update(ended_at=end, state=ReplicaState.STOPPED)
    replica_time.count(end)
    replica_time.count(end + timedelta(hours=1))
    assert counted() == int(end.timestamp()) - int(begun.timestamp())
    assert all(0 < seconds <= 3600 for seconds in ReplicaTime.objects.values_list("seconds", flat=True))
    row.refresh_from_db()
    assert row.counted_until is None


def test_one_that_ends_a_moment_ago_is_never_counted_beyond_its_end(endpoint: Endpoint) -> None:
    """Its end is written down a little after it was taken."""
    row = replica(endpoint, claimed=True, counted_until=ago(minutes=10))
    replica_time.count(NOW)
    Replica.objects.filter(pk=row.pk).update(ended_at=ago(seconds=30), state=ReplicaState.FAILED)
    replica_time.count(NOW)
    assert counted() == 9 * 60 + 30


def test_what_has_no_place_does_not_count_and_the_young_wait(endpoint: Endpoint) -> None:
    replica(endpoint, 1)
    replica(endpoint, 2, claimed=True, counted_until=ago(seconds=100))
    assert replica_time.count(NOW) == 0
    assert counted() == 0


def test_replicas_that_are_deleted_are_counted_first(endpoint: Endpoint) -> None:
    replica(endpoint, 1, counted_until=ago(minutes=3), ended_at=ago(minutes=1))
    replica(endpoint, 2, counted_until=ago(minutes=3))
    with transaction.atomic():
        replica_time.settle(endpoint.replicas.all(), NOW)
        endpoint.replicas.all().delete()
    assert counted() == 2 * 60 + 3 * 60
    assert set(ReplicaTime.objects.values_list("endpoint_name", "model_name")) == {("embed-01", "tiny")}


def test_a_transaction_that_breaks_off_leaves_neither_half(endpoint: Endpoint) -> None:
    row = replica(endpoint, claimed=True, counted_until=ago(minutes=30))

    def killed() -> None:
        with transaction.atomic():
            replica_time.count(NOW)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        killed()
    row.refresh_from_db()
    assert (counted(), row.counted_until) == (0, ago(minutes=30))
    replica_time.count(NOW)
    assert counted() == 29 * 60


def test_a_price_holds_for_the_time_in_which_it_was_set(endpoint: Endpoint) -> None:
    row = replica(endpoint, claimed=True, counted_until=ago(minutes=20))
    kind = InstanceType.objects.filter(pk=endpoint.revision.instance_type_id)  # type: ignore[union-attr]
    kind.update(price_month=Decimal(730), currency="USD")
    replica_time.count(ago(minutes=9))
    kind.update(price_month=Decimal(7300))
    Replica.objects.filter(pk=row.pk).update(ended_at=NOW)
    replica_time.count(NOW)
    assert dict(ReplicaTime.objects.values_list("price_month", "seconds")) == {730: 600, 7300: 600}
    found = usage(endpoint.project_id, Span(NOW.date(), NOW.date()), By.ENDPOINT).total
    # A price of 730 a month is 1 an hour.
    assert found.costs == {"USD": pytest.approx(Decimal(600 + 6000) / 3600)}


def test_many_are_counted_with_as_many_queries_as_one(endpoint: Endpoint) -> None:
    def queries() -> int:
        Replica.objects.all().update(counted_until=ago(hours=1))
        with CaptureQueriesContext(
            connection,
        ) as seen:
            replica_time.count(NOW)
        return len([1 for query in seen if not query["sql"].startswith("INSERT")])

    replica(endpoint, 1)
    one = queries()
    for slot in range(2, 30):
        replica(endpoint, slot)
    assert queries() == one


# ---- reading


def fill(project: Project, days: int, rows: int, seed: int) -> None:
    """Random rows of usage and replica time, hours apart, of this project and of others."""
    dice = random.Random(seed)
    names = ("endpoint_id", "model_id", "subject")
    for _ in range(rows):
        ids = {name: f"{name}-{dice.randint(0, 3)}" for name in names}
        if dice.random() < 0.2:
            ids["subject"] = ""
        hour = NOW.replace(minute=0, second=0, microsecond=0) - timedelta(hours=dice.randint(0, 24 * days))
        whose = project.id if dice.random() < 0.8 else "prj-other"
        common: dict[str, Any] = {
            "hour": hour,
            "project_id": whose,
            "endpoint_id": ids["endpoint_id"],
            "model_id": ids["model_id"],
        }
        if whose != project.id:  # no two projects have the same endpoint
            common["endpoint_id"] += "-other"
        requests = dice.randint(1, 50)
        sums = {name: dice.randint(0, 900) for name in by_day.USAGE_SUMS}
        sums |= {"requests": requests, "first_bytes": dice.randint(0, requests)}
        status = dice.choice([0, 200, 200, 200, 401, 404, 429, 499, 500, 503])
        add(
            Usage,
            [{**common, "subject": ids["subject"], "status": status, **sums}],
            key=by_day.USAGE_KEY,
            summed=by_day.USAGE_SUMS,
        )
        price = {"price_month": dice.choice([0, 730, 1460]), "currency": dice.choice(["VND", "USD"])}
        add(
            ReplicaTime,
            [{**common, "instance_type": dice.choice("ab"), "seconds": dice.randint(1, 3600), **price}],
            key=replica_time.KEY,
            summed=("seconds",),
        )


def brute_force(project_id: str, span: Span, by: By, only: Only) -> dict[str, Figures]:
    """Row by row."""
    found: dict[str, Figures] = defaultdict(Figures)
    column = {By.ENDPOINT: "endpoint_id", By.MODEL: "model_id", By.ACCOUNT: "subject"}.get(by, "hour")

    def key_of(row: Usage | ReplicaTime) -> str:
        value = getattr(row, column)
        return f"{value:%Y-%m-%d}" if isinstance(value, datetime) else str(value)

    def wanted(row: Usage | ReplicaTime) -> bool:
        return (
            row.project_id == project_id
            and span.first <= row.hour.date() <= span.last
            and only.endpoint in (None, row.endpoint_id)
            and only.model in (None, row.model_id)
        )

    for row in filter(wanted, Usage.objects.all()):
        if only.account not in (None, row.subject):
            continue
        status, requests = row.status, row.requests
        split = {
            "errors_4xx": requests if 400 <= status < 500 else 0,
            "errors_5xx": requests if status >= 500 else 0,
            "aborted": requests if status == 0 else 0,
        }
        plain = {name: getattr(row, name) for name in COUNTED if name not in split}
        found[key_of(row)].add({**plain, **split})
    timeless = by == By.ACCOUNT or only.account is not None
    for time in filter(wanted, ReplicaTime.objects.all()):
        if not timeless:
            found[key_of(time)].ran(time.seconds, time.price_month, time.currency)
    for figures in found.values():
        figures.seconds = None if timeless else figures.seconds
    return found


ONLYS = (
    Only(),
    Only(endpoint="endpoint_id-1"),
    Only(account="subject-2"),
    Only(account=""),
    Only(model="model_id-0", endpoint="endpoint_id-2"),
    Only(endpoint="nobody"),
)


def same(found: dict[str, Figures], expected: dict[str, Figures]) -> None:
    for key in {*found, *expected}:
        mine, theirs = found.get(key, Figures()), expected.get(key, Figures())
        assert {name: getattr(mine, name) for name in COUNTED} == {
            name: getattr(theirs, name) for name in COUNTED
        }
        if key in expected:
            assert mine.seconds == theirs.seconds
        assert mine.costs == {name: pytest.approx(cost) for name, cost in theirs.costs.items()}


@pytest.mark.parametrize("seed", range(3))
def test_every_sum_is_what_adding_row_by_row_comes_to(project: Project, seed: int) -> None:
    """Before and after old days' hours are taken together, and when more is added to those afterwards."""
    fill(project, days=6, rows=120, seed=seed)
    spans = [Span(date(2026, 11, 16), NOW.date()), Span(date(2026, 11, 18), date(2026, 11, 19))]
    questions = [(span, by, only) for span in spans for by in By if by != By.HOUR for only in ONLYS]
    expected = [brute_force(project.id, *question) for question in questions]

    def check() -> None:
        for question, figures in zip(questions, expected, strict=True):
            report = usage(project.id, *question)
            same({row.key: row.figures for row in report.rows}, figures)
            whole = Figures()
            for one in figures.values():
                whole.add({name: getattr(one, name) for name in COUNTED})
            assert report.total.requests == whole.requests
            assert report.total.duration_ms == whole.duration_ms

    check()
    assert by_day.roll_up(NOW) > 0
    check()
    assert by_day.roll_up(NOW) == 0
    old = Usage.objects.filter(hour__lt=datetime(2026, 11, 21, tzinfo=UTC))
    assert old.exists()
    assert all(row.hour.hour == 0 for row in old)
    assert Usage.objects.filter(hour__gte=datetime(2026, 11, 21, 1, tzinfo=UTC)).exists()  # the young stay
    fill(project, days=6, rows=40, seed=100 + seed)
    expected = [brute_force(project.id, *question) for question in questions]
    by_day.roll_up(NOW)
    check()


def test_sums_of_days_and_weeks_say_the_same_as_the_rows_that_they_stand_for(project: Project) -> None:
    """Also when more is added to days that are summed up, at once and after the next run."""
    fill(project, days=24, rows=80, seed=1)
    # With a whole month, and from the middle of a week until now.
    spans = [Span(date(2026, 10, 1), date(2026, 11, 18)), Span(date(2026, 10, 29), NOW.date())]
    questions = [(span, by, Only()) for span in spans for by in By if by != By.HOUR]
    onlys = (Only(account="subject-2"), Only(model="model_id-0"))
    questions += [(spans[1], by, only) for only in onlys for by in By if by != By.HOUR]

    def check() -> None:
        for question in questions:
            found = {row.key: row.figures for row in usage(project.id, *question).rows}
            same(found, brute_force(project.id, *question))
            days, report = overview(project.id, *question)
            assert report == usage(project.id, *question)
            assert days == usage(project.id, question[0], By.DAY, question[2])

    by_day.roll_up(NOW)
    assert not SummedDays.objects.filter(exact=True).exists()  # who adds just now can't know of them
    later = NOW + timedelta(minutes=30)
    by_day.roll_up(later)
    assert not SummedDays.objects.filter(exact=False).exists()
    assert not SummedDays.objects.filter(last__gte=NOW.date()).exists()
    check()
    with transaction.atomic():
        Usage.objects.filter(hour__lt=NOW - timedelta(days=3)).update(requests=0)  # sums are read, not rows
        week = Span(date(2026, 11, 9), date(2026, 11, 15))
        assert usage(project.id, week, By.ENDPOINT).total.requests > 0
        assert usage(project.id, week, By.DAY).total.requests > 0
        transaction.set_rollback(True)
    fill(project, days=24, rows=8, seed=2)  # late lines of a log
    inexact = SummedDays.objects.filter(exact=False).count()
    assert 0 < inexact < SummedDays.objects.count()
    by_day.roll_up(later)
    assert not SummedDays.objects.filter(exact=False, asked_at=NOW).exists()
    check()
    fill(project, days=24, rows=8, seed=3)
    check()  # sums where they are exact, rows where something was added
    ReplicaTime.objects.all().delete()
    Usage.objects.filter(project_id=project.id).update(endpoint_name="")
    assert names_in(project) == {}
    UsageSum.objects.filter(by=By.ENDPOINT, key="endpoint_id-1").update(name="once")
    assert names_in(project) == {"endpoint_id-1": "once"}


def names_in(project: Project) -> dict[str, str]:
    rows = usage(project.id, Span(date(2026, 11, 2), NOW.date()), By.ENDPOINT).rows
    return {row.key: row.name for row in rows if row.name != row.key}


def test_the_number_of_queries_is_the_same_at_any_size(project: Project) -> None:
    def queries(by: By) -> int:
        with CaptureQueriesContext(connection) as seen:
            usage(project.id, Span(date(2026, 9, 1), NOW.date()), by)
        return len(seen)

    fill(project, days=1, rows=20, seed=1)
    before = {by: queries(by) for by in By}
    fill(project, days=60, rows=200, seed=2)
    assert {by: queries(by) for by in By} == before
    assert max(before.values()) <= 6


def used(project_id: str, **fields: Any) -> Usage:
    plain = {"hour": NOW.replace(minute=0, second=0, microsecond=0), "status": 200, "requests": 1}
    return Usage.objects.create(**{**plain, "project_id": project_id, **fields})


def test_names_are_todays_and_those_of_what_is_gone_stay(
    endpoint: Endpoint, project: Project, owner: User
) -> None:
    account = ServiceAccount.objects.create(project=project, name="batch")
    key = ApiKey.objects.create(project=project, user=owner, name="laptop", expires_at=NOW)
    used(project.id, endpoint_id=endpoint.id, endpoint_name="old-name", subject=account.id, subject_name="x")
    used(project.id, endpoint_id=endpoint.id, endpoint_name="old-name", subject=key.id)
    used(project.id, endpoint_id="me-gone", endpoint_name="first", hour=ago(days=2), subject="sa-gone")
    used(project.id, endpoint_id="me-gone", endpoint_name="last", subject="sa-gone", subject_name="nightly")
    used(project.id, endpoint_id="me-gone", endpoint_name="last", status=404)
    span = Span(date(2026, 11, 1), NOW.date())
    endpoints = {row.key: (row.name, row.gone) for row in usage(project.id, span, By.ENDPOINT).rows}
    assert endpoints == {endpoint.id: ("embed-01", False), "me-gone": ("last", True)}
    accounts = {row.key: (row.name, row.gone) for row in usage(project.id, span, By.ACCOUNT).rows}
    assert accounts == {
        account.id: ("batch", False),
        key.id: ("laptop", False),
        "sa-gone": ("nightly", True),
        "": ("Without a token", False),
    }


def test_days_without_anything_are_there_too(project: Project) -> None:
    report = usage(project.id, Span(date(2026, 11, 20), date(2026, 11, 22)), By.DAY)
    assert [row.key for row in report.rows] == ["2026-11-20", "2026-11-21", "2026-11-22"]
    assert report.total == Figures()
    assert len(usage(project.id, Span(NOW.date(), NOW.date()), By.HOUR).rows) == 24
