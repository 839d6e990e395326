"""Metrics in the management API, and `/metrics` for Prometheus."""

from __future__ import annotations

import gzip
import math
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.conf import settings
from django.test import Client
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from rest_framework.serializers import ValidationError

from endpoints import gateway_feed
from endpoints.metrics import store
from endpoints.metrics.sample import ReplicaFigures, Sample
from endpoints.metrics.text_format import Family, labelled, text
from endpoints.metrics_api import asked
from endpoints.models import Decision, Endpoint, Gpu, Replica, ReplicaState
from gateway.control import Report
from iam.actors import Actor
from iam.models import Project
from iam.oauth import tokens
from iam.oauth.validator import client_for
from iam.roles import Role
from iam.services import create_service_account
from tests.conftest import seen_before
from tests.support_endpoints import crowded_endpoint, load_data, new_endpoint
from tests.unit.test_metrics_store import sample

pytestmark = pytest.mark.django_db
NOW = 1_790_000_100.0


@pytest.fixture
def endpoint(editor_actor: Actor) -> Endpoint:
    load_data()
    return new_endpoint(editor_actor)


def url(endpoint: Endpoint, query: str = "") -> str:
    return f"/api/v1/endpoints/{endpoint.id}/metrics/{query}"


def slot() -> int:
    return int(time.time()) // 5 * 5 - 5


# ---- the API


def test_a_chart_by_the_api(endpoint: Endpoint, viewer_client: Client) -> None:
    store.write({endpoint.id: sample(slot(), 10)})
    got = viewer_client.get(url(endpoint, "?range=15m")).json()
    assert set(got) == {"from", "to", "step", "at", "series", "replicas", "thresholds", "decisions"}
    assert got["step"] == 5
    assert got["to"] - got["from"] == 900
    assert [rate for rate in got["series"]["requests_per_s"] if rate is not None] == [2]
    begin = datetime.now(UTC) - timedelta(minutes=2)
    for moment in (begin.isoformat(), begin.isoformat().replace("+", "%2B"), str(begin.timestamp())):
        some = viewer_client.get(url(endpoint, f"?from={moment}&step=30")).json()
        assert some["from"] == pytest.approx(begin.timestamp(), abs=1e-3)
        assert (some["step"], sum(rate == 2 for rate in some["series"]["requests_per_s"])) == (30, 1)
    assert len(viewer_client.get(url(endpoint)).json()["at"]) in (360, 361)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("range=2h", "range"),
        ("range=1h&from=1790000000", "range"),
        ("step=0", "step"),
        ("step=4", "step"),
        ("step=1e3", "step"),
        ("step=-5", "step"),
        ("step=86401", "step"),
        ("step=٣٠", "step"),
        ("from=yesterday", "from"),
        ("from=nan", "from"),
        ("from=-5", "from"),
        ("from=2026-13-45T00:00:00Z", "from"),
        ("from=0001-01-01T00:00:00%2B23:59", "from"),
        ("to=%00", "to"),
        ("from=1790000000&to=1780000000", "from"),
        ("from=1000000000", "from"),
        ("from=99999999999", "from"),
    ],
)
def test_bad_input_is_a_problem_at_its_field(
    endpoint: Endpoint, viewer_client: Client, query: str, field: str
) -> None:
    answer = viewer_client.get(url(endpoint, f"?{query}"))
    assert answer.status_code == 400, answer.content
    assert answer["Content-Type"] == "application/problem+json"
    assert list(answer.json()["errors"]) == [field]


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({}, (NOW - 3600, NOW, None)),
        ({"range": "90d"}, (NOW - 90 * 86_400, NOW, None)),
        ({"from": "1789999000"}, (1_789_999_000, NOW, None)),
        ({"from": "1789999000", "to": "99999999999", "step": "60"}, (1_789_999_000, NOW, 60)),
        ({"to": "1789999000.5"}, (1_789_995_400.5, 1_789_999_000.5, None)),
        ({"from": "2026-09-21T14:10:00+00:00"}, (1_789_999_800, NOW, None)),
        ({"from": "2026-09-21T21:10:00 07:00"}, (1_789_999_800, NOW, None)),
        ({"from": "2026-09-21T14:10:00"}, (1_789_999_800, NOW, None)),
        ({"from": "", "to": "", "step": "", "range": ""}, (NOW - 3600, NOW, None)),
    ],
)
def test_what_was_asked_for(params: dict[str, str], expected: tuple[float, float, int | None]) -> None:
    assert asked(params, NOW) == expected


def test_several_errors_are_told_at_once() -> None:
    with pytest.raises(ValidationError) as raised:
        asked({"from": "x", "to": "y", "step": "z"}, NOW)
    assert set(raised.value.detail) == {"from", "to", "step"}


