"""Where a request comes from: whose word counts, and how its id travels through answer, log, task and audit log."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from celery.worker.request import Request
from django.test import Client, RequestFactory

from config.celery import app
from config.checks import proxies_are_named
from config.logs import JsonFormatter, RequestId
from iam.actors import Actor
from iam.addresses import address_of, client_address, network_of
from iam.audit import record
from iam.models import AuditEvent
from iam.origin import Origin, acting_from, origin
from iam.socket_origin import SocketOrigin
from tests.support_endpoints import load_data, new_endpoint

GIVEN = "0b9f3a52-6d0e-4a11-8c3e-5a1f0c9d7e21"


@pytest.mark.parametrize(
    ("peer", "forwarded", "caller"),
    [
        ("192.0.2.7", "", "192.0.2.7"),
        ("192.0.2.7", "203.0.113.9", "192.0.2.7"),  # a stranger's claim
        ("127.0.0.1", "203.0.113.9", "203.0.113.9"),
        ("127.0.0.1", "203.0.113.9, 198.51.100.4", "198.51.100.4"),  # what the gateway saw itself
        ("127.0.0.1", "nonsense", "127.0.0.1"),
        ("127.0.0.1", "", "127.0.0.1"),
        ("::1", "2001:db8::7", "2001:db8::7"),
        ("::ffff:127.0.0.1", "203.0.113.9", "203.0.113.9"),
        ("", "203.0.113.9", "unknown"),
    ],
)
def test_only_our_own_proxies_say_who_calls(peer: str, forwarded: str, caller: str) -> None:
    assert address_of(peer, forwarded) == caller


def test_a_proxy_elsewhere_has_to_be_named(settings: Any) -> None:
    request = RequestFactory().get("/", REMOTE_ADDR="10.0.0.5", HTTP_X_FORWARDED_FOR="203.0.113.9")
    assert client_address(request) == "10.0.0.5"
    settings.BERTH_TRUSTED_PROXIES = ["10.0.0.0/24"]
    assert client_address(request) == "203.0.113.9"


def test_wrong_proxies_are_told_at_start(settings: Any) -> None:
    assert proxies_are_named() == []
    settings.BERTH_TRUSTED_PROXIES = ["10.0.0.5", "everyone", "0.0.0.0/0"]
    assert [message.id for message in proxies_are_named()] == ["berth.E001", "berth.E001"]


def test_limits_count_networks_of_ipv6() -> None:
    assert network_of("2001:db8::7") == network_of("2001:db8::ffff") == "2001:db8::/64"
    assert network_of("192.0.2.7") == "192.0.2.7"


@pytest.mark.django_db
def test_every_answer_names_its_request(client: Client) -> None:
    ids = {client.get(path)["X-Request-Id"] for path in ("/healthz", "/api/v1/endpoints/", "/nowhere/", "/")}
    assert len(ids) == 4
    assert origin.get() == Origin()


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("peer", "told", "kept"),
    [
        ("127.0.0.1", GIVEN, True),
        ("192.0.2.7", GIVEN, False),
        ("127.0.0.1", "chosen\nby the caller", False),
        ("127.0.0.1", GIVEN + "0", False),
        ("127.0.0.1", "", False),
    ],
)
def test_only_the_gateways_id_is_taken(client: Client, peer: str, told: str, kept: bool) -> None:
    answer = client.get("/healthz", REMOTE_ADDR=peer, HTTP_X_REQUEST_ID=told)
    assert (answer["X-Request-Id"] == told) is kept


@pytest.mark.django_db
def test_what_a_request_does_is_on_record_with_address_and_id(
    owner_actor: Actor, owner_client: Client
) -> None:
    load_data()
    endpoint = new_endpoint(owner_actor)
    answer = owner_client.post(
        f"/api/v1/endpoints/{endpoint.id}/pause/",
        REMOTE_ADDR="127.0.0.1",
        HTTP_X_FORWARDED_FOR="203.0.113.9",
    )
    event = AuditEvent.objects.get(action="endpoint.pause")
    assert (event.address, event.request_id) == ("203.0.113.9", answer["X-Request-Id"])
    assert (event.actor_name, event.target_id) == ("owner@example.org", endpoint.id)


def test_a_line_of_the_log_names_its_request() -> None:
    line = logging.LogRecord("berth", logging.INFO, __file__, 1, "said", (), None)
    with acting_from(Origin("192.0.2.7", GIVEN)):
        assert RequestId().filter(line)
    assert f'"request_id": "{GIVEN}"' in JsonFormatter().format(line)


def test_a_task_carries_the_request_that_caused_it() -> None:
    seen: list[Origin] = []

    @app.task(name="tests.seen", lazy=False)
    def seen_by_task() -> None:
        seen.append(origin.get())

    try:
        with acting_from(Origin("192.0.2.7", GIVEN)):
            app.send_task("tests.seen", [], queue="seen")
        app.send_task("tests.seen", [], queue="seen")
        with app.connection_for_read() as connection:
            sent = connection.SimpleQueue("seen")
            for _ in range(2):  # as a worker takes them
                Request(sent.get(timeout=5), app=app, task=seen_by_task).execute()
    finally:
        app.tasks.pop("tests.seen")
    assert seen == [Origin("", GIVEN), Origin()]
    assert origin.get() == Origin()


@pytest.mark.django_db
def test_who_is_unknown_within_a_request_is_not_the_platform(owner_actor: Actor) -> None:
    record(None, "session.refused", name="x")
    with acting_from(Origin("192.0.2.7", GIVEN)):
        record(None, "session.refused", name="x")
        record(owner_actor, "session.sign_in", owner_actor.user)
    kinds = list(AuditEvent.objects.order_by("id").values_list("actor_kind", "actor_name"))
    assert kinds == [("platform", ""), ("anonymous", ""), ("user", "owner@example.org")]


def test_a_socket_has_an_origin_too() -> None:
    seen: list[Origin] = []

    async def consumer(*_: Any) -> None:
        seen.append(await asyncio.to_thread(origin.get))

    def connect(peer: str) -> None:
        headers = [(b"x-request-id", GIVEN.encode()), (b"x-forwarded-for", b"203.0.113.9")]
        asyncio.run(SocketOrigin(consumer)({"client": (peer, 1), "headers": headers}, None, None))

    connect("127.0.0.1")
    connect("192.0.2.7")
    assert seen[0] == Origin("203.0.113.9", GIVEN)
    assert seen[1].address == "192.0.2.7"
    assert seen[1].request_id not in ("", GIVEN)
