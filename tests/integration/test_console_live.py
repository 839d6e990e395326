"""The sockets of contract §6, as every kind of person, on the real ASGI application."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from asgiref.sync import sync_to_async
from django.conf import settings
from django.test import Client
from django.utils import timezone, translation

from config.asgi import application
from endpoints import consumers, live, log_tail, replica_logs, services
from endpoints.models import DeployPhase, Endpoint, PhaseName, Replica, ReplicaState
from iam.actors import Actor
from iam.models import Membership, User
from iam.roles import Role
from registry.models import ModelStatus, RegisteredModel
from tests.conftest import actor_of, signed_in
from tests.support_endpoints import load_data, new_endpoint, ready_model
from tests.support_sockets import Socket

pytestmark = [pytest.mark.django_db(transaction=True)]

SOON = 2.0


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks come often, so that tests of them are short."""
    monkeypatch.setattr(consumers, "CHECK_S", 0.4)
    monkeypatch.setattr(consumers, "BEAT_S", 0.2)


@pytest.fixture
def endpoint(editor_actor: Actor) -> Endpoint:
    """One that was just asked for."""
    load_data()
    return new_endpoint(editor_actor, ready_model(editor_actor.project, "tiny"), name="chat-01")


def socket(client: Client | None, path: str, origin: str = "") -> Socket:
    """A browser's socket, with its cookies."""
    headers = [(b"origin", (origin or settings.BERTH_PUBLIC_URL).encode())]
    if client is not None:
        cookie = client.cookies[settings.SESSION_COOKIE_NAME].value
        headers.append((b"cookie", f"{settings.SESSION_COOKIE_NAME}={cookie}".encode()))
    return Socket(application, path, headers)


async def frames(ws: Socket, wanted: Callable[[str], bool], within: float = SOON) -> str:
    """The first frame that is wanted; heartbeats and others are passed over."""
    deadline = time.monotonic() + within
    while True:
        text = await ws.receive(max(0.01, deadline - time.monotonic()))
        if wanted(text):
            return str(text)


async def closed_with(ws: Socket, within: float = SOON) -> tuple[int, list[str]]:
    """The code it ends with, and every frame before that."""
    seen: list[str] = []
    deadline = time.monotonic() + within
    while True:
        message = await ws.receive_output(max(0.01, deadline - time.monotonic()))
        if message["type"] == "websocket.close":
            return int(message["code"]), seen
        if message["type"] == "websocket.send":
            seen.append(message["text"])


in_db: Callable[..., Awaitable[Any]] = sync_to_async


def addresses(endpoint: Endpoint) -> list[str]:
    """Every socket."""
    one = f"/ws/endpoints/{endpoint.id}/"
    return ["/ws/endpoints/", one, f"{one}logs/?replica=r1", "/ws/models/"]


def replica_of(endpoint: Endpoint, **fields: Any) -> Replica:
    """Its first replica, named r1."""
    values: dict[str, Any] = {"slot": 1, "name": "r1", "state": ReplicaState.STARTING, **fields}
    return Replica.objects.create(endpoint=endpoint, revision_id=endpoint.revision_id, **values)


# -- who may connect -----------------------------------------------------------------------------------------------


async def test_members_get_the_full_state_first(
    endpoint: Endpoint, owner_client: Client, viewer_client: Client, editor_client: Client
) -> None:
    await in_db(replica_of)(endpoint)
    for client in (owner_client, editor_client, viewer_client):
        for path in addresses(endpoint):
            ws = socket(client, path)
            assert await ws.connect()
            first = await frames(ws, bool)
            assert "chat-01" in first or "tiny" in first or '"all": true' in first
            await ws.disconnect()