def test_who_may_see_them(
    endpoint: Endpoint, client: Client, viewer_client: Client, outsider_client: Client
) -> None:
    assert client.get(url(endpoint)).status_code == 401
    assert viewer_client.get(url(endpoint)).status_code == 200
    assert outsider_client.get(url(endpoint)).status_code == 404
    assert viewer_client.get("/api/v1/endpoints/me-nothing/metrics/").status_code == 404
    assert viewer_client.post(url(endpoint)).status_code in (403, 405)


def test_the_schema_names_what_is_asked_and_answered(client: Client) -> None:
    schema = client.get("/api/schema/", HTTP_ACCEPT="application/json").json()
    path = next(path for path in schema["paths"] if path.endswith("/metrics/"))
    call = schema["paths"][path]["get"]
    names = {one["name"] for one in call["parameters"] if one["in"] == "query"}
    assert names == {"range", "from", "to", "step"}
    answer = call["responses"]["200"]["content"]["application/json"]["schema"]
    assert "first_byte_p95_ms" in answer["properties"]["series"]["properties"]
    assert not any("prometheus" in path or path == "/metrics" for path in schema["paths"])


# ---- Prometheus


@pytest.fixture
def gateway(redis_server: Any) -> str:
    """One that serves the present snapshot."""
    gateway_feed.cluster().invalidate()
    given = gateway_feed.poll("gw-1", Report(counted=True, streams={}))
    assert given is not None
    gateway_feed.poll("gw-1", Report(etag=given.version, applied=given.version, counted=True, streams={}))
    return "gw-1"


