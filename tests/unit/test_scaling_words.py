"""Decisions in one line, numbers for people, and rows of another age."""

from __future__ import annotations

from typing import Any

import pytest
from django.utils import timezone, translation

from endpoints.autoscaling.policy import Blocker, Limits, Metric, Rule
from endpoints.autoscaling.words import quantity, sentence, span, title
from tests.support_autoscaling import Replay

SLOW: dict[str, Any] = {"metric": "latency_ms", "value": 830.4, "target": 500, "seconds": 15}
BUSY: dict[str, Any] = {"metric": "cpu_percent", "value": 82.6, "target": 70, "seconds": 125}
LESSON: dict[str, Any] = {"count": 2, "load": 12.34, "since": 1_800_000_000.0}


@pytest.mark.parametrize(
    ("rule", "blocker", "before", "after", "params", "said"),
    [
        ("above", "", 2, 3, SLOW, "latency p95 830 ms > 500 ms for 15 s: 2 → 3"),
        ("above", None, 2, 3, BUSY, "CPU 83 % > 70 % for 2 min 5 s: 2 → 3"),
        (
            "above",
            "stabilising",
            2,
            2,
            {**SLOW, "seconds": 5, "left_s": 10, "count": 4},
            "latency p95 830 ms > 500 ms for 5 s: 2 → 4 in 10 s if it stays so",
        ),
        (
            "above",
            "stabilising",
            3,
            3,
            {**SLOW, "left_s": 10, "count": 3},
            "latency p95 830 ms > 500 ms for 15 s: stays at 3",
        ),
        (
            "above",
            "at_max",
            2,
            3,
            {**SLOW, "count": 5},
            "latency p95 830 ms > 500 ms for 15 s: 2 → 3, but max is 3 (5 would be needed)",
        ),
        (
            "above",
            "at_max",
            3,
            3,
            {**SLOW, "count": 5},
            "latency p95 830 ms > 500 ms for 15 s, but max is 3 (5 would be needed)",
        ),
        (
            "above",
            "step_limit",
            1,
            5,
            {**SLOW, "count": 9},
            "latency p95 830 ms > 500 ms for 15 s: 1 → 5, but one step brings no more (9 are needed)",
        ),
        (
            "above",
            "coming",
            2,
            2,
            SLOW,
            "latency p95 830 ms > 500 ms, but a replica that was asked for does not serve yet",
        ),
        (
            "above",
            "no_capacity",
            2,
            2,
            {**SLOW, "reason": "needs 1 GPU, 0 free."},
            "latency p95 830 ms > 500 ms for 15 s, but there is no room for another replica: needs 1 GPU, 0 free.",
        ),
        (
            "above",
            "no_capacity",
            2,
            3,
            SLOW,
            "latency p95 830 ms > 500 ms for 15 s: 2 → 3, but there is no room for another replica",
        ),
        ("below", "", 3, 2, {**BUSY, "value": 20, "seconds": 300}, "CPU 20 % < 70 % for 5 min: 3 → 2"),
        (
            "below",
            "cooling_down",
            3,
            3,
            {**BUSY, "value": 20, "left_s": 240, "count": 1},
            "CPU 20 % < 70 %: 3 → 1, 4 min left of the cool-down",
        ),
        ("idle", "", 1, 0, {"seconds": 900}, "no request for 15 min: 1 → 0"),
        ("woken", "", 0, 1, {}, "a request came: 0 → 1"),
        (
            "woken",
            "no_capacity",
            0,
            0,
            {"reason": "all GPUs are taken."},
            "a request came, but there is no room for another replica: all GPUs are taken.",
        ),
        ("limits", "", 1, 3, {"min": 3, "max": 5}, "min is 3: 1 → 3"),
        ("limits", "", 5, 3, {"min": 1, "max": 3}, "max is 3: 5 → 3"),
        ("limits", "", 3, 1, {"min": 1, "max": 5}, "no threshold is set: 3 → 1"),
        (
            "limits",
            "no_capacity",
            1,
            1,
            {"min": 3, "max": 5},
            "min is 3, but there is no room for another replica",
        ),
        ("hold", "", 2, 2, {}, "nothing asks for a change: stays at 2"),
        ("hold", "", 0, 0, {}, "asleep until a request comes"),
        ("hold", "silent", 2, 2, {"metric": "gpu_percent"}, "no figures for GPU: stays at 2"),
        ("hold", "coming", 1, 1, {}, "no replica serves yet: stays at 1"),
        (
            "hold",
            "idling",
            1,
            1,
            {"seconds": 300, "left_s": 600},
            "no request for 5 min: asleep in 10 min if none comes",
        ),
    ],
)
def test_sentences(
    rule: str, blocker: str | None, before: int, after: int, params: dict[str, Any], said: str
) -> None:
    assert sentence(rule, blocker, before, after, params) == said


