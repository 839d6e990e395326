"""Series found on a page, and rates from counters: what is right, what is nonsense, what is slow on purpose."""

from __future__ import annotations

import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from endpoints.metrics.beside import Beside
from endpoints.metrics.exposition import mean, total
from endpoints.metrics.page import dechunked
from endpoints.metrics.rates import LATEST_S, Rates, percent, sensible
from runtimes.errors import RuntimeUnreachable

VLLM = b"""# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="a"} 2.0
vllm:num_requests_running{engine="1",model_name="a"} 3.0
vllm:num_requests_running_total 900
vllm:kv_cache_usage_perc{engine="0",model_name="a"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="a"} 0.75
vllm:prompt_tokens_total{engine="0",model_name="say \\"} 7\\n{b}, # or not"} 1.5e+03 1712345678901
"""


def test_sets_of_labels_are_summed_and_shares_averaged() -> None:
    assert total(VLLM, ["vllm:num_requests_running"]) == 5
    assert mean(VLLM, ["vllm:kv_cache_usage_perc"]) == 0.5
    assert total(VLLM, ["vllm:prompt_tokens_total"]) == 1500
    assert total(VLLM, ["vllm:num_requests_running", "vllm:prompt_tokens_total", "absent"]) == 1505
    assert total(VLLM, ["vllm:num_requests"]) is None
    assert total(VLLM, []) is None


@pytest.mark.parametrize(
    ("page", "value"),
    [
        (b"q 1", 1),
        (b"q 1\nq 2\n", 3),
        (b"\nq\t4\r\n", 4),
        (b"q{} 4", 4),
        (b"q{a=\"}\"} 4", 4),
        (b"# q 5\nx q 5\nqq 5\nq_ 5\n", None),
        (b"q", None),
        (b"q ", None),
        (b"q NaN", None),
        (b"q 1\nq NaN", None),
        (b"q 1\nq -1", None),
        (b"q +Inf", None),
        (b"q one", None),
        (b"q{a=\"b 4", None),
        (b"q{a=\"b\n\"} 4", None),
        (b"q\xff 4", None),
        (b"q 4\xff", None),
        (b"", None),
        (b"q 1\n" * 1000, 1000),
        (b"q 1\n" * 1001, None),
    ],
)  # fmt: skip
def test_what_a_page_says(page: bytes, value: float | None) -> None:
    assert total(page, ["q"]) == value


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_no_page_breaks_the_reading_of_it(before: bytes, after: bytes) -> None:
    value = total(before + b"\nq" + after, ["q"])
    assert value is None or 0 <= value < math.inf


@given(st.lists(st.tuples(st.text(max_size=20), st.floats(0, 1e9)), min_size=1, max_size=5))
def test_labels_may_hold_anything(samples: list[tuple[str, float]]) -> None:
    def quoted(text: str) -> str:
        return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

    page = "".join(f'q{{a="{quoted(text)}",}} {value!r}\n' for text, value in samples)
    assert total(page.encode(), ["q"]) == pytest.approx(sum(value for _, value in samples))


@pytest.mark.parametrize(
    "page",
    [
        b"q{" + b'a="' * 300_000,
        b'q{a="' + b"\\" * 1_000_000,
        b"q{" + b"a" * 1_000_000,
        b"q" * 1_000_000,
        b"\nq" * 500_000,
        b"\nq{" * 333_333,
        b"q 1" + b"0" * 1_000_000,
        b"q " + b" " * 1_000_000,
    ],
    ids=range(8),
)
def test_a_megabyte_made_to_be_slow_is_not(page: bytes) -> None:
    began = time.process_time()
    assert total(page, ["q"]) is None
    assert time.process_time() - began < 0.5


def test_a_rate_needs_two_readings_and_goes_on() -> None:
    rates = Rates()
    assert rates.rate("r1", "cpu", 10.0, 100.0) is None
    assert rates.rate("r1", "cpu", 15.0, 105.0) == 1.0
    assert rates.rate("r1", "cpu", 15.0, 110.0) == 0.0
    assert rates.rate("r1", "tokens", 15.0, 110.0) is None
    assert rates.rate("r2", "cpu", 15.0, 110.0) is None


