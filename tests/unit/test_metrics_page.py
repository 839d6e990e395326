"""The Metrics tab: what the server says of its charts. What they look like: tests/e2e/test_metrics_browser.py."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from pytest_django import DjangoAssertNumQueries

from endpoints.charts import RANGES, charts
from endpoints.models import Endpoint, InstanceType
from endpoints.views.metrics import SCRIPTS
from iam.actors import Actor
from tests.support_endpoints import load_data, new_endpoint

ROOT = Path(__file__).resolve().parents[2]
# The shape of the API's answer; what is drawn must be in it.
SERIES = [
    "requests_per_s",
    "errors_4xx_per_s",
    "errors_5xx_per_s",
    "aborted_per_s",
    "latency_p50_ms",
    "latency_p95_ms",
    "latency_p99_ms",
    "first_byte_p50_ms",
    "first_byte_p95_ms",
    "first_byte_p99_ms",
    "in_flight",
    "in_flight_max",
    "tokens_in_per_s",
    "tokens_out_per_s",
    "queued",
    "kv_cache",
    "cpu",
    "memory",
    "gpu",
    "gpu_memory",
    "wanted",
    "ready",
    "min",
    "max",
]
GPU = {"gpu", "gpu_memory"}


@pytest.fixture
def endpoint(editor_actor: Actor) -> Endpoint:
    """One that was just asked for."""
    load_data()
    return new_endpoint(editor_actor, name="chat-01")


def page(client: Client, endpoint: Endpoint, query: str = "") -> str:
    """Its HTML."""
    return client.get(reverse("endpoints:metrics", args=[endpoint.id]) + query).content.decode()


def plan_of(text: str) -> dict[str, Any]:
    """What the scripts read."""
    found = re.search(r'<script id="metrics-plan" type="application/json">(.*?)</script>', text)
    assert found is not None
    return dict(json.loads(found.group(1)))


def test_every_figure_has_its_chart_and_every_chart_its_frame(
    endpoint: Endpoint, viewer_client: Client
) -> None:
    text = page(viewer_client, endpoint)
    plan = plan_of(text)
    drawn = [line["series"] for chart in plan["charts"] for line in chart["lines"]]
    assert sorted(drawn) == sorted(SERIES)
    for chart in plan["charts"]:
        assert f'data-chart="{chart["key"]}"' in text
    assert {chart["threshold"] for chart in plan["charts"]} - {""} == {
        "cpu_percent", "memory_percent", "gpu_percent", "latency_ms", "in_flight",
    }  # fmt: skip


def test_charts_of_gpus_come_with_the_instance_type(endpoint: Endpoint, viewer_client: Client) -> None:
    def hidden() -> set[str]:
        return set(re.findall(r'data-chart="(\w+)" hidden', page(viewer_client, endpoint)))

    assert hidden() >= GPU
    InstanceType.objects.filter(name="local-cpu").update(gpu_count=1)
    assert not hidden() & GPU
    assert {chart.key for chart in charts(gpu=True) if chart.optional} == hidden()


@pytest.mark.parametrize(
    ("query", "marked"),
    [
        ("", "1h"),
        *((f"?range={name}", name) for name in RANGES),
        ("?range=<b>", "1h"),
        ("?from=1&to=99999", None),
        ("?range=6h&from=x", None),
    ],
)
def test_the_address_says_which_range_is_marked(
    query: str, marked: str | None, endpoint: Endpoint, viewer_client: Client
) -> None:
    found = re.findall(r'data-range="(\w+)" aria-current', page(viewer_client, endpoint, query))
    assert found == ([marked] if marked else [])


def test_marks_lead_to_the_decisions(endpoint: Endpoint, viewer_client: Client) -> None:
    decisions = reverse("endpoints:decisions", args=[endpoint.id])
    assert f'data-decisions="{decisions}"' in page(viewer_client, endpoint)


def test_the_tab_costs_the_same_however_much_was_measured(
    endpoint: Endpoint, viewer_client: Client, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    page(viewer_client, endpoint)
    with django_assert_max_num_queries(8):
        page(viewer_client, endpoint)


def test_scripts_are_served_and_small() -> None:
    for name in SCRIPTS:
        lines = (ROOT / "static" / name).read_text().splitlines()
        assert len(lines) < 300, name
