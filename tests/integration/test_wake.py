"""From zero and back on a whole platform with real llama.cpp: requests to an endpoint that sleeps are answered."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.support_activator import in_threads, joined
from tests.support_days import Day, day
from tests.support_platform import place
from tests.support_processes import eventually

pytestmark = [pytest.mark.redis, pytest.mark.envoy, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def today(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Day]:
    with day(place(tmp_path_factory.mktemp("wake"))) as found:
        yield found


@pytest.fixture(scope="module")
def sleeper(today: Day) -> str:
    """It has served once."""
    endpoint = today.create("sleeper")
    today.until(endpoint, "ACTIVE")
    return endpoint


def put_to_sleep(today: Day, endpoint: str) -> None:
    today.hand.do(
        f"Endpoint.objects.filter(pk={endpoint!r}).update(min_replicas=0, idle_timeout_s=3600, desired_replicas=0)"
    )
    today.hand.do(f"__import__('endpoints.queue').queue.reconcile_in({endpoint!r}, 0)")
    today.until(endpoint, "ASLEEP")
    eventually(lambda: live(today, endpoint) == 0, "its replica has ended", 60)


def live(today: Day, endpoint: str) -> int:
    row = today.row(endpoint)
    assert row is not None
    return sum(1 for state, *_ in row["replicas"] if state not in ("stopped", "failed"))


def made(today: Day, endpoint: str) -> int:
    row = today.row(endpoint)
    assert row is not None
    return len(row["replicas"])


def client(today: Day, endpoint: str, token: str) -> openai.OpenAI:
    base = f"http://localhost:{today.where.gateway_port}/v1/{endpoint}/v1"
    return openai.OpenAI(base_url=base, api_key=token, max_retries=0, timeout=120)


def test_many_requests_wake_it_once_and_all_are_answered(today: Day, sleeper: str) -> None:
    put_to_sleep(today, sleeper)
    before, token = made(today, sleeper), today.token()
    began = time.monotonic()
    threads, answers = in_threads(
        50,
        lambda n: client(today, sleeper, token).completions.create(
            model="m", prompt=f"word {n}", max_tokens=1
        ),
    )
    joined(threads, 90)
    print(f"50 held requests answered after {time.monotonic() - began:.1f} s")
    assert all(answer is not None and answer.choices for answer in answers)
    assert made(today, sleeper) == before + 1
    today.until(sleeper, "ACTIVE")
    activator = today.running.children()["activator"]
    print(f"activator: {activator.memory_info().rss / 2**20:.1f} MB")


def test_a_streaming_chat_goes_on_when_it_wakes(today: Day, sleeper: str) -> None:
    put_to_sleep(today, sleeper)
    messages: Any = [{"role": "user", "content": "Hello"}]
    began = time.monotonic()
    stream = client(today, sleeper, today.token()).chat.completions.create(
        model="m", messages=messages, stream=True, max_tokens=8
    )
    parts = list(stream)
    print(f"stream of {len(parts)} after {time.monotonic() - began:.1f} s")
    assert parts[-1].choices[0].finish_reason
