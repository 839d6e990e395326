"""Requests a minute, tokens and requests at once, limited by a real Envoy."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import openai
import pytest

from gateway.targets import Caller, EndpointTarget, Limits
from tests.support_gateway import Answer, Key, World, endpoint, jwks, until
from tests.support_replica import Exchange

pytestmark = pytest.mark.envoy

ID = "me-00000000-0000-4000-8000-0000000000"
FREE, LIMITED, PUBLIC, NARROW = (f"{ID}{n:02}" for n in range(4))


@dataclass
class Limiting:
    """A gateway whose limits a test sets; each test takes subjects of its own, and so buckets of its own."""

    world: World
    endpoints: dict[str, EndpointTarget]
    callers: dict[str, Limits]

    def publish(self) -> None:
        callers = tuple(Caller(subject, limits) for subject, limits in self.callers.items())
        self.world.gateway.publish(*self.endpoints.values(), callers=callers)

    def limit(self, subject: str, requests: int | None = None, **limits: int) -> None:
        self.callers[subject] = Limits(requests_per_minute=requests, **limits)
        self.publish()

    def change(self, name: str, **fields: Any) -> None:
        self.endpoints[name] = replace(self.endpoints[name], **fields)
        self.publish()

    def call(self, subject: str, name: str = FREE, **claims: Any) -> Answer:
        return self.world.gateway.get(f"/v1/{name}/x", self.world.key.token(sub=subject, **claims))

    def statuses(self, subject: str, times: int, name: str = FREE) -> list[int]:
        return [self.call(subject, name).status for _ in range(times)]


def slow(exchange: Exchange) -> None:
    """Answers when the test says so, in the request's path: /<event>."""
    for _ in exchange.body():
        pass
    HELD.setdefault(exchange.target, threading.Event()).wait(20)
    exchange.answer(b'{"usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}}')


HELD: dict[str, threading.Event] = {}


@pytest.fixture(scope="module")
def limiting() -> Iterator[Limiting]:
    world = World()
    try:
        replica = world.replica()
        endpoints = {
            FREE: endpoint(FREE, replica),
            LIMITED: endpoint(LIMITED, replica),
            PUBLIC: endpoint(PUBLIC, replica, private=False),
            NARROW: endpoint(NARROW, world.replica(slow)),
        }
        found = Limiting(world, endpoints, {})
        world.plane.publish(*endpoints.values())
        world.gateway.ready()
        yield found
    finally:
        world.close()


# --- requests a minute ------------------------------------------------------------------------------------


def test_a_caller_has_a_burst_of_its_limit_and_then_429(limiting: Limiting) -> None:
    limiting.limit("sa-burst", 6)
    assert limiting.statuses("sa-burst", 6) == [200] * 6
    refused = limiting.call("sa-burst")
    assert (refused.status, refused.code) == (429, "rate_limit_exceeded")
    error = refused.json()["error"]
    assert error["type"] == "rate_limit_error"
    assert "sa-burst" in error["message"]
    assert "6 requests a minute" in error["message"]
    told = {
        name: refused.header(name) for name in ("retry-after", "x-ratelimit-limit", "x-ratelimit-remaining")
    }
    assert told == {"retry-after": "10", "x-ratelimit-limit": "6", "x-ratelimit-remaining": "0"}
    assert refused.header("x-ratelimit-reset") == "10"
    assert refused.header("content-type") == "application/json"


def test_what_is_not_limited_is_told_nothing_of_limits(limiting: Limiting) -> None:
    limiting.limit("sa-some", 5)
    for subject in ("sa-none", "sa-some"):
        names = {name for name, _ in limiting.call(subject).headers}
        assert not {name for name in names if "ratelimit" in name or name in ("retry-after", "x-berth-limit")}
    assert limiting.statuses("sa-none", 20) == [200] * 20


def test_two_callers_share_nothing(limiting: Limiting) -> None:
    limiting.callers["key-one"] = limiting.callers["key-two"] = Limits(requests_per_minute=2)
    limiting.publish()
    assert limiting.statuses("key-one", 3) == [200, 200, 429]
    assert limiting.statuses("key-two", 3) == [200, 200, 429]


def test_nothing_else_that_changes_refills_a_bucket(limiting: Limiting) -> None:
    limiting.limit("sa-patient", 3)
    assert limiting.statuses("sa-patient", 4) == [200, 200, 200, 429]
    limiting.limit("sa-neighbour", 100)
    assert limiting.call("sa-patient").status == 429
    limiting.change(FREE, replicas=(*limiting.endpoints[FREE].replicas, limiting.world.replica().target()))
    assert limiting.call("sa-patient").status == 429
    policy = limiting.world.plane.targets.tokens
    limiting.world.gateway.publish(tokens=replace(policy, jwks=jwks(limiting.world.key, Key("k2"))))
    assert limiting.call("sa-patient").status == 429
    limiting.change(LIMITED, limits=Limits(requests_per_minute=1000), max_concurrency=500)
    assert limiting.call("sa-patient").status == 429
    limiting.world.gateway.publish(revoked=("sa-other:1",))
    assert limiting.call("sa-patient").status == 429


