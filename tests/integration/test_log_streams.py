"""A followed log over HTTP, on the real ASGI application, as every kind of person; and with curl on a real server."""

from __future__ import annotations

import asyncio
import subprocess
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from asgiref.sync import sync_to_async
from asgiref.testing import ApplicationCommunicator
from django.conf import settings
from django.test import Client

from config.asgi import application
from endpoints import log_streams, log_tail, replica_logs
from endpoints.models import Replica, ReplicaState
from iam.actors import Actor
from iam.models import Membership, User
from tests.conftest import signed_in
from tests.support_console import Console, console
from tests.support_endpoints import load_data, new_endpoint
from tests.support_processes import eventually

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.redis]

in_db: Callable[..., Awaitable[Any]] = sync_to_async


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_streams, "CHECK_S", 0.3)


@pytest.fixture
def replica(editor_actor: Actor, redis_server: redis.Redis) -> Replica:
    """One that runs and has printed two lines."""
    load_data()
    endpoint = new_endpoint(editor_actor)
    log_tail.publish("r1", ["one", "two"])
    return endpoint.replicas.create(revision=endpoint.revision, slot=1, name="r1", state=ReplicaState.READY)


class Call(ApplicationCommunicator):
    """A GET whose answer goes on."""

    def __init__(self, client: Client | None, replica: Replica, query: str = "follow=true") -> None:
        headers = [(b"host", b"localhost")]
        if client is not None:
            cookie = client.cookies[settings.SESSION_COOKIE_NAME].value
            headers.append((b"cookie", f"{settings.SESSION_COOKIE_NAME}={cookie}".encode()))
        path = f"/api/v1/endpoints/{replica.endpoint_id}/logs/"
        super().__init__(
            application,
            {
                "type": "http",
                "method": "GET",
                "path": path,
                "raw_path": path.encode(),
                "query_string": query.encode(),
                "headers": headers,
                "scheme": "http",
                "http_version": "1.1",
            },
        )
        self.over = False

    async def begin(self) -> int:
        """The status."""
        await self.send_input({"type": "http.request", "body": b""})
        start = await self.receive_output(10)
        self.headers = {name.decode().lower(): value.decode() for name, value in start["headers"]}
        return int(start["status"])

    async def text(self, within: float = 5) -> str:
        """The next piece."""
        message = await self.receive_output(within)
        self.over = not message.get("more_body")
        return bytes(message.get("body", b"")).decode()

    async def rest(self) -> str:
        """All until the end."""
        found = ""
        while not self.over:
            found += await self.text()
        await self.wait(5)
        return found

    async def leave(self) -> None:
        """Hang up."""
        await self.send_input({"type": "http.disconnect"})
        await self.wait(5)


async def test_the_tail_and_then_what_comes(replica: Replica, viewer_client: Client) -> None:
    call = Call(viewer_client, replica, "follow=true&tail=1")
    assert await call.begin() == 200
    assert call.headers["content-type"] == "text/plain; charset=utf-8"
    assert call.headers["x-content-type-options"] == "nosniff"
    assert "x-berth-log" not in call.headers
    assert await call.text() == "two\n"
    for number in range(3):
        await in_db(log_tail.publish)("r1", [f"more {number}", "\x1b[2J\x1b]0;owned\x07"])
        assert await call.text() == f"more {number}\n\n"
    await call.leave()


async def test_it_ends_with_the_replica_after_its_last_words(replica: Replica, viewer_client: Client) -> None:
    call = Call(viewer_client, replica)
    assert await call.begin() == 200
    assert await call.text() == "one\ntwo\n"
    await in_db(log_tail.publish)("r1", ["goodbye"])
    await in_db(Replica.objects.filter(pk=replica.pk).update)(state=ReplicaState.FAILED)
    assert await call.rest() == "goodbye\n"


async def test_it_ends_with_the_right_to_read(replica: Replica, viewer: User, viewer_client: Client) -> None:
    call = Call(viewer_client, replica)
    assert await call.begin() == 200
    await call.text()
    await in_db(Membership.objects.filter(user=viewer).delete)()
    await call.rest()
    again = Call(viewer_client, replica)
    assert await again.begin() in (403, 404)


async def test_silence_ends_it(replica: Replica, viewer_client: Client, settings: Any) -> None:
    settings.BERTH_LOG_IDLE_S = 0.5
    call = Call(viewer_client, replica)
    assert await call.begin() == 200
    assert await call.rest() == "one\ntwo\n"


async def test_strangers_get_what_any_call_gets(replica: Replica, outsider_client: Client) -> None:
    call = Call(outsider_client, replica)
    assert await call.begin() == 404
    assert call.headers["content-type"].startswith("application/problem+json")
    nobody = Call(None, replica)
    assert await nobody.begin() in (401, 403)
    wrong = Call(outsider_client, replica, "follow=maybe")
    assert await wrong.begin() in (400, 404)


