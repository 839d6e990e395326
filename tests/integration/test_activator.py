"""Requests to an endpoint that sleeps, through a real Envoy and a real activator."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support_activator import Bedroom, in_threads, joined
from tests.support_gateway import Answer, World, until

pytestmark = pytest.mark.envoy
CHAT = "/v1/me-1/v1/chat/completions"


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.close()


def chat(world: World, stream: bool = False, **more: Any) -> Answer:
    body = json.dumps({"model": "m", "messages": [], "stream": stream, **more}).encode()
    return world.gateway.call(
        "POST", CHAT, token=world.key.token(), body=body, headers={"content-type": "application/json"}
    )


def test_held_requests_go_through_whole_in_order_and_wake_it_once(world: World) -> None:
    bedroom = Bedroom(world)
    replica = world.replica()
    big = os.urandom(40 * 1024 * 1024)

    def one(number: int) -> Answer:
        until(lambda: bedroom.waiting() == number, what=f"{number} wait")
        body = big if number == 3 else b"x" * number
        return world.gateway.call("PUT", f"/v1/me-1/anything?n={number}", token=world.key.token(), body=body)

    threads, answers = in_threads(6, one)
    bedroom.until_waiting(6)
    bedroom.wake(replica)
    joined(threads)
    assert [answer.status for answer in answers] == [200] * 6
    told = [answer.json() for answer in answers]
    assert told[3]["body_bytes"] == len(big)
    assert told[3]["body_sha256"] == hashlib.sha256(big).hexdigest()
    assert [one["body_bytes"] for number, one in enumerate(told) if number != 3] == [0, 1, 2, 4, 5]
    assert [exchange.target for exchange in replica.seen] == [f"/anything?n={n}" for n in range(6)]
    assert bedroom.wakes == 1
    sent = {name.lower() for name, _ in told[0]["headers"]}
    assert not {"authorization", "cookie", "x-berth-endpoint", "x-berth-activator"} & sent
    until(lambda: bedroom.asked[-1]["waiting"] == {} == bedroom.asked[-1]["connections"], what="all over")
