"""Requests a minute, tokens and requests at once, limited by a real Envoy."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import openai
import pytest

from gateway import denials
from gateway.budgets import Budgets
from gateway.targets import Caller, EndpointTarget, Limits
from tests.support_gateway import Answer, World, endpoint, until
from tests.support_replica import Exchange
from tests.support_tokens import Key, jwks
from tests.unit.test_budgets import REQUEST

pytestmark = pytest.mark.envoy

ID = "me-00000000-0000-4000-8000-0000000000"
FREE, LIMITED, PUBLIC, NARROW, MODEL, MODEL_2, OPEN = (f"{ID}{n:02}" for n in range(7))
ENFORCED_S = 2.0  # contract: how long a token limit may be exceeded


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

    def use(self, subject: str, what: object, name: str = MODEL, **claims: Any) -> Answer:
        """One request that takes so many tokens, see `model`."""
        token = self.world.key.token(sub=subject, **claims)
        return self.world.gateway.call("POST", f"/v1/{name}/{what}", token=token, body=b"{}")

    def refused(self, subject: str, name: str = MODEL) -> Answer:
        """The refusal that is due within the time of the contract."""

        def look() -> Answer | None:
            answer = self.use(subject, 0, name)
            return answer if answer.status == 429 else None

        found = until(look, ENFORCED_S, f"{subject} is refused at {name}")
        assert isinstance(found, Answer)
        return found

    def statuses(self, subject: str, times: int, name: str = FREE) -> list[int]:
        return [self.call(subject, name).status for _ in range(times)]


def slow(exchange: Exchange) -> None:
    """Answers when the test says so, in the request's path: /<event>."""
    for _ in exchange.body():
        pass
    HELD.setdefault(exchange.target, threading.Event()).wait(20)
    exchange.answer(b'{"usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}}')


HELD: dict[str, threading.Event] = {}


def model(exchange: Exchange) -> None:
    """/<tokens> answers with that many, /stream/<tokens> does so as a stream, /endless never ends."""
    for _ in exchange.body():
        pass
    words = exchange.target.strip("/").split("/")
    usage = {"prompt_tokens": 1, "completion_tokens": int(words[-1]) - 1 if words[-1].isdigit() else 0}
    if words[0] not in ("stream", "endless"):
        return exchange.answer(json.dumps({"choices": [], "usage": usage}).encode())
    exchange.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
    event = b'data: {"choices": [{"delta": {"content": "word"}}]}\n\n'
    for _ in range(3):
        exchange.chunk(event)
    while words[0] == "endless":  # until the caller has gone
        exchange.chunk(event)
        time.sleep(0.02)
    exchange.chunk(f"data: {json.dumps({'choices': [], 'usage': usage})}\n\n".encode())
    exchange.chunk(b"data: [DONE]\n\n")
    return exchange.chunk(b"")


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
            MODEL: endpoint(MODEL, world.replica(model)),
            MODEL_2: endpoint(MODEL_2, world.replica(model)),
            OPEN: endpoint(OPEN, world.replica(model), private=False),
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


def test_a_changed_limit_cuts_no_stream(limiting: Limiting) -> None:
    limiting.change(NARROW, max_concurrency=2)
    token = limiting.world.key.token()
    answers: list[Answer] = []
    path = f"/v1/{NARROW}/kept"
    thread = threading.Thread(target=lambda: answers.append(limiting.world.gateway.get(path, token)))
    thread.start()
    until(lambda: "/kept" in HELD, what="the model server has the request")
    for limit in (1, None, 5):
        limiting.change(NARROW, max_concurrency=limit)
    assert not answers
    HELD["/kept"].set()
    thread.join(10)
    assert [answer.status for answer in answers] == [200]


def test_websockets_and_requests_are_limited_together(limiting: Limiting) -> None:
    limiting.limit("sa-socket", 3)
    wanted = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Key": "a",
        "Sec-WebSocket-Version": "13",
    }
    token = limiting.world.key.token(sub="sa-socket")
    statuses = [
        limiting.world.gateway.call("GET", f"/v1/{FREE}/x", token=token, headers=headers).status
        for headers in (wanted, None, wanted, wanted, None)
    ]
    assert [status == 429 for status in statuses] == [False, False, False, True, True]


# --- tokens -----------------------------------------------------------------------------------------------