def scraped(client: Client, **headers: str) -> dict[str, Metric]:
    answer = client.get("/metrics", **headers)
    assert answer.status_code == 200, answer.content
    assert answer["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    return {family.name: family for family in text_string_to_metric_families(answer.content.decode())}


def value(families: dict[str, Metric], name: str, family: str = "", /, **labels: str) -> float:
    found = [
        one.value
        for one in families[family or name.removesuffix("_total")].samples
        if one.name == name and labels.items() <= one.labels.items()
    ]
    assert len(found) == 1, (name, labels, found)
    return float(found[0])


def test_everything_for_prometheus(
    endpoint: Endpoint, viewer_client: Client, gateway: str, django_assert_max_num_queries: Any
) -> None:
    at = slot()
    replicas = {"r1": ReplicaFigures(cpu=12.5, memory=40.0, gpu=88.0, tokens_out=30.0)}
    answered = {"2xx": 18, "5xx": 2}
    busy = Sample(at, 5.0, answered, {40: 20}, {20: 18, 61: 2}, {70: 1}, 2.5, 4, 1, 1.0, 1, 2, 5.0, replicas)
    store.write({endpoint.id: busy})
    for slot_number, state in enumerate((ReplicaState.READY, ReplicaState.STARTING, ReplicaState.FAILED)):
        Replica.objects.create(
            endpoint=endpoint,
            revision=endpoint.revision,
            slot=slot_number,
            name=f"r{slot_number}",
            state=state,
        )
    Decision.objects.create(
        endpoint=endpoint, at=datetime.fromtimestamp(at, UTC), rule="above", before=1, after=2
    )
    seen_before(viewer_client)
    with django_assert_max_num_queries(16):
        found = scraped(viewer_client)
    mine = {"endpoint": endpoint.id, "name": "embed-01", "project": str(endpoint.project_id)}
    assert value(found, "berth_endpoint_requests_total", code="2xx", **mine) == 18
    assert value(found, "berth_endpoint_requests_total", code="other", **mine) == 0
    assert value(found, "berth_endpoint_requests_in_flight", **mine) == 2.5
    assert value(found, "berth_endpoint_requests_without_answer", **mine) == 1
    first = "berth_endpoint_first_byte_seconds"
    assert value(found, f"{first}_count", first, **mine) == 20
    assert value(found, f"{first}_bucket", first, le="0.01", **mine) == 18
    assert value(found, f"{first}_bucket", first, le="1", **mine) == 18
    assert value(found, f"{first}_bucket", first, le="1.77828", **mine) == 20
    assert value(found, f"{first}_bucket", first, le="+Inf", **mine) == 20
    assert value(found, f"{first}_sum", first, **mine) == pytest.approx(18 * 0.0095 + 2 * 1.06, rel=0.06)
    assert value(found, "berth_endpoint_tokens_generated_total", **mine) == 150
    assert value(found, "berth_replica_cpu_percent", replica="r1", **mine) == 12.5
    assert "berth_replica_kv_cache_percent" not in found
    assert [
        value(found, f"berth_endpoint_replicas_{name}", **mine) for name in ("wanted", "ready", "min", "max")
    ] == [1, 0, 1, 1]
    assert value(found, "berth_endpoint_replicas", state="ready", **mine) == 1
    assert value(found, "berth_endpoint_replicas", state="draining", **mine) == 0
    assert value(found, "berth_endpoint_status", status="PENDING", **mine) == 1
    assert value(found, "berth_endpoint_sample_timestamp_seconds", **mine) == at
    assert value(found, "berth_endpoint_decisions", rule="above", **mine) == 1
    assert value(found, "berth_endpoint_last_decision_timestamp_seconds", **mine) == at
    assert value(found, "berth_gateways") == 1
    assert value(found, "berth_gateway_current", gateway=gateway) == 1
    assert value(found, "berth_gateway_refuses", gateway=gateway) == 0
    assert 0 <= value(found, "berth_gateway_snapshot_age_seconds", gateway=gateway) < 5
    types = {name: family.type for name, family in found.items()}
    assert types["berth_endpoint_requests"] == "counter"
    assert types[first] == "histogram"
    assert all(family.documentation for family in found.values())


def test_counters_only_grow(endpoint: Endpoint, viewer_client: Client) -> None:
    seen = []
    for number in range(3):
        store.write({endpoint.id: sample(slot() - 20 + 5 * number, 7)})
        seen.append(value(scraped(viewer_client), "berth_endpoint_requests_total", code="2xx"))
    assert seen == [7, 14, 21]


def test_gpus_of_the_project_and_free_ones(
    editor_actor: Actor, viewer_client: Client, outsider_client: Client
) -> None:
    load_data()
    node = crowded_endpoint(editor_actor).replicas.get().node
    Gpu.objects.create(uuid="GPU-1", node=node, model="rtx2080ti")
    found = scraped(viewer_client)
    assert value(found, "berth_gpus", model="rtx2080ti", state="claimed") == 1
    assert value(found, "berth_gpus", model="rtx2080ti", state="free") == 1
    others = scraped(outsider_client)
    assert value(others, "berth_gpus", model="rtx2080ti", state="claimed") == 0


def test_prometheus_sees_its_project_alone(
    endpoint: Endpoint,
    client: Client,
    viewer_client: Client,
    outsider_client: Client,
    owner_actor: Actor,
    other_project: Project,
) -> None:
    store.write({endpoint.id: sample(slot())})
    refused = client.get("/metrics")
    assert (refused.status_code, refused["Content-Type"]) == (401, "application/problem+json")
    assert refused["WWW-Authenticate"].startswith("Bearer")
    bad = client.get("/metrics", HTTP_AUTHORIZATION="Bearer nonsense")
    assert (bad.status_code, "invalid_token" in bad["WWW-Authenticate"]) == (401, True)
    assert "berth_endpoint_requests" in scraped(viewer_client)
    assert "berth_endpoint_status" not in scraped(outsider_client)
    assert outsider_client.get(f"/metrics?project={endpoint.project_id}").status_code == 404
    account, _secret = create_service_account(actor=owner_actor, name="prometheus", roles=[Role.VIEWER])
    token = tokens.issue(client_for(account))
    # What Prometheus 3 asks for, in its order.
    accept = "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
    headers = {"HTTP_AUTHORIZATION": f"Bearer {token}", "HTTP_ACCEPT": accept}
    found = scraped(client, **headers)
    assert value(found, "berth_endpoint_requests_total", code="2xx", endpoint=endpoint.id) == 5
    packed = client.get("/metrics", HTTP_ACCEPT_ENCODING="gzip", **headers)
    assert gzip.decompress(packed.content).startswith(b"# HELP berth_endpoint_status ")


def test_without_redis_the_rest_is_told(
    endpoint: Endpoint, viewer_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "REDIS_URL", "unix:///nowhere/redis.sock")
    gateway_feed.cluster.cache_clear()
    try:
        found = scraped(viewer_client)
    finally:
        gateway_feed.cluster.cache_clear()
    assert "berth_endpoint_status" in found
    assert "berth_gateways" not in found


def test_names_and_numbers_are_written_as_prometheus_reads_them() -> None:
    odd = 'a"b\\c\nd'
    family = Family("berth_x", "gauge", "Help.")
    for number, one in enumerate((0.1, 3.0, 1e21, math.inf, -math.inf, math.nan)):
        family.add(labelled({"name": odd, "n": str(number)}), one)
    family.add("", 7)
    empty = Family("berth_y", "gauge", "Nothing.")
    (read,) = text_string_to_metric_families(text([family, empty]))
    values = [one.value for one in read.samples]
    assert values[:5] == [0.1, 3.0, 1e21, math.inf, -math.inf]
    assert math.isnan(values[5])
    assert values[6] == 7
    assert {one.labels.get("name") for one in read.samples} == {odd, None}