def test_a_counter_that_begins_anew_has_no_rate_once() -> None:
    rates = Rates()
    rates.rate("r1", "cpu", 1000.0, 100.0)
    assert rates.rate("r1", "cpu", 3.0, 105.0) is None
    assert rates.rate("r1", "cpu", 8.0, 110.0) == 1.0


def test_readings_too_close_or_too_far_apart() -> None:
    rates = Rates()
    rates.rate("r1", "cpu", 0.0, 100.0)
    assert rates.rate("r1", "cpu", 1.0, 100.1) is None
    assert rates.rate("r1", "cpu", 10.0, 105.0) == 2.0, "the close one did not count"
    assert rates.rate("r1", "cpu", 500.0, 105.1 + LATEST_S) is None
    assert rates.rate("r1", "cpu", 500.0, 105.1 + LATEST_S) is None
    assert rates.rate("r1", "cpu", 505.0, 110.1 + LATEST_S) == 1.0
    assert rates.rate("r1", "cpu", math.nan, 115.1 + LATEST_S) is None


def test_who_is_gone_is_forgotten() -> None:
    rates = Rates()
    rates.rate("r1", "cpu", 0.0, 100.0)
    rates.forget_others({"r2"})
    assert rates.rate("r1", "cpu", 5.0, 105.0) is None


@given(st.lists(st.tuples(st.floats(allow_nan=True), st.floats(0, 100)), max_size=20))
def test_no_rate_is_negative_or_no_number(steps: list[tuple[float, float]]) -> None:
    rates, at = Rates(), 0.0
    for value, step in steps:
        at += step
        found = rates.rate("r1", "cpu", value, at)
        assert found is None or found >= 0


def test_what_can_not_be_is_not_said() -> None:
    assert percent(50, 200, 10_000) == 25
    assert percent(None, 200, 10_000) is None
    assert percent(50, 0, 10_000) is None
    assert percent(50, math.inf, 10_000) is None
    assert percent(-1, 200, 10_000) is None
    assert percent(math.nan, 200, 10_000) is None
    assert percent(30_000, 200, 10_000) is None
    assert sensible(math.inf, 1e9) is None
    assert sensible(0, 1e9) == 0


@given(st.binary(max_size=200))
def test_chunks_of_anything(text: bytes) -> None:
    dechunked(text)
    framed = b"%x\r\n%s\r\n" % (len(text), text) if text else b""
    assert dechunked(framed + b"3;a=b\r\nend\r\n0\r\n\r\n") == text + b"end"
    assert dechunked(framed + b"3\r\nen") is None


def test_a_mistake_of_ours_is_no_silence() -> None:
    def broken() -> int:
        raise ZeroDivisionError

    def away() -> int:
        raise RuntimeUnreachable("connection refused")

    one: Beside[int] = Beside("test")
    try:
        for call, answer in ((lambda: 5, 5), (away, None), (lambda: 0, 0)):
            one.ask(call)
            assert one.answer(5) == answer
        one.ask(broken)
        with pytest.raises(ZeroDivisionError):
            one.answer(5)
        one.ask(lambda: 6)
        assert one.answer(5) == 6
    finally:
        one.close()


def test_an_answer_that_comes_late_counts_in_the_next_round(monkeypatch: pytest.MonkeyPatch) -> None:
    one: Beside[int] = Beside("test")
    try:
        one.ask(lambda: time.sleep(0.2) or 1)
        assert one.answer(0.01) is None
        one.ask(lambda: 2)
        assert one.answer(5) == 1
        one.ask(lambda: 3)
        assert one.answer(5) == 3
        one.ask(lambda: 4)
        while one._answers.empty():
            time.sleep(0.01)
        monkeypatch.setattr("endpoints.metrics.beside.OLD_S", 0.0)
        one.ask(lambda: 5)
        assert one.answer(5) == 5, "4 is of long ago"
    finally:
        one.close()