def test_tokens_of_answers_and_of_streams_count_against_a_callers_month(limiting: Limiting) -> None:
    limiting.limit("sa-month", tokens_per_month=100)
    assert limiting.use("sa-month", 60).status == 200
    assert b"[DONE]" in limiting.use("sa-month", "stream/40").body
    refused = limiting.refused("sa-month")
    assert refused.code == "rate_limit_exceeded"
    assert "sa-month" in refused.json()["error"]["message"]
    assert "100 tokens a month" in refused.json()["error"]["message"]
    assert refused.header("x-ratelimit-limit") == "100"
    now = datetime.now(UTC)
    following = datetime(now.year + now.month // 12, now.month % 12 + 1, 1, tzinfo=UTC)
    assert abs(int(refused.header("retry-after") or 0) - (following - now).total_seconds()) < 3
    assert limiting.use("sa-month", 1, MODEL_2).status == 429  # its limit, wherever it calls
    assert limiting.use("sa-month", 1, project="p2").status == 404
    assert limiting.use("sa-thrifty", 1).status == 200


def test_tokens_a_minute_are_told_until_the_next_minute(limiting: Limiting) -> None:
    limiting.limit("sa-minute", tokens_per_minute=5)
    until(lambda: time.time() % 60 < 55, 6, "enough of the minute is left")
    limiting.use("sa-minute", 7)
    refused = limiting.refused("sa-minute")
    assert "5 tokens a minute" in refused.json()["error"]["message"]
    assert abs(int(refused.header("retry-after") or 0) - (60 - time.time() % 60)) < 2


def test_a_stream_that_its_caller_breaks_off_counts(limiting: Limiting) -> None:
    limiting.limit("sa-hasty", tokens_per_month=5)
    token = limiting.world.key.token(sub="sa-hasty")
    with limiting.world.gateway.raw() as connection:
        connection.sendall(
            f"POST /v1/{MODEL}/endless HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\n"
            "content-length: 2\r\n\r\n{}".encode()
        )
        seen = b""
        while seen.count(b"word") < 6:
            seen += connection.recv(65536)
    limiting.refused("sa-hasty")


def test_an_endpoints_tokens_are_of_all_its_callers_and_its_path_alone(limiting: Limiting) -> None:
    limiting.change(MODEL_2, limits=Limits(tokens_per_month=30))
    for subject in ("sa-x", "sa-y"):
        assert limiting.use(subject, 15, MODEL_2).status == 200
    refused = limiting.refused("sa-z", MODEL_2)
    assert MODEL_2 in refused.json()["error"]["message"]
    gateway, token = limiting.world.gateway, limiting.world.key.token(sub="sa-z")
    for path in ("", "/", "?a=b", "/v1/x", "/..%2f"):
        assert gateway.get(f"/v1/{MODEL_2}{path}", token).status == 429, path
    for path in ("x", "%2Fx", ";x"):
        assert gateway.get(f"/v1/{MODEL_2}{path}", token).status == 404, path
    assert limiting.use("sa-z", 1).status == 200
    assert gateway.get(f"/v1/{MODEL_2}/x", limiting.world.key.token(project="p2")).status == 404


def test_an_endpoint_for_everybody_has_a_token_limit_too(limiting: Limiting) -> None:
    limiting.change(OPEN, limits=Limits(tokens_per_month=10))
    gateway = limiting.world.gateway
    assert gateway.call("POST", f"/v1/{OPEN}/10", body=b"{}").status == 200
    until(lambda: gateway.call("POST", f"/v1/{OPEN}/0", body=b"{}").status == 429, ENFORCED_S, "refused")


def test_a_limit_is_exceeded_by_what_was_in_flight_and_two_seconds(limiting: Limiting) -> None:
    limiting.limit("sa-busy", tokens_per_month=50)
    reached = refused = 0.0
    passed_after = 0
    tokens = 0
    deadline = time.monotonic() + 10
    while not (refused and time.monotonic() > refused + 0.5):
        status = limiting.use("sa-busy", 5).status
        now = time.monotonic()
        assert now < deadline
        if status == 429:
            refused = refused or now
        else:
            tokens += 5
            passed_after += bool(refused)
            reached = reached or (now if tokens >= 50 else 0)
        time.sleep(0.05)
    assert passed_after == 0
    assert refused - reached < ENFORCED_S


def test_counts_survive_agent_and_envoy_and_go_on_without_the_control_plane(limiting: Limiting) -> None:
    world, gateway = limiting.world, limiting.world.gateway
    limiting.limit("sa-steady", tokens_per_month=100)
    limiting.limit("sa-later", tokens_per_month=20)
    limiting.use("sa-steady", 60)
    world.plane.stop()
    try:
        gateway.signal(signal.SIGHUP)  # the agent alone; Envoy serves on
        limiting.use("sa-steady", 39)
        gateway.start()
        assert limiting.use("sa-steady", 1).status == 200
        limiting.refused("sa-steady")
        limiting.use("sa-later", 20)
        limiting.refused("sa-later")
        gateway.signal(signal.SIGTERM)  # both
        gateway.start()
        until(lambda: gateway.admin.is_ready(), what="Envoy serves again")
        assert limiting.use("sa-steady", 1).status == 429
        assert limiting.use("sa-free", 1).status == 200
    finally:
        world.plane.start()


def test_a_refusal_ends_with_its_window(limiting: Limiting) -> None:
    """Decided with a clock of the test's, refused by the real Envoy."""
    limiting.publish()
    gateway = limiting.world.gateway
    now = [time.time()]
    until(lambda: time.time() % 60 < 57, 6, "the gateway's own agent writes nothing meanwhile")
    home = gateway.home / "elsewhere"
    home.mkdir()
    judge = Budgets(home, gateway.home / "xds", lambda: now[0])
    judge.limit(denials.limits([Caller("sa-window", Limits(tokens_per_minute=1))], []))
    judge.count([REQUEST._replace(subject="sa-window", at=int(now[0]))])
    judge.tick()
    limiting.refused("sa-window")
    now[0] += 60
    judge.tick()
    until(lambda: limiting.use("sa-window", 0).status == 200, ENFORCED_S, "it passes again")
