"""Other limits, tried on stored metrics: by API, and on the settings page before anything is saved."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from pytest_django import DjangoAssertNumQueries

from endpoints.autoscaling import trial
from endpoints.metrics import rows
from endpoints.metrics.sample import RESOLUTIONS, ReplicaFigures, Sample
from endpoints.models import Decision, Endpoint, InstanceType, MetricSample, MetricSeries
from endpoints.steps_chart import steps_chart
from gateway.figures import bin_of
from iam.actors import Actor
from tests.support_endpoints import load_data, new_endpoint

NOW = 1_800_000_000  # a multiple of every resolution
Load = Callable[[float], tuple[float, int]]  # seconds ago → (CPU % of each replica, how many of them)


@pytest.fixture
def endpoint(editor_actor: Actor) -> Endpoint:
    """One to four replicas by CPU, at 730 a month each: one an hour."""
    load_data()
    InstanceType.objects.filter(name="local-cpu").update(price_month=730, currency="VND")
    made = new_endpoint(editor_actor, name="chat-01", max_replicas=4, cpu_percent=70)
    return Endpoint.objects.select_related("revision__instance_type", "revision__model__framework").get(
        pk=made.pk
    )


def measured(endpoint: Endpoint, ago: Iterable[int], resolution: int, load: Load, now: float = NOW) -> None:
    """Samples of that length, each beginning so many seconds before `now`."""
    series, _ = MetricSeries.objects.get_or_create(endpoint=endpoint)
    found = []
    for seconds in ago:
        cpu, count = load(seconds)
        at = int(now - seconds) // resolution * resolution
        sample = Sample(
            at,
            float(resolution),
            {"2xx": 10 * resolution},
            first_byte={bin_of(cpu * 10): 10.0 * resolution},
            in_flight=2.0,
            wanted=count,
            ready=float(count),
            low=1,
            high=4,
            replica_seconds=float(count * resolution),
            replicas={f"r{number}": ReplicaFigures(cpu=cpu) for number in range(count)},
        )
        figures = rows.pack(sample, endpoint.id)
        found.append(MetricSample(series=series, resolution=resolution, at=at, figures=figures))
    rows.save(found)


def busy_then_quiet(seconds_ago: float) -> tuple[float, int]:
    """Two replicas at 90 %, then two at 10 %."""
    return (90.0, 2) if seconds_ago > 1800 else (10.0, 2)


def an_hour(endpoint: Endpoint, load: Load = busy_then_quiet, now: float = NOW) -> None:
    measured(endpoint, range(3600, 0, -5), 5, load, now)


def limits(endpoint: Endpoint, **changes: Any) -> Any:
    values = {name: getattr(endpoint, name) for name in trial.FIELDS}
    size = endpoint.revision.instance_type if endpoint.revision else None
    return trial.checked_limits({**values, **changes}, size)


# -- the replay -------------------------------------------------------------------------------------------------------


def test_replicas_over_time_hours_cost_and_decisions(endpoint: Endpoint) -> None:
    an_hour(endpoint)
    tried = trial.run(endpoint, limits(endpoint), "1h", NOW)
    found = tried.simulation
    assert [point.real for point in found.points] == [2] * 720
    assert {point.simulated for point in found.points} == {1, 2, 3}
    assert found.real.replica_hours == pytest.approx(2)
    assert found.real.cost == pytest.approx(2)
    assert found.simulated.cost == pytest.approx(found.simulated.replica_hours)
    assert [(item.before, item.after) for item in found.decisions] == [(2, 3), (3, 1)]
    assert trial.sentence(found.decisions[0]).startswith("CPU 90 % > 70 %")
    assert tried.currency == "VND"
    never = trial.run(endpoint, limits(endpoint, min_replicas=2, max_replicas=2), "1h", NOW).simulation
    assert never.simulated == never.real
    assert MetricSample.objects.count() == 720


def test_assumptions_are_said_and_fit_the_case(endpoint: Endpoint) -> None:
    an_hour(endpoint)
    hour = " ".join(trial.run(endpoint, limits(endpoint), "1h", NOW).assumptions)
    assert "30 s after it is asked for." in hour
    assert "always room" in hour
    assert "today's price of local-cpu" in hour
    assert "means of" not in hour
    assert "were measured" not in hour
    week = " ".join(trial.run(endpoint, limits(endpoint), "7d", NOW).assumptions)
    assert "1 h of the 7 d were measured" in week
    InstanceType.objects.filter(name="local-cpu").update(price_month=None)
    free = trial.run(Endpoint.objects.get(pk=endpoint.pk), limits(endpoint), "1h", NOW)
    assert "price" not in " ".join(free.assumptions)
    assert free.simulation.real.cost is None
    assert free.currency == ""


def test_a_young_endpoint_is_tried_on_what_is_finest(endpoint: Endpoint) -> None:
    measured(endpoint, range(1200, 0, -5), 5, busy_then_quiet)
    measured(endpoint, range(1200, 0, -60), 60, busy_then_quiet)
    found = trial.run(endpoint, limits(endpoint), "7d", NOW).simulation
    assert (found.resolution, found.seconds) == (5, 1200)
    measured(endpoint, range(7200, 0, -60), 60, busy_then_quiet)
    found = trial.run(endpoint, limits(endpoint), "7d", NOW).simulation
    assert (found.resolution, found.seconds) == (60, 7200)
    measured(endpoint, range(3 * 86_400, 0, -900), 900, busy_then_quiet)
    found = trial.run(endpoint, limits(endpoint), "7d", NOW).simulation
    assert (found.resolution, found.seconds) == (900, 3 * 86_400)


def test_a_week_and_a_day_cost_little(
    endpoint: Endpoint, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    def swinging(seconds_ago: float) -> tuple[float, int]:
        return (95.0, 3) if int(seconds_ago // 1800) % 2 else (5.0, 3)

    measured(endpoint, range(RESOLUTIONS[60], 0, -60), 60, swinging)
    measured(endpoint, range(7 * 86_400, 0, -900), 900, swinging)
    for span, slots in (("24h", 1440), ("7d", 672)):
        begun = time.process_time()
        with django_assert_max_num_queries(20):
            found = trial.run(endpoint, limits(endpoint, latency_ms=500), span, NOW).simulation
        took = time.process_time() - begun
        assert len(found.points) == slots
        assert found.real.late_s
        assert took < 1.5, f"{span}: {took:.2f} s"  # 0.1 s on a quiet machine


# -- by API -----------------------------------------------------------------------------------------------------------


def sent(client: Client, endpoint: Endpoint, body: Any) -> Any:
    url = f"/api/v1/endpoints/{endpoint.id}/dry-run/"
    return client.post(url, body, content_type="application/json")


def test_the_answer_by_api(endpoint: Endpoint, editor_client: Client) -> None:
    an_hour(endpoint, now=time.time())
    body = {"autoscaling": {"cpu_percent": 50, "latency_ms": 800}, "max_replicas": 3, "range": "1h"}
    answer = sent(editor_client, endpoint, body)
    assert answer.status_code == 200, answer.content
    got = answer.json()
    assert set(got) == {
        *(
            "range",
            "resolution_s",
            "measured_s",
            "points",
            "replica_hours",
            "cost",
            "latency_above_s",
            "held_s",
        ),
        *("wakes", "decisions", "assumptions"),
    }
    assert (got["range"], got["resolution_s"]) == ("1h", 5)
    assert 3500 <= got["measured_s"] <= 3600
    assert set(got["points"][0]) == {"at", "simulated", "real"}
    assert {point["real"] for point in got["points"]} == {2}
    assert max(point["simulated"] for point in got["points"]) == 3
    assert got["replica_hours"]["real"] == pytest.approx(2, rel=0.02)
    assert got["cost"].pop("currency") == "VND"
    assert got["cost"] == got["replica_hours"]
    assert got["latency_above_s"]["real"] == pytest.approx(1800, rel=0.02)
    first = got["decisions"][0]
    assert (first["rule"], first["metric"], first["before"], first["after"]) == (
        *("above", "cpu_percent"),
        *(2, 3),
    )
    assert first["text"].startswith("CPU 90 % > 50 %")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", first["at"])
    assert len(got["assumptions"]) == 4
    endpoint.refresh_from_db()
    assert (endpoint.cpu_percent, endpoint.max_replicas, endpoint.generation) == (70, 4, 1)


def test_without_metrics_the_answer_is_empty(endpoint: Endpoint, editor_client: Client) -> None:
    got = sent(editor_client, endpoint, {}).json()
    assert (got["range"], got["points"], got["decisions"], got["measured_s"]) == ("24h", [], [], 0)
    assert got["replica_hours"] == {"simulated": 0, "real": 0}
    assert got["latency_above_s"] is None


@pytest.mark.parametrize(
    ("body", "field", "message"),
    [
        ({"autoscaling": {"cpu_percent": 0}}, "autoscaling.cpu_percent", "whole percentage from 1 to 100"),
        ({"autoscaling": {"cpu_percent": 101}}, "autoscaling.cpu_percent", "whole percentage from 1 to 100"),
        ({"autoscaling": {"cpu_percent": "x"}}, "autoscaling.cpu_percent", "valid integer"),
        ({"autoscaling": {"gpu_percent": 50}}, "autoscaling.gpu_percent", "has no GPU"),
        ({"min_replicas": 0}, "autoscaling.idle_timeout_s", "how many idle seconds"),
        ({"min_replicas": 5}, "min_replicas", "can't be more than max replicas (4)"),
        ({"max_replicas": 11}, "max_replicas", "from 1 to 10"),
        ({"range": "90d"}, "range", "not a valid choice"),
        ({"autoscaling": 7}, "autoscaling", "Invalid data"),
    ],
)
def test_bad_limits_are_refused_as_when_saving(
    body: Any, field: str, message: str, endpoint: Endpoint, editor_client: Client
) -> None:
    answer = sent(editor_client, endpoint, body)
    assert answer.status_code == 400
    errors = answer.json()["errors"]
    assert any(name.startswith(field) and message in " ".join(texts) for name, texts in errors.items()), (
        errors
    )


def test_only_those_who_may_save_may_try(
    endpoint: Endpoint,
    owner_client: Client,
    editor_client: Client,
    viewer_client: Client,
    outsider_client: Client,
    client: Client,
) -> None:
    page = reverse("endpoints:dry_run", args=[endpoint.id])
    for person, api, html in (
        (owner_client, 200, 200),
        (editor_client, 200, 200),
        (viewer_client, 403, 403),
        (outsider_client, 404, 404),
        (client, 401, 302),
    ):
        assert sent(person, endpoint, {}).status_code == api
        assert person.post(page, {}).status_code == html
    assert editor_client.get(page).status_code == 405
    assert editor_client.get(f"/api/v1/endpoints/{endpoint.id}/dry-run/").status_code == 405


# -- on the page ------------------------------------------------------------------------------------------------------


def typed(endpoint: Endpoint, **changes: str) -> dict[str, str]:
    values = {
        "name": "!!! not a name",
        "instance_type": "local-cpu",
        "min_replicas": "1",
        "max_replicas": "4",
    }
    return {**values, "cpu_percent": "70", **changes}


def fragment(client: Client, endpoint: Endpoint, **changes: str) -> str:
    answer = client.post(reverse("endpoints:dry_run", args=[endpoint.id]), typed(endpoint, **changes))
    assert answer.status_code == 200
    return answer.content.decode()


def test_the_page_offers_it_to_editors_beside_the_form(
    endpoint: Endpoint, editor_client: Client, viewer_client: Client
) -> None:
    url = reverse("endpoints:settings", args=[endpoint.id])
    address = reverse("endpoints:dry_run", args=[endpoint.id])
    assert editor_client.get(url).content.decode().count(f'hx-post="{address}"') == len(trial.RANGES)
    assert address not in viewer_client.get(url).content.decode()
    assert "Try these limits" not in editor_client.get(reverse("endpoints:create")).content.decode()


def test_what_is_typed_is_tried_and_not_saved(endpoint: Endpoint, editor_client: Client) -> None:
    an_hour(endpoint, now=time.time())
    text = fragment(editor_client, endpoint, range="1h", latency_ms="800")
    figures = dict(re.findall(r'<th scope="row">([^<]+)</th><td>([^<]+)</td>', text))
    assert figures["Replica-hours"] == "2.0"
    assert figures["Cost"] == "VND\u00a02.00"
    assert figures["Time with latency p95 above 800 ms"].startswith(("30 min", "29 min"))
    assert "really from 2 to 2, under these limits from 1 to 4" in text or "from 1 to 3" in text
    assert len(re.findall(r'<path class="steps steps-(?:real|trial)" d="M0 [^"]+H1000">', text)) == 2
    assert "CPU 90 % &gt; 70 %" in text
    assert re.search(r'<rect class="steps-late" x="[\d.]+" y="0" width="[\d.]+"', text)
    assert "latency would be above the threshold" in text
    assert "always room" in text
    assert '{"range": "1h"}' in text
    assert " style=" not in text
    endpoint.refresh_from_db()
    assert (endpoint.name, endpoint.latency_ms) == ("chat-01", None)


def test_what_is_wrong_is_said_with_its_field_as_when_saving(
    endpoint: Endpoint, editor_client: Client
) -> None:
    an_hour(endpoint, now=time.time())
    text = fragment(editor_client, endpoint, range="1h", cpu_percent="101", min_replicas="0")
    assert "<strong>CPU (%)</strong>: Enter a whole percentage from 1 to 100." in text
    assert "<strong>Idle timeout (s)</strong>: With min replicas 0" in text
    assert "not a name" not in text
    assert "<svg viewBox" not in text
    gpu = fragment(editor_client, endpoint, gpu_percent="70")
    assert "has no GPU" in gpu
    chosen = fragment(editor_client, endpoint, gpu_percent="70", instance_type="g1-standard-4x16-1rtx2080ti")
    assert "has no GPU" not in chosen


def test_before_anything_was_measured_it_says_so(endpoint: Endpoint, editor_client: Client) -> None:
    assert "Nothing was measured in this time" in fragment(editor_client, endpoint, range="7d")
    assert '{"range": "24h"}' in fragment(editor_client, endpoint, range="<script>")


def test_sleep_and_wakes_are_told(endpoint: Endpoint, editor_client: Client) -> None:
    series = MetricSeries.objects.create(endpoint=endpoint)
    now = int(time.time()) // 5 * 5
    found = []
    for number in range(720):
        is_active = number % 240 == 0  # one request every 20 min
        sample = Sample(
            now - 3600 + number * 5,
            5.0,
            {"2xx": 1} if is_active else {},
            wanted=1,
            ready=1.0,
            high=4,
            replica_seconds=5.0,
            replicas={"r": ReplicaFigures(cpu=1.0)},
        )
        figures = rows.pack(sample, endpoint.id)
        found.append(MetricSample(series=series, resolution=5, at=sample.at, figures=figures))
    rows.save(found)
    moments = [
        datetime.fromtimestamp(now - age, UTC) for age in (4000, 1800)
    ]  # the first was before that hour
    for at in moments:
        Decision.objects.create(endpoint=endpoint, at=at, rule="woken", before=0, after=1)
    changed = {"min_replicas": "0", "idle_timeout_s": "300"}
    text = fragment(editor_client, endpoint, range="1h", **changed)
    assert re.search(r"Woken by a request</th><td>once</td><td[^>]*>2 times</td>", text), text
    assert "Woken by a request</th><td>once</td><td>never</td>" in fragment(
        editor_client, endpoint, range="1h"
    )
    assert "A request came: 0 → 1" in text


# -- the picture ------------------------------------------------------------------------------------------------------


def test_step_lines_break_where_nothing_was_measured() -> None:
    at = [0.0, 10, 20, 30, 60, 70, 80, 90]
    chart = steps_chart(
        at,
        [("a", [1, 1, 2, 2, 2, 2, 0, None]), ("b", [None] * 8)],
        seconds=10,
        shaded=[False, True, True, False, False, False, False, True],
    )
    assert chart.top == 2
    assert chart.lines[0].path == "M0 50H200V0H400M600 0H800V100H900"
    assert chart.lines[1].path == ""
    assert chart.bands == ((100, 200), (900, 100))


@pytest.mark.parametrize("top", [0, 1, 3, 4, 10, 37])
def test_the_picture_s_edges_are_whole_counts(top: int) -> None:
    chart = steps_chart([0.0], [("a", [top])], seconds=5)
    assert chart.ticks[0] == chart.top == max(top, 1)
    assert chart.ticks[-1] == 0
    assert len(chart.grid) <= 12
    assert steps_chart([], [("a", [])], seconds=5).lines[0].path == ""