async def test_outsiders_and_strangers_get_no_frame_and_a_final_close(
    endpoint: Endpoint, outsider_client: Client
) -> None:
    await in_db(replica_of)(endpoint)
    project = f"project={endpoint.project_id}"
    for path in addresses(endpoint):
        asked = f"{path}{'&' if '?' in path else '?'}{project}"
        for client, code in ((outsider_client, 4403), (None, 4401)):
            ws = socket(client, asked)
            assert await ws.connect(), "refused before accept: a browser would try for ever"
            assert await closed_with(ws) == (code, [])
    for path in addresses(endpoint)[1:3]:  # in their own project there is no such thing
        ws = socket(outsider_client, path)
        await ws.connect()
        assert await closed_with(ws) == (4404, [])
    ws = socket(outsider_client, "/ws/endpoints/")
    await ws.connect()
    assert "chat-01" not in await frames(ws, bool)
    await ws.disconnect()


async def test_another_sites_page_cannot_connect(endpoint: Endpoint, owner_client: Client) -> None:
    ws = socket(owner_client, "/ws/endpoints/", origin="https://evil.example")
    assert not await ws.connect()


async def test_a_replica_of_another_endpoint_has_no_log_here(
    endpoint: Endpoint, editor_actor: Actor, editor_client: Client
) -> None:
    other = await in_db(new_endpoint)(
        editor_actor, await in_db(RegisteredModel.objects.get)(name="tiny"), name="other"
    )
    await in_db(replica_of)(other)
    ws = socket(editor_client, f"/ws/endpoints/{endpoint.id}/logs/?replica=r1")
    await ws.connect()
    assert await closed_with(ws) == (4404, [])


# -- what changes arrives --------------------------------------------------------------------------------------------


async def test_a_change_arrives_at_once_on_list_and_page(
    endpoint: Endpoint, editor_actor: Actor, editor_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumers, "CHECK_S", 60.0)  # nothing but the message can bring it
    page, listing = (
        socket(editor_client, f"/ws/endpoints/{endpoint.id}/"),
        socket(editor_client, "/ws/endpoints/"),
    )
    for ws in (page, listing):
        await ws.connect()
        await frames(ws, bool)
    await in_db(services.pause_endpoint)(actor=editor_actor, endpoint=endpoint)
    assert "/do/resume/" in await frames(page, bool)
    row = await frames(listing, bool)
    assert row.strip().startswith(f'<tr id="ep-{endpoint.id}"'), "one row, not the whole list"
    for ws in (page, listing):
        await ws.disconnect()


async def test_a_lost_message_costs_one_check(endpoint: Endpoint, editor_client: Client) -> None:
    ws = socket(editor_client, f"/ws/endpoints/{endpoint.id}/")
    await ws.connect()
    await frames(ws, bool)
    replica = await in_db(replica_of)(endpoint)  # nobody is told
    assert "rep-" in await frames(ws, bool)
    await in_db(DeployPhase.objects.create)(
        replica=replica, name=PhaseName.PULLING, started_at=timezone.now(), bytes_done=3, bytes_total=7
    )
    assert 'max="7" value="3"' in await frames(ws, bool)
    await in_db(DeployPhase.objects.update)(bytes_done=6)
    assert 'value="6"' in await frames(ws, bool)
    await ws.disconnect()


async def test_an_unchanged_page_gets_heartbeats_and_no_state(
    endpoint: Endpoint, editor_client: Client
) -> None:
    ws = socket(editor_client, f"/ws/endpoints/{endpoint.id}/")
    await ws.connect()
    await frames(ws, bool)
    beats = [await ws.receive(1) for _ in range(5)]
    assert beats == [""] * 5
    await ws.disconnect()


async def test_a_burst_becomes_a_few_frames_and_ends_at_the_last_state(
    endpoint: Endpoint, editor_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumers, "CHECK_S", 60.0)
    ws = socket(editor_client, f"/ws/endpoints/{endpoint.id}/")
    await ws.connect()
    await frames(ws, bool)

    def burst() -> None:
        for number in range(60):
            Endpoint.objects.filter(pk=endpoint.pk).update(name=f"name-{number}")
            live.endpoint_changed(endpoint)

    began = time.monotonic()
    await in_db(burst)()
    count, last = 0, ""
    while "name-59" not in last:
        last = await frames(ws, bool)
        count += 1
    assert count <= 2 + (time.monotonic() - began) / consumers.FRAME_S
    await ws.disconnect()


