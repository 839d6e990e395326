"""Streams of an endpoint that sleeps: told how far the wake is, through a real Envoy and a real activator."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import openai
import pytest

from gateway.request_line import Request, parse
from tests.support_access_log import read
from tests.support_activator import (
    Bedroom,
    chat,
    data_of,
    in_threads,
    joined,
    leaver,
    send,
    streaming,
)
from tests.support_gateway import World, until
from tests.support_replica import Exchange

pytestmark = pytest.mark.envoy
CHUNK = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
PIECES = [
    b"data: "
    + json.dumps({**CHUNK, "choices": [{"index": 0, "delta": {"content": text}}]}).encode()
    + b"\n\n"
    for text in ("Good", " mor", "ning")
]


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with closing(World()) as world:
        yield world


@pytest.fixture(scope="module")
def shared(world: World) -> Bedroom:
    """Its streams get their first word after a moment."""
    return Bedroom(world, "--silent", "0.3", "--word-every", "0.2")


@pytest.fixture
def bedroom(shared: Bedroom) -> Bedroom:
    return shared.anew()


def client(world: World) -> openai.OpenAI:
    return openai.OpenAI(
        base_url=f"http://127.0.0.1:{world.gateway.port}/v1/me-1/v1", api_key=world.key.token(), max_retries=0
    )


def said(world: World) -> str:
    messages: Any = [{"role": "user", "content": "Good"}]
    stream = client(world).chat.completions.create(model="m", messages=messages, stream=True)
    return "".join(part.choices[0].delta.content or "" for part in stream)


def test_a_stream_is_told_how_far_the_wake_is_and_goes_on_with_the_replicas_words(
    world: World, bedroom: Bedroom
) -> None:
    replica = world.replica(streaming(*PIECES, b"data: [DONE]\n\n"))
    threads, answers = in_threads(2, lambda n: said(world) if n else chat(world, stream=True))
    bedroom.until_waiting(2)
    time.sleep(0.8)  # silence, then some words
    bedroom.wake(replica)
    joined(threads)
    raw, by_sdk = answers
    assert by_sdk == "Good morning"
    assert raw.header("content-type") == "text/event-stream; charset=utf-8"
    comments = [line for line in raw.body.decode().split("\n") if line.startswith(":")]
    assert len(comments) >= 2
    assert comments[0].startswith(": waking: loading model, about 1")
    assert raw.body.endswith(b"".join(PIECES) + b"data: [DONE]\n\n")
    assert {exchange.header("accept-encoding") for exchange in replica.seen} == {"identity"}


def test_an_answer_that_no_model_gave_costs_nothing(world: World, bedroom: Bedroom) -> None:
    """Not those that end while they are held; those that were let through cost what they do anywhere."""
    path, body = "/free/v1/chat/completions", b'{"messages": [], "stream": true}'

    def counted() -> list[Request]:
        found = [parse(line) for line in world.plane.shipped if read(line)["path"] == path]
        return [request for request in found if request is not None]

    threads, _ = in_threads(2, lambda _: send(world, f"/v1/me-1{path}", body))
    left = leaver(world, 100, f"/v1/me-1{path}")
    bedroom.until_waiting(3)
    left.close()
    until(lambda: [one.status for one in counted()] == [0], what="who left is counted")
    bedroom.until_waiting(2)
    time.sleep(0.4)  # the streams have begun
    bedroom.fail(status="FAILED", code="image_missing", message="There is no such image.")
    joined(threads)
    bedroom.anew().wake(world.replica(streaming(*PIECES)))
    assert send(world, f"/v1/me-1{path}", body).status == 200
    until(lambda: len(counted()) == 4, what="all are counted")
    tokens = [(one.status, one.prompt_tokens, one.completion_tokens) for one in counted()]
    assert tokens == [(0, 0, 0), (200, 0, 0), (200, 0, 0), (200, 8, len(PIECES))]


def test_a_short_wait_leaves_a_stream_alone(world: World, bedroom: Bedroom) -> None:
    bedroom.wake(world.replica(streaming(*PIECES)))
    assert chat(world, stream=True).body == b"".join(PIECES)


def test_a_refusal_after_the_first_word_is_one_event(world: World, bedroom: Bedroom) -> None:
    refusal = {"error": {"message": "The context is too long.", "code": 400, "type": "invalid_request_error"}}

    def refuse(exchange: Exchange) -> None:
        b"".join(exchange.body())
        exchange.answer(json.dumps(refusal).encode(), "400 Bad Request")

    threads, answers = in_threads(1, lambda _: chat(world, stream=True))
    bedroom.until_waiting(1)
    time.sleep(0.6)
    bedroom.wake(world.replica(refuse))
    joined(threads)
    (event,) = [json.loads(one) for one in data_of(answers[0])]
    assert event["error"] == {"status_code": 400, **refusal["error"]}


def test_the_sdk_raises_what_the_event_says(world: World, bedroom: Bedroom) -> None:
    def ask(_: int) -> Any:
        try:
            return said(world)
        except openai.APIError as error:
            return error

    threads, results = in_threads(1, ask)
    bedroom.until_waiting(1)
    time.sleep(0.6)
    bedroom.fail(status="FAILED", code="out_of_memory", message="It needs more memory.")
    joined(threads)
    assert isinstance(results[0], openai.APIError)
    assert "It needs more memory." in str(results[0])
