"""Requests to an endpoint that sleeps, through a real Envoy and a real activator."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from websockets.sync.client import connect

from tests.support_activator import (
    CHAT,
    Bedroom,
    chat,
    data_of,
    in_threads,
    joined,
    leaver,
    send,
    sleeping,
)
from tests.support_gateway import Answer, World, endpoint, until
from tests.support_replica import Exchange
from tests.support_tokens import bearer

pytestmark = pytest.mark.envoy


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    world = World()
    yield world
    world.close()


@pytest.fixture(scope="module")
def shared(world: World) -> Bedroom:
    """Its streams get their first word after a moment."""
    return Bedroom(world, "--silent", "0.3", "--word-every", "0.2")


@pytest.fixture
def bedroom(shared: Bedroom) -> Bedroom:
    return shared.anew()


def test_held_requests_go_through_whole_and_wake_it_once(world: World, bedroom: Bedroom) -> None:
    replica = world.replica()
    big = os.urandom(40 * 1024 * 1024)

    def one(number: int) -> Answer:
        until(lambda: bedroom.waiting() == number, what=f"{number} wait")
        body = big if number == 3 else b"x" * number
        return send(world, f"/v1/me-1/anything?n={number}", body, "PUT")

    threads, answers = in_threads(6, one)
    bedroom.until_waiting(6)
    bedroom.wake(replica)
    joined(threads)
    assert [answer.status for answer in answers] == [200] * 6
    told = [answer.json() for answer in answers]
    assert told[3]["body_bytes"] == len(big)
    assert told[3]["body_sha256"] == hashlib.sha256(big).hexdigest()
    assert [one["body_bytes"] for number, one in enumerate(told) if number != 3] == [0, 1, 2, 4, 5]
    assert sorted(exchange.target for exchange in replica.seen) == [f"/anything?n={n}" for n in range(6)]
    assert bedroom.wakes == 1
    sent = {name.lower() for name, _ in told[0]["headers"]}
    assert not {"authorization", "cookie", "x-berth-endpoint", "x-berth-activator"} & sent
    until(lambda: bedroom.asked[-1]["waiting"] == {} == bedroom.asked[-1]["connections"], what="all over")


def test_two_hundred_held_requests_are_all_answered(world: World, bedroom: Bedroom) -> None:
    replica = world.replica()
    threads, answers = in_threads(200, lambda n: send(world, f"/v1/me-1/v1/embeddings?n={n}"))
    bedroom.until_waiting(200)
    bedroom.wake(replica)
    joined(threads)
    assert [answer.status for answer in answers] == [200] * 200
    assert [answer.json()["target"] for answer in answers] == [f"/v1/embeddings?n={n}" for n in range(200)]
    assert bedroom.activator.memory_mb() < 40


def test_several_replicas_take_turns_and_one_that_refuses_is_passed_over(
    world: World, bedroom: Bedroom
) -> None:
    replicas = [world.replica(name=name) for name in "abc"]
    replicas[1].close()
    threads, answers = in_threads(8, lambda _: chat(world))
    bedroom.until_waiting(8)
    bedroom.wake(*replicas)
    joined(threads)
    assert [answer.status for answer in answers] == [200] * 8
    told = [answer.json()["replica"] for answer in answers]
    assert min(told.count("a"), told.count("c")) >= 3, told


def test_no_request_follows_another_ones_way(world: World, bedroom: Bedroom) -> None:
    # The gateway keeps connections to replicas; one to the activator leads to a single endpoint's replica.
    replicas = {name: world.replica(name=name) for name in ("me-1", "me-2")}
    world.gateway.publish(sleeping("me-1"), sleeping("me-2"))
    bedroom.words_of = {
        name: {"state": "ready", "replicas": [["127.0.0.1", one.port]]} for name, one in replicas.items()
    }
    for _ in range(10):
        for name in replicas:
            assert send(world, f"/v1/{name}/v1/models").json()["replica"] == name


def test_a_wake_lets_no_more_through_than_the_endpoint_takes_at_once(world: World, bedroom: Bedroom) -> None:
    running: list[int] = []
    most, go_on = [0], threading.Event()

    def slowly(exchange: Exchange) -> None:
        b"".join(exchange.body())
        running.append(1)
        most[0] = max(most[0], len(running))
        go_on.wait(10)
        running.pop()
        exchange.answer(b"{}")

    replica = world.replica(slowly)
    threads, answers = in_threads(7, lambda _: chat(world))
    bedroom.until_waiting(7)
    bedroom.wake(replica)
    bedroom.words["at_once"] = 3
    bedroom.until_waiting(4)
    until(lambda: len(running) == 3, what="three are being answered")
    go_on.set()
    joined(threads)
    assert [answer.status for answer in answers] == [200] * 7
    assert most == [3]


# --- who may ----------------------------------------------------------------------------------------------


def test_the_same_callers_may_as_of_a_served_endpoint(world: World, bedroom: Bedroom) -> None:
    assert world.gateway.call("POST", CHAT).status == 401
    assert world.gateway.get(CHAT, world.key.token(roles=["aiplatform.viewer"])).status == 403
    assert world.gateway.get(CHAT, world.key.token(project="p2")).status == 404
    assert not any(said["waiting"] for said in bedroom.asked)


def test_nobody_else_is_heard_and_nobody_chooses_the_endpoint(world: World, bedroom: Bedroom) -> None:
    path = bedroom.activator.address.removeprefix("unix:")
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.connect(path)
        stranger.sendall(b"GET / HTTP/1.1\r\nx-berth-endpoint: me-1\r\nx-berth-activator: guess\r\n\r\n")
        assert stranger.recv(1000).startswith(b"HTTP/1.1 403 ")
    assert Path(path).stat().st_mode & 0o077 == 0
    threads, _ = in_threads(1, lambda _: send(world, x_berth_endpoint="me-2", x_berth_activator="x"))
    until(bedroom.waiting, what="it waits")
    assert list(bedroom.asked[-1]["waiting"]) == ["me-1"]
    bedroom.wake(world.replica())
    joined(threads)


# --- what goes wrong --------------------------------------------------------------------------------------


def test_a_wake_that_fails_gives_the_held_requests_its_cause(world: World, bedroom: Bedroom) -> None:
    threads, answers = in_threads(3, lambda n: chat(world, stream=n > 1))
    bedroom.until_waiting(3)
    time.sleep(0.6)  # the stream has begun
    cause = {"status": "FAILED", "code": "out_of_memory", "message": "It needs more memory."}
    bedroom.fail(**cause)
    joined(threads)
    error = {
        "message": "The endpoint has failed: It needs more memory.",
        "type": "server_error",
        "code": "out_of_memory",
        "status": "FAILED",
    }
    for answer in answers[:2]:
        assert (answer.status, answer.json()) == (503, {"error": error})
    assert answers[2].status == 200
    assert [json.loads(one) for one in data_of(answers[2])] == [{"error": error}]
    assert answers[2].body.endswith(b"\n\n")


def test_an_endpoint_that_is_deleted_meanwhile_is_not_found(world: World, bedroom: Bedroom) -> None:
    bedroom.words = {"state": "gone"}
    assert (chat(world).status, chat(world).code) == (404, "endpoint_not_found")


@pytest.fixture
def impatient(world: World, shared: Bedroom) -> Iterator[Bedroom]:
    """Another one in the place of the shared one."""
    bedroom = Bedroom(world, "--hold-timeout", "1", "--each", "3", "--silent", "0.2")
    yield bedroom
    bedroom.close()
    world.plane.activation = shared.answer


def test_nobody_waits_for_ever_and_not_too_many_do(world: World, impatient: Bedroom) -> None:
    bedroom = impatient
    bedroom.words = {"state": "waking", "eta_s": 41.2, "message": "Fetching the image."}
    threads, answers = in_threads(3, lambda n: chat(world, stream=n > 1))
    bedroom.until_waiting(3)
    refused = chat(world)
    assert (refused.status, refused.code) == (503, "too_many_waiting")
    assert 40 <= int(refused.header("retry-after") or 0) <= 42
    joined(threads)
    for answer in answers[:2]:
        assert (answer.status, answer.code) == (503, "wake_timeout")
        assert "Fetching the image." in answer.json()["error"]["message"]
        assert 40 <= int(answer.header("retry-after") or 0) <= 42
    assert json.loads(data_of(answers[2])[0])["error"]["code"] == "wake_timeout"


def test_a_caller_who_left_frees_the_place_and_is_never_asked_for(world: World, bedroom: Bedroom) -> None:
    replica = world.replica()
    leavers = [leaver(world, size) for size in (0, 100, 512 * 1024)]
    bedroom.until_waiting(3)
    for one in leavers:
        one.close()
    bedroom.until_waiting(0)
    bedroom.wake(replica)
    assert chat(world).status == 200
    assert len(replica.seen) == 1


def test_a_body_that_only_half_came_is_never_a_request(world: World, bedroom: Bedroom) -> None:
    # With so much on its way Envoy itself does not look whether its caller is there.
    whole = []

    def answer(exchange: Exchange) -> None:
        b"".join(exchange.body())
        whole.append(exchange)
        exchange.answer(b"{}")

    one = leaver(world, 8 * 1024 * 1024)
    bedroom.until_waiting(1)
    one.close()
    bedroom.wake(world.replica(answer))
    bedroom.until_waiting(0)
    assert chat(world).status == 200
    until(lambda: not bedroom.asked[-1]["connections"], what="the half request has ended")
    assert len(whole) == 1


def test_a_replica_that_dies_under_a_request_costs_one_more_try_and_no_more(
    world: World, bedroom: Bedroom
) -> None:
    def die(exchange: Exchange) -> None:
        b"".join(exchange.body())
        exchange.connection.shutdown(socket.SHUT_RDWR)

    dying = world.replica(die)
    bedroom.wake(dying)
    answer = chat(world)
    assert (answer.status, answer.code, len(dying.seen)) == (503, "replica_unavailable", 2)
    healthy = world.replica()
    bedroom.wake(dying, healthy)
    assert {chat(world).status for _ in range(4)} == {200}


# --- other ways to talk -----------------------------------------------------------------------------------


def test_a_websocket_goes_through_the_hold(world: World, bedroom: Bedroom) -> None:
    def upgrade(exchange: Exchange) -> None:
        exchange.send(
            b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\r\n"
        )
        while data := exchange.reader.read1(100):
            exchange.send(data.upper())

    with world.gateway.raw() as caller:
        key = base64.b64encode(os.urandom(16)).decode()
        lines = ("GET /v1/me-1/ws HTTP/1.1", "host: x", "connection: Upgrade", "upgrade: websocket")
        lines += (f"sec-websocket-key: {key}", "sec-websocket-version: 13")
        lines += (f"authorization: Bearer {world.key.token()}", "", "")
        caller.sendall("\r\n".join(lines).encode())
        bedroom.until_waiting(1)
        bedroom.wake(world.replica(upgrade))
        assert caller.recv(1000).startswith(b"HTTP/1.1 101 ")
        for word in (b"held", b"and let through"):
            caller.sendall(word)
            assert caller.recv(100) == word.upper()
    until(lambda: not bedroom.asked[-1]["connections"], what="the connection to the replica has ended")


@pytest.fixture
def uvicorn_port() -> Iterator[int]:
    """A server as Python's model servers are: it keeps connections, parses strictly, and sends chunks."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            while (message := await receive())["type"] == "websocket.receive":
                await send({"type": "websocket.send", "text": message["text"].upper()})
            return
        digest, more = hashlib.sha256(), True
        while more:
            message = await receive()
            digest.update(message.get("body", b""))
            more = message.get("more_body", False)
        headers = [(b"x-digest", digest.hexdigest().encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for piece in (b"one ", b"two"):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    yield listener.getsockname()[1]
    server.should_exit = True
    thread.join(10)
    listener.close()


def test_a_python_servers_ways_of_talking_pass(world: World, bedroom: Bedroom, uvicorn_port: int) -> None:
    bedroom.words = {"state": "ready", "replicas": [["127.0.0.1", uvicorn_port]]}
    url, headers = f"http://127.0.0.1:{world.gateway.port}/v1/me-1/x", bearer(world.key.token())
    body = os.urandom(3 * 1024 * 1024)
    with httpx.Client(headers=headers, trust_env=False) as client:
        chunked = client.post(url, content=(body[at : at + 100_000] for at in range(0, len(body), 100_000)))
        assert (chunked.text, chunked.headers["x-digest"]) == ("one two", hashlib.sha256(body).hexdigest())
        waited = client.post(url, content=b"x", headers={"expect": "100-continue"})
        assert waited.headers["x-digest"] == hashlib.sha256(b"x").hexdigest()
        assert client.get(url).text == "one two"
        assert client.head(url).headers["x-digest"] == hashlib.sha256(b"").hexdigest()
    with connect(url.replace("http", "ws", 1), additional_headers=headers) as ws:
        ws.send("held")
        assert ws.recv(timeout=5) == "HELD"


# --- the activator itself ---------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_restart_loses_no_waiting_request(world: World, bedroom: Bedroom, number: signal.Signals) -> None:
    threads, answers = in_threads(20, lambda _: chat(world))
    bedroom.until_waiting(20)
    bedroom.activator.end(number)
    bedroom.activator.start()
    bedroom.until_waiting(20)
    bedroom.wake(world.replica())
    joined(threads)
    assert [answer.status for answer in answers] == [200] * 20


def test_a_stream_that_has_begun_hears_of_the_end(world: World, bedroom: Bedroom) -> None:
    threads, answers = in_threads(1, lambda _: chat(world, stream=True))
    bedroom.until_waiting(1)
    time.sleep(0.6)
    bedroom.activator.end(signal.SIGTERM)
    joined(threads)
    (event,) = data_of(answers[0])
    assert json.loads(event)["error"]["code"] == "wake_interrupted"


def test_a_body_too_long_to_be_sent_again_gets_an_honest_answer(world: World, bedroom: Bedroom) -> None:
    threads, answers = in_threads(1, lambda _: send(world, body=b"x" * 3 * 1024 * 1024))
    bedroom.until_waiting(1)
    bedroom.activator.end(signal.SIGKILL)
    joined(threads)
    assert (answers[0].status, answers[0].code) == (503, "wake_interrupted")
    assert answers[0].header("retry-after")


def test_warm_requests_never_touch_it(world: World, bedroom: Bedroom) -> None:
    warm = world.replica()
    world.gateway.publish(endpoint("me-2", warm), sleeping("me-1"))
    bedroom.activator.end(signal.SIGKILL)
    assert {send(world, "/v1/me-2/v1/models").status for _ in range(100)} == {200}


def test_an_answer_under_way_is_finished_at_the_end(world: World, bedroom: Bedroom) -> None:
    def slowly(exchange: Exchange) -> None:
        b"".join(exchange.body())
        exchange.send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n01234")
        time.sleep(1)
        exchange.send(b"56789")

    replica = world.replica(slowly)
    bedroom.wake(replica)
    threads, answers = in_threads(1, lambda _: chat(world))
    until(lambda: replica.seen, what="it was let through")
    assert bedroom.activator.end(signal.SIGTERM) == 0
    joined(threads)
    assert answers[0].body == b"0123456789"
    assert bedroom.asked[-1]["gone"]