async def test_rows_come_and_go(endpoint: Endpoint, editor_actor: Actor, editor_client: Client) -> None:
    ws = socket(editor_client, "/ws/endpoints/?search=chat")
    await ws.connect()
    await frames(ws, bool)
    model = await in_db(RegisteredModel.objects.get)(name="tiny")
    await in_db(new_endpoint)(editor_actor, model, name="chat-02")
    body = await frames(ws, bool)
    assert body.startswith('<tbody id="ep-rows">')
    assert body.index("chat-02") < body.index("chat-01")  # the newest first
    await in_db(new_endpoint)(editor_actor, model, name="other")
    await in_db(Endpoint.objects.filter(name__startswith="chat").delete)()
    assert "Nothing found" in await frames(ws, lambda text: "chat-0" not in text and bool(text))
    await ws.disconnect()


async def test_models_move_while_they_are_imported(endpoint: Endpoint, editor_client: Client) -> None:
    model = await in_db(RegisteredModel.objects.get)(name="tiny")
    ws = socket(editor_client, "/ws/models/")
    await ws.connect()
    await frames(ws, bool)
    await in_db(RegisteredModel.objects.filter(pk=model.pk).update)(
        status=ModelStatus.IMPORTING, bytes_done=5, bytes_total=9
    )
    await in_db(live.send)(
        [live.models_group(endpoint.project_id)], {"type": "models.changed", "id": str(model.pk)}
    )
    row = await frames(ws, bool)
    assert row.strip().startswith(f'<tr id="model-{model.pk}"')
    await ws.disconnect()


async def test_pages_follow_in_the_readers_language(endpoint: Endpoint, editor_client: Client) -> None:
    ws = socket(editor_client, f"/ws/endpoints/{endpoint.id}/")
    ws.scope["headers"].append((b"accept-language", b"vi"))
    seen: list[str] = []
    original = consumers.translation.override
    consumers.translation.override = lambda language: (seen.append(language), original(language))[1]  # type: ignore[misc,assignment]
    try:
        await ws.connect()
        await frames(ws, bool)
    finally:
        consumers.translation.override = original  # type: ignore[misc]
    assert set(seen) == {"vi"}
    await ws.disconnect()


# -- what ends it ----------------------------------------------------------------------------------------------------


async def test_signing_out_ends_every_open_page(endpoint: Endpoint, editor_client: Client) -> None:
    await in_db(replica_of)(endpoint)
    open_pages = [socket(editor_client, path) for path in addresses(endpoint)]
    for ws in open_pages:
        await ws.connect()
        await frames(ws, bool)
    await in_db(editor_client.logout)()
    for ws in open_pages:
        assert (await closed_with(ws))[0] == 4401


async def test_a_session_that_is_ended_from_another_ends_its_pages(
    endpoint: Endpoint, editor: User, editor_client: Client
) -> None:
    await in_db(editor_client.get)("/inference/")
    ws = socket(editor_client, "/ws/endpoints/")
    await ws.connect()
    await frames(ws, bool)
    other = await in_db(signed_in)(editor)
    await in_db(other.get)("/inference/")
    kept = socket(other, "/ws/endpoints/")
    await kept.connect()
    await frames(kept, bool)
    assert (await in_db(other.post)("/accounts/sessions/end/")).status_code == 302
    assert (await closed_with(ws))[0] == 4401
    await in_db(new_endpoint)(await in_db(actor_of)(editor), endpoint.revision.model, name="chat-02")
    assert "chat-02" in await frames(kept, lambda text: "chat-02" in text)
    await kept.disconnect()


async def test_a_disabled_account_or_a_new_password_ends_it(
    endpoint: Endpoint, editor: User, viewer: User, editor_client: Client, viewer_client: Client
) -> None:
    first, second = socket(editor_client, "/ws/endpoints/"), socket(viewer_client, "/ws/endpoints/")
    for ws in (first, second):
        await ws.connect()
        await frames(ws, bool)
    await in_db(User.objects.filter(pk=editor.pk).update)(is_active=False)
    assert (await closed_with(first))[0] == 4401
    viewer.set_password("another one entirely")
    await in_db(viewer.save)()
    assert (await closed_with(second))[0] == 4401