async def test_it_holds_no_thread_and_no_connection(
    replica: Replica, owner_client: Client, editor: User, viewer: User
) -> None:
    others = [await in_db(signed_in)(person) for person in (editor, viewer)]
    before = threading.active_count()
    calls = [Call(client, replica) for client in (owner_client, *others) for _ in range(8)]
    for call in calls:
        assert await call.begin() == 200
        await call.text()
    await asyncio.sleep(0.2)
    grown = threading.active_count() - before
    assert grown < len(calls) / 2, f"{grown} threads for {len(calls)} followers"
    await in_db(log_tail.publish)("r1", ["for all"])
    assert {await call.text() for call in calls} == {"for all\n"}
    await asyncio.gather(*(call.leave() for call in calls))


async def test_there_are_only_so_many(replica: Replica, viewer_client: Client, editor_client: Client) -> None:
    calls = [Call(viewer_client, replica) for _ in range(log_streams.MOST_EACH)]
    for call in calls:
        assert await call.begin() == 200
    refused = Call(viewer_client, replica)
    assert await refused.begin() == 429
    assert refused.headers["retry-after"] == "10"
    assert "followed at once" in await refused.rest()
    other = Call(editor_client, replica)
    assert await other.begin() == 200
    await asyncio.gather(*(call.leave() for call in (*calls, other)))
    freed = Call(viewer_client, replica)
    assert await freed.begin() == 200
    await freed.leave()


async def test_redis_may_go_and_come(
    replica: Replica, viewer_client: Client, redis_server: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = Call(viewer_client, replica)
    assert await call.begin() == 200
    await call.text()
    read, failed = log_tail.read, asyncio.Event()

    async def refuse(*_: Any) -> log_tail.News:
        failed.set()
        raise redis.ConnectionError("away")

    monkeypatch.setattr(log_tail, "read", refuse)
    await asyncio.wait_for(failed.wait(), 5)
    monkeypatch.setattr(log_tail, "read", read)
    await in_db(log_tail.publish)("r1", ["three"])
    assert await call.text() == "three\n"
    await call.leave()


async def test_the_whole_kept_log_is_a_download(
    replica: Replica, viewer_client: Client, outsider_client: Client, tmp_path: Path, settings: Any
) -> None:
    settings.BERTH_HOME = tmp_path
    path = replica_logs.path_of("r1")
    path.parent.mkdir()
    kept = "".join(f"line {number}\n" for number in range(200_000))
    path.write_text(kept)
    running = Call(viewer_client, replica, "download=true")
    assert await running.begin() == 200
    assert await running.rest() == "one\ntwo\n"
    await in_db(Replica.objects.filter(pk=replica.pk).update)(state=ReplicaState.STOPPED)
    call = Call(viewer_client, replica, "download=true")
    assert await call.begin() == 200
    assert call.headers["content-disposition"] == 'attachment; filename="r1.log"'
    assert await call.rest() == kept
    stranger = Call(outsider_client, replica, "download=true")
    assert await stranger.begin() == 404
    ended = Call(viewer_client, replica, "follow=true&tail=2")
    assert await ended.begin() == 200
    assert await ended.rest() == "line 199998\nline 199999\n"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    with console(tmp_path_factory.mktemp("console")) as found:
        yield found


def test_curl_follows_with_a_token(running: Console, tmp_path: Path) -> None:
    running.do("member('streamer@example.org', Role.ADMIN)")
    endpoint = running.do("new('streamed', 'streamer@example.org')")
    name = running.do(f"replica({endpoint!r})")
    running.do(f"log_tail.publish({name!r}, ['first'])")
    running.do("from iam.actors import actor_for_user; from iam.services import create_service_account")
    account, secret = running.do(
        "(lambda made: (made[0].client_id, made[1]))(create_service_account("
        "actor_for_user(User.objects.get(email='streamer@example.org')), 'logs', ['aiplatform.viewer'], ''))"
    )
    answer = httpx.post(
        f"{running.url}/accounts-api/v2/auth/token",
        auth=(account, secret),
        json={"grant_type": "client_credentials"},
    )
    token = answer.raise_for_status().json()["access_token"]
    shown = tmp_path / "shown"
    url = f"{running.url}/api/v1/endpoints/{endpoint}/logs/?follow=true"
    with shown.open("wb") as out:
        process = subprocess.Popen(["curl", "-sN", "-H", f"Authorization: Bearer {token}", url], stdout=out)
        try:
            eventually(lambda: shown.read_text() == "first\n", "the tail")
            for number in range(3):
                running.do(f"log_tail.publish({name!r}, ['n {number}'])")
                eventually(lambda n=number: shown.read_text().endswith(f"n {n}\n"), "a line")
            assert process.poll() is None
        finally:
            process.kill()
            process.wait(5)
