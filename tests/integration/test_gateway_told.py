"""Figures on their way from an agent to the metering loop: web's door and the list behind it; Redis is real."""

from __future__ import annotations

import gzip
import json
import time
from pathlib import Path
from typing import Any

import pytest
import redis
from django.conf import settings
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from pytest_django.live_server_helper import LiveServer

from config.keyfiles import read_or_create
from endpoints.metrics import told
from gateway.control import ControlAway, ControlRefused, Nonsense, Teller
from gateway.figures import EndpointFigures, Told

pytestmark = [pytest.mark.django_db, pytest.mark.redis]
URL = "/internal/gateway/figures"
NAME = "me-00000000-0000-4000-8000-00000000000a"


def figures(number: int = 1, gateway: str = "gw-1") -> Told:
    item = EndpointFigures({"2xx": 3, "other": 1}, {40: 4}, {39: 3}, {60: 0.4}, 2)
    return Told(gateway, number, 5.0, {NAME: item})


def post(client: Client, body: bytes | Told, **headers: str) -> int:
    if isinstance(body, Told):
        body = gzip.compress(json.dumps(body.as_json()).encode())
    given = {
        "Authorization": f"Bearer {read_or_create(settings.BERTH_GATEWAY_TOKEN_FILE)}",
        "Content-Encoding": "gzip",
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    return int(client.post(URL, body, content_type="application/json", headers=given).status_code)


def test_what_was_told_is_drained_once_in_order(redis_server: redis.Redis) -> None:
    client = Client(enforce_csrf_checks=True)
    before = time.time()
    with CaptureQueriesContext(connection) as queries:
        assert [post(client, figures(n)) for n in (8, 9)] == [204, 204]
    assert len(queries) == 0
    heard = told.drain(redis_server)
    assert [item.told for item in heard] == [figures(8), figures(9)]
    assert all(before <= item.at <= time.time() for item in heard)
    assert told.drain(redis_server) == []


def test_the_same_push_counts_once(client: Client, redis_server: redis.Redis) -> None:
    assert [post(client, figures(1)) for _ in range(3)] == [204, 204, 204]
    assert len(told.drain()) == 1
    assert post(client, figures(1)) == 204  # also when it was drained meanwhile
    assert told.drain() == []
    assert told.push(figures(1, "gw-2"))
    assert not told.push(figures(1, "gw-2"))
    assert [item.told.gateway_id for item in told.drain()] == ["gw-2"]


def test_a_stranger_tells_nothing(client: Client, redis_server: redis.Redis) -> None:
    assert post(client, figures(), Authorization="Bearer wrong") == 401
    assert client.get(URL).status_code == 405
    assert told.drain() == []


def changed(**changes: Any) -> dict[str, Any]:
    return {**figures().as_json(), **changes}


def of_endpoint(**changes: Any) -> dict[str, Any]:
    return changed(endpoints={NAME: changes})


@pytest.mark.parametrize(
    "document",
    [
        None,
        3,
        [],
        {},
        changed(seconds=0),
        changed(seconds=-5),
        changed(seconds="soon"),
        changed(seconds=float("nan")),
        changed(seconds=1e9),
        changed(number=None),
        changed(number=float("inf")),
        changed(endpoints=7),
        changed(endpoints={NAME: []}),
        of_endpoint(answered={"2xx": -1}),
        of_endpoint(answered={"6xx": 1}),
        of_endpoint(in_flight=-1),
        of_endpoint(in_flight=float("inf")),
        of_endpoint(duration={"5": -1}),
        of_endpoint(duration={"5": float("nan")}),
        of_endpoint(duration={"500": 1}),
        of_endpoint(duration={"x": 1}),
        of_endpoint(first_byte=[1, 2]),
        of_endpoint(waiting={"1": "many"}),
    ],
)
def test_what_no_gateway_can_have_counted_is_refused(
    client: Client, redis_server: redis.Redis, document: Any
) -> None:
    assert post(client, gzip.compress(json.dumps(document).encode())) == 400
    assert told.drain() == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no gzip",
        gzip.compress(b"{}")[:-3],
        gzip.compress(b"no JSON"),
        gzip.compress(b"\xff\xfe"),
        gzip.compress(b"[" * 200_000),
        gzip.compress(b" " * (told._LIMIT + 1)),  # small outside, large inside
    ],
    # A packed text holds the time of its packing, and every worker has to find the same tests.
    ids=["nothing", "not packed", "cut", "no JSON", "no UTF-8", "too deep", "too long"],
)
def test_bytes_that_are_no_push_are_refused(client: Client, redis_server: redis.Redis, body: bytes) -> None:
    assert post(client, body) == 400
    assert told.drain() == []


def test_sizes_and_encodings(client: Client, redis_server: redis.Redis) -> None:
    assert post(client, b"x" * (settings.DATA_UPLOAD_MAX_MEMORY_SIZE + 1)) == 413
    assert post(client, figures(), Content_Encoding="br") == 400
    assert post(client, json.dumps(figures().as_json()).encode(), Content_Encoding="") == 204
    assert len(told.drain()) == 1


def test_the_list_is_bounded(redis_server: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(told, "KEPT", 5)
    for number in range(9):
        assert told.push(figures(number))
    redis_server.rpush("berth:gateway:figures", b"rubbish", b"1.0\n" + gzip.compress(b'{"at": 1}'))
    assert 0 < redis_server.ttl("berth:gateway:figures") <= told.KEPT_S
    assert [item.told.number for item in told.drain()] == [4, 5, 6, 7, 8]


def test_what_lay_there_for_too_long_is_left_out(redis_server: redis.Redis) -> None:
    assert told.push(figures(1), at=time.time() - told.KEPT_S - 1)
    assert told.push(figures(2))
    assert [item.told.number for item in told.drain()] == [2]


def test_without_redis_the_agent_keeps_them(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = redis.Redis(unix_socket_path=str(tmp_path / "nobody"))
    monkeypatch.setattr(told, "_default", lambda: nobody)
    assert post(client, figures()) == 503


@pytest.mark.django_db(transaction=True)
def test_the_agents_own_words_are_understood(
    live_server: LiveServer, redis_server: redis.Redis, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("wrong\n")
    teller = Teller(live_server.url, token, "gw-1")
    with pytest.raises(ControlRefused):
        teller.tell(figures(1))
    token.write_text(read_or_create(settings.BERTH_GATEWAY_TOKEN_FILE))
    teller.tell(figures(1))
    teller.tell(figures(1))  # as after an answer that was lost
    teller.tell(figures(2))
    with pytest.raises(Nonsense, match="seconds = 0"):
        teller.tell(Told("gw-1", 3, 0.0, {}))
    assert [item.told for item in told.drain()] == [figures(1), figures(2)]
    nobody = redis.Redis(unix_socket_path=str(tmp_path / "nobody"))
    monkeypatch.setattr(told, "_default", lambda: nobody)
    with pytest.raises(ControlAway, match="503"):
        teller.tell(figures(3))