async def test_a_lost_membership_ends_it_and_a_lower_role_takes_the_buttons(
    endpoint: Endpoint, editor: User, editor_client: Client
) -> None:
    ws = socket(editor_client, f"/ws/endpoints/{endpoint.id}/?project={endpoint.project_id}")
    await ws.connect()
    assert "/do/pause/" in await frames(ws, bool)
    await in_db(Membership.objects.filter(user=editor).update)(role=Role.VIEWER)
    assert "/do/" not in await frames(ws, lambda text: "ep-head" in text)
    await in_db(Membership.objects.filter(user=editor).delete)()
    assert (await closed_with(ws))[0] == 4403


async def test_deleting_the_endpoint_says_so_and_ends_it(endpoint: Endpoint, editor_client: Client) -> None:
    ws = socket(editor_client, f"/ws/endpoints/{endpoint.id}/")
    await ws.connect()
    await frames(ws, bool)
    await in_db(Endpoint.objects.filter(pk=endpoint.pk).delete)()
    code, seen = await closed_with(ws)
    assert code == 4404
    assert "This endpoint was deleted" in "".join(seen)


def say(name: str, lines: list[str], **how: Any) -> None:
    """As the watcher does."""
    log_tail.publish(name, lines, **how)
    live.logs_grew([name])


# -- logs ------------------------------------------------------------------------------------------------------------


@pytest.mark.redis
async def test_a_log_starts_with_its_tail_and_goes_on(
    endpoint: Endpoint, viewer_client: Client, redis_server: redis.Redis
) -> None:
    await in_db(replica_of)(endpoint)
    await in_db(log_tail.publish)("r1", [f"line {n}" for n in range(700)])
    ws = socket(viewer_client, f"/ws/endpoints/{endpoint.id}/logs/?replica=r1")
    await ws.connect()
    first = json.loads(await frames(ws, bool))
    assert first["all"]
    assert (first["lines"][1], first["lines"][-1]) == ("line 201", "line 699")
    await in_db(say)("r1", ["naïve </script> \x1b[31mred", "x" * 9000])
    more = json.loads(await frames(ws, bool))
    assert not more["all"]
    assert more["lines"][0] == "naïve </script> red"
    assert len(more["lines"][1]) == log_tail.LINE_CHARACTERS
    assert redis_server.ttl(log_tail.key("r1")) > 0
    await ws.disconnect()


@pytest.mark.redis
async def test_a_flood_of_lines_is_bounded(
    endpoint: Endpoint, viewer_client: Client, redis_server: redis.Redis
) -> None:
    await in_db(replica_of)(endpoint)
    ws = socket(viewer_client, f"/ws/endpoints/{endpoint.id}/logs/?replica=r1")
    await ws.connect()
    await frames(ws, bool)

    def flood() -> None:
        for batch in range(40):
            say("r1", [f"{batch}-{n}" for n in range(1000)])

    await in_db(flood)()
    lines: list[str] = []
    while not lines or lines[-1] != "39-999":
        lines = json.loads(await frames(ws, bool, within=5))["lines"]
        assert len(lines) <= live.LOG_PAGE_LINES
    assert redis_server.llen(log_tail.key("r1")) == log_tail.LINES
    await ws.disconnect()