def test_a_changed_limit_leaves_its_own_bucket_as_full_as_it_was(limiting: Limiting) -> None:
    limiting.limit("sa-raised", 4)
    assert limiting.statuses("sa-raised", 5) == [200] * 4 + [429]
    limiting.limit("sa-raised", 40)
    assert limiting.statuses("sa-raised", 6).count(200) <= 3  # what flowed in meanwhile
    limiting.limit("sa-raised", 2)
    refused = limiting.call("sa-raised")
    assert (refused.status, refused.header("x-ratelimit-limit")) == (429, "2")


def test_after_the_time_that_was_told_a_request_passes(limiting: Limiting) -> None:
    limiting.limit("sa-returning", 30)
    assert limiting.statuses("sa-returning", 30) == [200] * 30
    answers = [limiting.call("sa-returning") for _ in range(3)]
    refused = next(answer for answer in answers if answer.status == 429)
    wait_s = int(refused.header("retry-after") or 0)
    assert wait_s == 2
    time.sleep(wait_s)
    assert limiting.call("sa-returning").status == 200


def test_an_endpoints_limit_is_of_all_its_callers_together(limiting: Limiting) -> None:
    limiting.change(LIMITED, limits=Limits(requests_per_minute=4), max_concurrency=None)
    assert [limiting.call(f"sa-{n}", LIMITED).status for n in range(4)] == [200] * 4
    refused = limiting.call("sa-fifth", LIMITED)
    assert (refused.status, refused.code) == (429, "rate_limit_exceeded")
    assert LIMITED in refused.json()["error"]["message"]
    assert (refused.header("x-ratelimit-limit"), refused.header("retry-after")) == ("4", "15")
    assert limiting.call("sa-fifth", FREE).status == 200


def test_an_endpoint_without_tokens_is_limited_too(limiting: Limiting) -> None:
    limiting.change(PUBLIC, limits=Limits(requests_per_minute=2))
    assert [limiting.world.gateway.get(f"/v1/{PUBLIC}/x").status for _ in range(3)] == [200, 200, 429]


def test_strangers_learn_nothing_of_limits(limiting: Limiting) -> None:
    limiting.limit("sa-full", 1)
    assert limiting.statuses("sa-full", 2) == [200, 429]
    assert limiting.call("sa-full", project="p2").status == 404
    assert limiting.call("sa-full", roles=["aiplatform.viewer"]).status == 403
    assert limiting.world.gateway.get(f"/v1/{FREE}/x").status == 401


def test_openais_client_sees_a_rate_limit_error(limiting: Limiting) -> None:
    limiting.limit("sa-sdk", 1)
    client = openai.OpenAI(
        base_url=f"http://127.0.0.1:{limiting.world.gateway.port}/v1/{FREE}/v1",
        api_key=limiting.world.key.token(sub="sa-sdk"),
        max_retries=0,
    )
    with client:
        client.models.list()
        with pytest.raises(openai.RateLimitError) as caught:
            client.models.list()
    assert caught.value.code == "rate_limit_exceeded"
    assert "sa-sdk" in caught.value.message
    assert caught.value.response.headers["retry-after"] == "60"


def test_a_gateways_log_has_nothing_to_say_about_limits(limiting: Limiting) -> None:
    limiting.call("sa-quiet")
    assert "hits_addend" not in (limiting.world.gateway.home / "envoy.log").read_text()


# --- requests at once -------------------------------------------------------------------------------------


def test_requests_at_once_are_limited_over_all_replicas_and_threads(limiting: Limiting) -> None:
    replicas = tuple(limiting.world.replica(slow).target() for _ in range(2))
    limiting.change(NARROW, replicas=replicas, max_concurrency=3)
    token = limiting.world.key.token()
    answers: list[Answer] = []

    def call() -> None:
        answers.append(limiting.world.gateway.get(f"/v1/{NARROW}/at-once", token))

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    until(lambda: len(answers) == 5, what="five are refused")
    assert {(answer.status, answer.code) for answer in answers} == {(429, "concurrency_limit_exceeded")}
    assert {answer.header("retry-after") for answer in answers} == {"1"}
    assert {answer.header("x-ratelimit-limit") for answer in answers} == {"3"}
    assert "3 requests at once" in json.loads(answers[0].body)["error"]["message"]
    HELD["/at-once"].set()
    for thread in threads:
        thread.join(10)
    assert [answer.status for answer in answers[5:]] == [200] * 3
    assert limiting.world.gateway.get(f"/v1/{NARROW}/at-once", token).status == 200
