"""What the autoscaler decided, as the page and the API tell it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from django.utils.html import escape
from pytest_django import DjangoAssertNumQueries

from endpoints.autoscaling import reading
from endpoints.autoscaling.deciding import Autoscaler
from endpoints.errors import describe
from endpoints.live_pages import EndpointPage
from endpoints.metrics.sample import ReplicaFigures, Sample
from endpoints.models import Decision, Endpoint, Node, ScaleState
from iam.actors import Actor
from tests.support_endpoints import load_data, new_endpoint

CPU = {"cpu_percent": {"value": 91.24, "target": 70, "count": 3}}
ABOVE = {"metric": "cpu_percent", "value": 91.24, "target": 70, "seconds": 15}


@pytest.fixture
def endpoint(editor_actor: Actor) -> Endpoint:
    """It scales by CPU, between 1 and 4 replicas, and has served."""
    load_data()
    made = new_endpoint(editor_actor, name="chat-01", max_replicas=4, cpu_percent=70)
    made.stable_revision = made.revision
    made.save()
    return made


def decided(endpoint: Endpoint, before: int = 2, after: int = 3, **fields: Any) -> Decision:
    values = {"at": timezone.now(), "rule": "above", "inputs": CPU, "params": ABOVE}
    return Decision.objects.create(endpoint=endpoint, before=before, after=after, **{**values, **fields})


def found(endpoint: Endpoint, seconds_ago: float = 0, **finding: Any) -> None:
    values = {"rule": "hold", "blocker": "", "before": 2, "after": 2, "inputs": {}, "params": {}}
    ScaleState.objects.update_or_create(
        endpoint=endpoint,
        defaults={
            "finding": {**values, **finding},
            "checked_at": timezone.now() - timedelta(seconds=seconds_ago),
        },
    )


def page(client: Client, endpoint: Endpoint, query: str = "") -> str:
    answer = client.get(reverse("endpoints:decisions", args=[endpoint.id]) + query)
    assert answer.status_code == 200
    return answer.content.decode()


# -- the ledger -----------------------------------------------------------------------------------------------------


def test_a_decision_as_the_api_shows_it(endpoint: Endpoint, viewer_client: Client) -> None:
    row = decided(endpoint, actor_name="someone@example.org", blocker="at_max", params={**ABOVE, "count": 5})
    got = viewer_client.get(f"/api/v1/endpoints/{endpoint.id}/decisions/").json()
    assert got["next"] is None
    [told] = got["results"]
    assert told.pop("text") == reading.sentence(row)
    assert told.pop("at").startswith(row.at.strftime("%Y-%m-%dT%H:%M:%S"))
    assert told == {
        "id": row.id,
        "rule": "above",
        "metric": "cpu_percent",
        "before": 2,
        "after": 3,
        "blocker": "at_max",
        "inputs": CPU,
        "params": {**ABOVE, "count": 5},
        "actor": "someone@example.org",
    }
    row.blocker, row.params = "", {}
    row.save()
    [told] = viewer_client.get(f"/api/v1/endpoints/{endpoint.id}/decisions/").json()["results"]
    assert (told["metric"], told["blocker"]) == (None, None)


def test_pages_of_the_api_lose_and_repeat_nothing(endpoint: Endpoint, editor_client: Client) -> None:
    same = timezone.now()
    rows = [decided(endpoint, at=same - timedelta(seconds=number // 3)).id for number in range(10)]
    url, ids = f"/api/v1/endpoints/{endpoint.id}/decisions/?page_size=3", []
    while url:
        got = editor_client.get(url).json()
        ids += [row["id"] for row in got["results"]]
        url = got["next"]
    newest_first = Decision.objects.order_by("-at", "-id").values_list("id", flat=True)
    assert ids == list(newest_first)
    assert sorted(ids) == sorted(rows)


def test_the_page_tells_each_decision_with_what_was_measured(
    endpoint: Endpoint, viewer_client: Client
) -> None:
    grown = decided(endpoint)
    held = decided(endpoint, 3, 3, rule="below", blocker="cooling_down", inputs={}, params={"left_s": 60})
    text = page(viewer_client, endpoint)
    assert text.index(f'id="decision-{held.id}"') < text.index(f'id="decision-{grown.id}"')
    part = text.split(f'id="decision-{grown.id}"', 1)[1].split("</li>", 1)[0]
    for words in (
        "2 → 3",
        escape(reading.sentence(grown)),
        "What was measured",
        "<td>91 %</td><td>70 %</td><td>3</td>",
    ):
        assert words in part, words
    part = text.split(f'id="decision-{held.id}"', 1)[1].split("</li>", 1)[0]
    assert "What was measured" not in part
    assert "Nothing has been decided yet" not in text


def test_without_decisions_it_says_what_will_stand_there(endpoint: Endpoint, viewer_client: Client) -> None:
    assert "Nothing has been decided yet" in page(viewer_client, endpoint)
    assert "No older decision" in page(viewer_client, endpoint, "?before=1")


@pytest.mark.parametrize("before", ["", "nonsense", "-1", "99999999999999999999", "0"])
def test_nonsense_in_the_address_shows_the_newest(
    before: str, endpoint: Endpoint, viewer_client: Client
) -> None:
    row = decided(endpoint)
    assert f'id="decision-{row.id}"' in page(viewer_client, endpoint, f"?before={before}")


def test_older_decisions_are_a_page_away_and_each_has_an_address(
    endpoint: Endpoint, editor_actor: Actor, viewer_client: Client
) -> None:
    now = timezone.now()
    rows = [decided(endpoint, at=now - timedelta(minutes=number // 2)) for number in range(reading.PAGE + 5)]
    shown, older = reading.page_of(endpoint)
    assert [entry.row.id for entry in shown] == list(
        Decision.objects.order_by("-at", "-id").values_list("id", flat=True)[: reading.PAGE]
    )
    rest, end = reading.page_of(endpoint, older)
    assert len(rest) == 5
    assert end is None
    assert {entry.row.id for entry in [*shown, *rest]} == {row.id for row in rows}
    assert f"?before={older}" in page(viewer_client, endpoint)
    # The one after it belongs to somebody else, or is gone: the address leads there all the same.
    last = rows[-1]
    assert endpoint.revision
    decided(new_endpoint(editor_actor, endpoint.revision.model, name="other"))
    assert f'id="decision-{last.id}"' in page(viewer_client, endpoint, f"?before={last.id + 1}")


def test_the_tab_costs_the_same_at_any_length(
    endpoint: Endpoint, viewer_client: Client, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    found(endpoint, inputs=CPU)
    decided(endpoint)
    page(viewer_client, endpoint)
    for _ in range(40):
        decided(endpoint)
    with django_assert_max_num_queries(11):
        assert page(viewer_client, endpoint).count('class="decision"') == reading.PAGE
    with django_assert_max_num_queries(7):
        answer = viewer_client.get(f"/api/v1/endpoints/{endpoint.id}/decisions/?page_size=40")
    assert len(answer.json()["results"]) == 40


def test_rows_of_another_age_are_shown_as_far_as_they_go(endpoint: Endpoint, viewer_client: Client) -> None:
    odd = {"weight_kg": {"value": "heavy"}, "cpu_percent": 12, "gpu_percent": {"value": None, "count": True}}
    row = decided(endpoint, rule="whim", blocker="mood", inputs=odd, params={})
    text = page(viewer_client, endpoint)
    assert f'id="decision-{row.id}"' in text
    assert "Weight_kg" in text
    assert viewer_client.get(f"/api/v1/endpoints/{endpoint.id}/decisions/").status_code == 200


def test_names_are_escaped(endpoint: Endpoint, viewer_client: Client) -> None:
    evil = "<img src=x onerror=alert(1)>"
    decided(endpoint, actor_name=evil, inputs={evil: {"value": 1}}, params={"metric": evil})
    assert "<img src=x" not in page(viewer_client, endpoint)


# -- the present state ------------------------------------------------------------------------------------------------


COOLING: dict[str, Any] = {
    "rule": "below",
    "blocker": "cooling_down",
    "params": {**ABOVE, "value": 20, "left_s": 100, "count": 1},
}


def test_what_is_left_of_a_wait_goes_on_between_two_looks(endpoint: Endpoint, viewer_client: Client) -> None:
    found(endpoint, inputs=CPU, **COOLING)
    text = page(viewer_client, endpoint)
    assert "CPU 20 % &lt; 70 %: 2 → 1, 1 min 40 s left of the cool-down" in text
    assert "has not looked" not in text
    checked = ScaleState.objects.get().checked_at
    assert checked is not None
    for later, left in ((30, "1 min 10 s"), (60, "40 s"), (600, "40 s")):  # nobody looked after that
        said = reading.present(endpoint, checked + timedelta(seconds=later)).said
        assert f", {left} left of the cool-down" in said, later
    found(endpoint, **{**COOLING, "params": {**COOLING["params"], "left_s": 3}})
    assert ", 0 s left" in reading.present(endpoint, timezone.now() + timedelta(seconds=50)).said


def test_idle_time_and_what_is_left_of_it_come_to_the_timeout(endpoint: Endpoint) -> None:
    found(endpoint, blocker="idling", params={"seconds": 300, "left_s": 600})
    checked = ScaleState.objects.get().checked_at
    assert checked is not None
    said = reading.present(endpoint, checked + timedelta(seconds=30)).said
    assert said == "no request for 5 min 30 s: asleep in 9 min 30 s if none comes"


def test_it_says_when_nobody_has_looked_for_long(endpoint: Endpoint, viewer_client: Client) -> None:
    assert "The autoscaler has not looked at it yet." in page(viewer_client, endpoint)
    found(endpoint, seconds_ago=50)
    assert "has not looked for" not in page(viewer_client, endpoint)
    found(endpoint, seconds_ago=110)
    assert "The autoscaler has not looked for 1 min 5" in page(viewer_client, endpoint)
    Endpoint.objects.filter(pk=endpoint.pk).update(paused_at=timezone.now())
    text = page(viewer_client, endpoint)
    assert "Paused: no replica runs" in text
    assert "has not looked" not in text
    Endpoint.objects.filter(pk=endpoint.pk).update(paused_at=None, stable_revision=None)
    ScaleState.objects.all().delete()
    assert "before it serves for the first time" in page(viewer_client, endpoint)


def test_why_there_is_no_room_is_said(endpoint: Endpoint, viewer_client: Client) -> None:
    shortage = {"kind": "gpu", "instance_type": "g1-standard-4x16-1rtx2080ti"}
    params = {**ABOVE, "count": 4, "shortage": shortage}
    found(endpoint, rule="above", blocker="no_capacity", params=params)
    row = decided(endpoint, 2, 2, blocker="no_capacity", params=params)
    reason = describe("no_capacity", shortage).message
    assert reason in reading.sentence(row)
    assert page(viewer_client, endpoint).count(escape(reason)) == 2


def test_a_fixed_number_is_said_to_be_fixed(
    endpoint: Endpoint, editor_client: Client, viewer_client: Client
) -> None:
    assert "the number is fixed" not in page(editor_client, endpoint)
    Endpoint.objects.filter(pk=endpoint.pk).update(max_replicas=1)
    assert "Change them" in page(editor_client, endpoint)
    assert "Change them" not in page(viewer_client, endpoint)


def test_the_real_autoscaler_s_word_is_told(endpoint: Endpoint, viewer_client: Client) -> None:
    Node.objects.create(name="big", region_id="HCM", cpus=64, memory_bytes=2**38)
    scaler, start = Autoscaler(), int(timezone.now().timestamp()) // 5 * 5 - 60
    for number in range(8):
        at = start + number * 5
        fresh = Endpoint.objects.select_related("revision__instance_type").get(pk=endpoint.pk)
        count = fresh.wanted_replicas
        replicas = {f"r{slot}": ReplicaFigures(cpu=91.0 / count) for slot in range(count)}
        sample = Sample(at, 5.0, {"2xx": 50}, wanted=count, ready=float(count), replicas=replicas)
        scaler.look([fresh], {endpoint.id: sample}, complete=True, held=())
    text = page(viewer_client, endpoint)
    assert "CPU 91 % &gt; 70 % for 15 s: 1 → 2" in text
    assert "Nothing asks for a change: stays at 2" in text  # one alone would have 91 % again
    [told] = viewer_client.get(f"/api/v1/endpoints/{endpoint.id}/decisions/").json()["results"]
    assert (told["before"], told["after"], told["metric"], told["blocker"]) == (1, 2, "cpu_percent", None)
    assert told["inputs"]["cpu_percent"]["target"] == 70


# -- live ----------------------------------------------------------------------------------------------------


def test_the_live_page_follows_looks_and_decisions(endpoint: Endpoint, editor_actor: Actor) -> None:
    live = EndpointPage(editor_actor, endpoint.id, {"tab": "scaling"})
    before = live.version()
    decided(endpoint)
    after = live.version()
    assert after != before
    found(endpoint, **COOLING)
    assert live.version() != after
    fragments = live.fragments()
    assert set(fragments) == {"head", "scaling", "decisions"}
    assert "left of the cool-down" in fragments["scaling"]
    assert 'id="decision-' in fragments["decisions"]
    other = EndpointPage(editor_actor, endpoint.id, {"tab": "events"})
    told = other.version()
    decided(endpoint)
    assert other.version()[:-1] == told[:-1]  # type: ignore[index]