@pytest.mark.redis
async def test_a_page_reads_on_from_its_own_place(
    endpoint: Endpoint, viewer_client: Client, redis_server: redis.Redis
) -> None:
    await in_db(replica_of)(endpoint)
    await in_db(say)("r1", ["one", "two"])
    ws = socket(viewer_client, f"/ws/endpoints/{endpoint.id}/logs/?replica=r1")
    await ws.connect()
    assert json.loads(await frames(ws, bool))["lines"] == ["one", "two"]
    # No message comes: it looks by itself.
    await in_db(log_tail.publish)("r1", ["three"])
    assert json.loads(await frames(ws, bool)) == {"all": False, "lines": ["three"]}
    # More than is kept was printed since it looked last.
    await in_db(log_tail.publish)("r1", [f"a{n}" for n in range(log_tail.LINES)])
    with translation.override("en"):
        await in_db(say)("r1", [f"b{n}" for n in range(log_tail.LINES)])
    seen: list[str] = []
    while not seen or seen[-1] != f"b{log_tail.LINES - 1}":
        seen += json.loads(await frames(ws, bool))["lines"]
    assert len(seen) >= log_tail.LINES
    # Redis was emptied and the watcher has read the tail anew: the page shows that, once.
    redis_server.flushall()
    await in_db(say)("r1", ["b498", "b499", "c"], anew=True)
    assert json.loads(await frames(ws, bool)) == {"all": True, "lines": ["b498", "b499", "c"]}
    await ws.disconnect()


@pytest.mark.redis
async def test_who_reads_too_slowly_is_told_how_much_is_missing(redis_server: redis.Redis) -> None:
    await in_db(log_tail.publish)("r1", ["first"])
    news = await log_tail.read("r1", log_tail.Seen())
    assert (news.lines, news.anew) == (["first"], True)
    for batch in range(3):
        await in_db(log_tail.publish)("r1", [f"{batch}-{n}" for n in range(400)])
    news = await log_tail.read("r1", news.seen)
    assert "700 lines were left out" in news.lines[0]
    assert (news.lines[1], news.lines[-1], news.anew) == ("1-300", "2-399", False)
    await in_db(log_tail.publish)("r1", [f"at once {n}" for n in range(700)])
    fresh = (await log_tail.read("r1", news.seen)).lines
    assert len(fresh) == log_tail.LINES
    assert "201 lines were left out" in fresh[0]
    news = await log_tail.read("r1", news.seen)
    assert (await log_tail.read("r1", news.seen)).lines == []


async def test_a_replica_that_ended_shows_its_kept_log(
    endpoint: Endpoint, viewer_client: Client, tmp_path: Path, settings: Any
) -> None:
    settings.BERTH_HOME = tmp_path
    await in_db(replica_of)(endpoint, name="r-last", state=ReplicaState.STOPPED)
    path = replica_logs.path_of("r-last")
    path.parent.mkdir()
    path.write_text("".join(f"kept {n}\n" for n in range(5000)))
    ws = socket(viewer_client, f"/ws/endpoints/{endpoint.id}/logs/?replica=r-last")
    await ws.connect()
    lines = json.loads(await frames(ws, bool, within=5))["lines"]
    assert (len(lines), lines[0], lines[-1]) == (live.LOG_PAGE_LINES, "kept 3000", "kept 4999")
    await ws.disconnect()


async def test_without_a_tail_a_failed_replica_shows_its_last_words(
    endpoint: Endpoint, viewer_client: Client
) -> None:
    await in_db(replica_of)(endpoint, name="r-last", state=ReplicaState.FAILED, evidence={"logs": "one\ntwo"})
    ws = socket(viewer_client, f"/ws/endpoints/{endpoint.id}/logs/?replica=r-last")
    await ws.connect()
    assert json.loads(await frames(ws, bool, within=5))["lines"] == ["one", "two"]
    await ws.disconnect()


async def test_many_watchers_of_one_change(endpoint: Endpoint, editor_actor: Actor, editor: User) -> None:
    watchers = [socket(await in_db(signed_in)(editor), f"/ws/endpoints/{endpoint.id}/") for _ in range(20)]
    for ws in watchers:
        await ws.connect()
        await frames(ws, bool)
    await in_db(services.pause_endpoint)(actor=editor_actor, endpoint=endpoint)
    seen = await asyncio.gather(*(frames(ws, lambda text: "/do/resume/" in text, 10) for ws in watchers))
    assert len(seen) == 20
    await asyncio.gather(*(ws.disconnect() for ws in watchers))