def test_a_lesson_names_its_time_where_the_reader_is() -> None:
    params = {**BUSY, "value": 20, **LESSON}
    with timezone.override("Asia/Ho_Chi_Minh"):
        said = sentence("below", "learned", 3, 3, params)
    assert said == (
        "CPU 20 % < 70 %: stays at 3, but not fewer: "
        "2 replicas were too few for 12.3 requests/s at 2027-01-15 15:00 +07"
    )
    assert "1 replica was too few" in sentence("below", "learned", 3, 2, {**params, "count": 1})


@pytest.mark.parametrize(
    ("metric", "value", "said"),
    [
        ("latency_ms", 0, "0 ms"),
        ("latency_ms", 829.6, "830 ms"),
        ("latency_ms", 999.4, "999 ms"),
        ("latency_ms", 999.6, "1 s"),
        ("latency_ms", 1234, "1.2 s"),
        ("cpu_percent", 82.6, "83 %"),
        ("gpu_percent", 1.26, "1.3 %"),
        ("in_flight", 12.5, "12.5"),
        ("in_flight", 8, "8"),
    ],
)
def test_quantities(metric: str, value: float, said: str) -> None:
    assert quantity(metric, value) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0 s"),
        (15, "15 s"),
        (59.6, "1 min"),
        (150, "2 min 30 s"),
        (599, "9 min 59 s"),
        (905, "15 min"),
        (3600, "1 h"),
        (3900, "1 h 5 min"),
        (90_000, "1 d 1 h"),
        (-5, "0 s"),
    ],
)
def test_spans(seconds: float, said: str) -> None:
    assert span(seconds) == said


def test_numbers_follow_the_language() -> None:
    with translation.override("vi"):
        assert quantity("latency_ms", 1234) == "1,2 s"


@pytest.mark.parametrize("rule", [*Rule, "something_new"])
@pytest.mark.parametrize("blocker", [*Blocker, "", "something_new"])
@pytest.mark.parametrize(
    "params", [{}, {"metric": "new", "value": "x"}, {**SLOW, "value": float("nan")}, {"count": None}]
)
def test_rows_of_another_age_are_said_in_short(rule: str, blocker: str, params: dict[str, Any]) -> None:
    said = sentence(rule, blocker, 2, 3, params)
    assert "3" in said or blocker
    assert "%(" not in said
    assert "\n" not in said


def test_every_verdict_of_the_policy_has_its_words() -> None:
    """What the policy hands over is what the sentences need: none of them is said in short."""
    limits = Limits(0, 6, {Metric.CPU: 70.0, Metric.IN_FLIGHT: 5.0}, idle_timeout_s=60, down_after_s=60)
    replay, said = Replay(limits, wanted=1, start_s=10), []
    busy, quiet = {Metric.CPU: 100.0, Metric.IN_FLIGHT: 80.0}, {Metric.CPU: 5.0, Metric.IN_FLIGHT: 1.0}
    for values, active in ((busy, True), (quiet, True), ({}, None), (quiet, False)):
        for _ in range(30):
            before = replay.wanted
            verdict = replay.look(values, active=active, load=1.0)
            said.append(sentence(verdict.rule, verdict.blocker, before, verdict.wanted, verdict.params))
    assert said[0] == "requests in flight per replica 80 > 5 for 5 s: 1 → 6 in 10 s if it stays so"
    assert (
        "requests in flight per replica 80 > 5 for 15 s: 1 → 5, but one step brings no more (16 are needed)"
        in said
    )
    assert "CPU 5 % < 70 % for 1 min: 6 → 1" in said
    assert "no request for 1 min: 1 → 0" in said
    assert "no figures for CPU: stays at 1" in said
    assert not [item for item in said if item[0].isdigit()]


def test_titles() -> None:
    assert [title(metric) for metric in Metric] == [
        "CPU",
        "RAM",
        "GPU",
        "latency p95",
        "requests in flight per replica",
    ]
