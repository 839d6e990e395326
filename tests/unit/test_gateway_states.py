"""Gateways on the page of machines: who is up to date, who refuses what, and what is said when nothing is known."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from django.conf import settings
from django.test import Client

from endpoints import gateway_feed, gateway_states, unbuilt
from gateway import names, rejections
from gateway.apply import Refusal
from gateway.cluster import Building, Cluster, Unbuilt
from gateway.control import Report
from gateway.leaving import GatewayReport
from iam.models import User
from tests.conftest import signed_in

PAGE = "/administration/machines/"
NOW = 1_790_000_100.0


# ---- what a gateway refuses


def test_a_line_of_refusals_is_read_as_it_was_written() -> None:
    refused = [Refusal(names.ROUTES, "error; a: b"), Refusal(names.DENIALS, "no such; field")]
    line = rejections.in_one_line("0f3a", refused)
    assert rejections.read(line) == [rejections.Rejection(one.file, one.evidence) for one in refused]
    assert rejections.read("") == []


@pytest.mark.parametrize("line", ["nonsense", "0f3a: nonsense", "other.json: x"])
def test_any_other_line_is_told_as_it_is(line: str) -> None:
    assert rejections.read(line) == [rejections.Rejection("", line)]


def test_a_line_without_a_version_and_one_that_was_cut() -> None:
    assert rejections.read("routes.json: duplicate") == [rejections.Rejection("routes.json", "duplicate")]
    line = rejections.in_one_line("0f3a", [Refusal(names.TOKENS, "x" * 3000)])
    sent = Report.of(Report(rejected=line).headers()).rejected
    (found,) = rejections.read(sent)
    assert found.evidence.endswith("x…")


def test_every_file_has_words() -> None:
    for file in (*names.FILES, names.DENIALS):
        report = GatewayReport("gw", "", f"v {file}: x", live=True)
        (row,) = gateway_states.rows([report], {}, Building("v", NOW, None), NOW)
        assert row.refused[0].what != gateway_states._ANY[0], file


# ---- what a gateway serves


@pytest.mark.parametrize(
    ("report", "building", "state"),
    [
        (GatewayReport("g", "v2", "", live=True), Building("v2", NOW - 99, None), "current"),
        (GatewayReport("g", "v1", "", live=True), Building("v2", NOW - 9, None), "catching-up"),
        (GatewayReport("g", "v1", "", live=True), Building("v2", NOW - 11, None), "behind"),
        (GatewayReport("g", "", "", live=True), Building("v2", NOW - 11, None), "nothing"),
        (GatewayReport("g", "v2", "", live=False), Building("v2", NOW - 11, None), "silent"),
        (GatewayReport("g", "v2", "", live=False, gone=True), Building("v2", NOW, None), "stopped"),
        (GatewayReport("g", "v2", "", live=True), Building("", 0, None), "unknown"),
        (GatewayReport("g", "v2", "", live=True), Building("v2", NOW, Unbuilt(NOW, NOW, "x")), "last"),
    ],
)
def test_the_states(report: GatewayReport, building: Building, state: str) -> None:
    (row,) = gateway_states.rows([report], {"g": 1.5}, building, NOW)
    assert (row.state, row.unheard_s) == (state, None if report.live else 1.5)


# ---- the page


@pytest.fixture
def staff_client(db: None) -> Client:
    return signed_in(User.objects.create_user("staff@example.org", "-", is_staff=True, is_superuser=True))


def section(client: Client) -> str:
    page = client.get(PAGE)
    assert page.status_code == 200
    return page.content.decode().split('aria-labelledby="gateways"')[1]


def follow(gateway_id: str, rejected: str = "") -> None:
    given = gateway_feed.poll(gateway_id, Report())
    version = given.version if given else ""
    gateway_feed.poll(gateway_id, Report(etag=version, applied=version, rejected=rejected))


def test_each_gateway_has_a_row_with_what_it_refuses(staff_client: Client, redis_server: redis.Redis) -> None:
    assert "No gateway has called" in section(staff_client)
    follow("gw-1")
    follow("gw-<b>", "v tokens.json: bad <script>alert(1)</script>; access.json: no such field")
    gateway_feed.poll("gw-3", Report())
    page = section(staff_client)
    assert page.count("Up to date") == 2
    assert page.count("Refuses a part") == 1
    assert "Serves nothing yet" in page
    assert "gw-&lt;b&gt;" in page
    assert "bad &lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<script>alert" not in page
    for text in ("Keys that tokens are checked with", "Revocations, and callers", "no such field"):
        assert text in page


def test_more_gateways_cost_no_more_questions(
    staff_client: Client, redis_server: redis.Redis, django_assert_max_num_queries: Any
) -> None:
    section(staff_client)
    asked: list[tuple[int, int]] = []
    for number in (1, 9):
        for i in range(number):
            follow(f"gw-{i}")
        before = redis_server.info("stats")["total_reads_processed"]
        with django_assert_max_num_queries(20) as queries:
            section(staff_client)
        asked.append((len(queries), redis_server.info("stats")["total_reads_processed"] - before))
    assert asked[0] == asked[1]


@pytest.fixture
def redis_away(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(settings, "REDIS_URL", "unix:///nonexistent/redis.sock")
    gateway_feed.asked.cache_clear()
    yield
    gateway_feed.asked.cache_clear()


def test_while_redis_is_away_nothing_is_known(staff_client: Client, redis_away: None) -> None:
    page = section(staff_client)
    assert "Redis does not answer" in page
    assert "No gateway has called" not in page


def test_a_gateway_that_falls_behind(staff_client: Client, redis_server: redis.Redis) -> None:
    follow("gw-1")
    redis_server.hset("berth:gateway:newest", mapping={"version": "newer", "since": time.time() - 125})
    assert "2 min 5 s behind" in section(staff_client)


# ---- evidence


def test_evidence_has_no_secrets_and_ends() -> None:
    token = unbuilt.read_or_create(settings.BERTH_GATEWAY_TOKEN_FILE)
    try:
        raise ValueError(f"not {token}\nnor\x00 {settings.SECRET_KEY} " + "x" * 5000)
    except ValueError as error:
        error.add_note("at the endpoint me-1")
        told = unbuilt.evidence_of(error)
    assert told.startswith("ValueError: not … nor? … xxx")
    assert "(tests/unit/test_gateway_states.py:" in told
    assert len(told) < 700


def test_a_failure_is_kept_from_the_first_try_to_the_next_success(
    db: None, redis_server: redis.Redis
) -> None:
    cluster = Cluster(redis_server)
    assert cluster.building() == Building("", 0, None)
    cluster.cannot_build("one", NOW)
    cluster.cannot_build("two", NOW + 5)
    assert cluster.building().unbuilt == Unbuilt(NOW, NOW + 5, "two")
    built = gateway_feed.build(gateway_feed.targets())
    cluster.store(built, cluster.generation())
    first = cluster.building()
    assert (first.version, first.unbuilt) == (built.version, None)
    cluster.store(built, cluster.generation())
    assert cluster.building() == first
