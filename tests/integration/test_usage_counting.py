"""Tokens on their way from real answers through a real Envoy, its agent and web into the database: each once."""

from __future__ import annotations

import gzip
import http.client
import json
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from django.db import OperationalError
from django.db.models import Sum

from config.keyfiles import read_or_create
from endpoints.models import Endpoint, LastUse, Usage
from gateway.access_logs import AccessLogs
from gateway.control import USAGE_PATH
from gateway.request_line import Request, Tokens, parse, used_in
from gateway.targets import EndpointTarget, ReplicaTarget, Serving
from iam.actors import Actor
from iam.models import ServiceAccount
from runtimes.images import LLAMA_CPP_SERVER
from tests.support_access_log import read
from tests.support_endpoints import load_data, new_endpoint
from tests.support_gateway import Answer, World, endpoint, free_port, until
from tests.support_models import tiny_llama
from tests.support_processes import python
from tests.support_replica import Exchange

NAME = "me-00000000-0000-4000-8000-0000000000c9"
USAGE = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
CHAT = json.dumps({"choices": [{"message": {"content": "Hi."}}], "usage": USAGE}).encode()
QUESTION = b'{"messages":[{"content":"' + b"x" * 71 + b'"}]}'  # 100 bytes
SSE = "text/event-stream"


def event(content: str | None = None, **fields: Any) -> bytes:
    delta = {} if content is None else {"choices": [{"delta": {"content": content}}]}
    return f"data: {json.dumps({**delta, **fields})}\n\n".encode()


WORDS = event("") + b"".join(event(word) for word in ("one", " two", ' "usage": {"prompt_tokens": 77}'))
DONE = b"data: [DONE]\n\n"
# Somebody's words, a member that is echoed, and then the model server's own.
NASTY = json.dumps(
    {
        "choices": [{"message": {"content": '"usage":{"prompt_tokens":70000}', "reasoning": "\\"}}],
        "tools": [{"parameters": {"usage": {"prompt_tokens": 0, "completion_tokens": 0}}}],
        "usage": USAGE,
        "metadata": {"usage": {"completion_tokens": 1}},
    }
).encode()
LARGE = b'{"data":["' + b"x" * 3_000_000 + b'"],"usage":' + json.dumps(USAGE).encode() + b"}"
DEEP = b'{"a":"' + b"x" * 2_000_000 + b'","usage":{"prompt_tokens":9},"z":"' + b"y" * 1_000_000 + b'"}'
EARLY = b'{"object":"list","usage":{"prompt_tokens":9,"total_tokens":9},"data":["' + b"x" * 3_000_000 + b'"]}'
TIMINGS = {"cache_n": 4, "prompt_n": 5, "predicted_n": 3}
ANTHROPIC = (
    b'event: message_start\ndata: {"message":{"usage":{"input_tokens":2,"cache_read_input_tokens":7,'
    b'"output_tokens":1}}}\n\n'
    + event("one")
    + b'event: message_delta\ndata: {"usage":{"output_tokens":4}}\n\n'
)


# path → answer, its content type, what is counted: (prompt, completion, estimated, unread)
def whole(usage: str, more: str = "") -> bytes:
    """An answer as model servers write it: without spaces, and at once."""
    return f'{{"choices":[{{"message":{{"content":"Hi."}}}}],"usage":{usage}{more}}}'.encode()


DETAILS = '"prompt_tokens_details":{"cached_tokens":3}'
PLAIN = '{"prompt_tokens":9,"completion_tokens":4,"total_tokens":13}'
WHOLE: dict[str, tuple[bytes, tuple[int, int]]] = {
    "plain": (whole(PLAIN), (9, 4)),
    "vllm": (whole(f'{{"prompt_tokens":9,"total_tokens":13,"completion_tokens":4,{DETAILS}}}'), (9, 4)),
    "llama": (whole('{"completion_tokens":4,"prompt_tokens":9,"total_tokens":13}'), (9, 4)),
    "details": (whole(f'{{{DETAILS},"prompt_tokens":9,"completion_tokens":4}}'), (9, 4)),
    "spaced": (whole(PLAIN).replace(b":", b": "), (9, 4)),
    "echoed": (whole('{"prompt_tokens":0,"completion_tokens":0}', f',"usage":{PLAIN}'), (9, 4)),
    "echoed-last": (whole(PLAIN, ',"asked":{"usage":{"prompt_tokens":0,"completion_tokens":0}}'), (9, 4)),
    "other-name": (whole(PLAIN, ',"my_usage":{"prompt_tokens":77,"completion_tokens":77}'), (9, 4)),
    "said": (
        whole(PLAIN).replace(b"Hi.", b'\\"usage\\":{\\"prompt_tokens\\":77,\\"completion_tokens\\":77}'),
        (9, 4),
    ),
    "made-up": (whole('{"prompt_tokens":9,"completion_tokens":4444444444444}'), (9, 0)),
    "newline": (whole(PLAIN) + b"\n", (9, 4)),
}

ANSWERS: dict[str, tuple[bytes, str, tuple[int, int, bool, bool]]] = {
    "/v1/chat/completions": (CHAT, "application/json", (9, 4, False, False)),
    "/utf8/chat/completions": (CHAT, "application/json; charset=utf-8", (9, 4, False, False)),
    "/nasty/chat/completions": (NASTY, "application/json", (9, 4, False, False)),
    "/large/embeddings": (LARGE, "application/json", (9, 4, False, False)),
    "/early/embeddings": (EARLY, "application/json", (9, 0, False, False)),
    "/deep/embeddings": (DEEP, "application/json", (0, 0, False, True)),
    "/completion": (json.dumps({"timings": TIMINGS}).encode(), "application/json", (9, 3, False, False)),
    "/gzip/chat/completions": (gzip.compress(NASTY), "application/json", (25, -1, True, False)),
    "/v1/models": (b'{"data":[]}', "application/json", (0, 0, False, False)),
    "/image.png": (CHAT, "image/png", (0, 0, False, False)),
    "/stream/silent": (WORDS + DONE, SSE, (25, 3, True, False)),
    "/stream/usage": (WORDS + event(usage=USAGE) + DONE, SSE, (9, 4, False, False)),
    "/stream/null": (WORDS + event("x", usage=None) + event(usage=USAGE), SSE, (9, 4, False, False)),
    "/stream/timings": (WORDS + event(timings=TIMINGS) + DONE, SSE, (9, 3, False, False)),
    "/stream/anthropic": (ANTHROPIC, SSE, (9, 4, False, False)),
    "/stream/crlf": ((WORDS + event(usage=USAGE)).replace(b"\n", b"\r\n"), SSE, (9, 4, False, False)),
    **{
        f"/whole/{name}": (body, "application/json", (*got, False, False))
        for name, (body, got) in WHOLE.items()
    },
    "/stream/wide": (event("x" * 300_000) + event(usage=USAGE), SSE, (9, 4, False, False)),
}


def answer(exchange: Exchange) -> None:
    """What ANSWERS says, in pieces that end anywhere; `/cut` breaks off, `/hang` waits for the caller to go."""
    for _ in exchange.body():
        pass
    path = exchange.target
    body, kind, _ = ANSWERS.get(path, (WORDS, SSE, None))
    encoding = "content-encoding: gzip\r\n" if "gzip" in path else ""
    exchange.send(
        f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\n{encoding}transfer-encoding: chunked\r\n\r\n".encode()
    )
    dice = random.Random(path)
    while body:
        size = len(body) if "whole" in path else dice.randrange(1, 200 if len(body) < 10_000 else 200_000)
        exchange.chunk(body[:size])
        body = body[size:]
    if "cut" in path:
        exchange.connection.shutdown(2)
    elif "hang" in path:
        exchange.reader.read()
    else:
        exchange.send(b"0\r\n\r\n")


def serving(world: World) -> World:
    world.plane.publish(endpoint(NAME, world.replica(answer)))
    world.gateway.ready()
    return world


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with closing(World()) as world:
        yield serving(world)


@pytest.fixture(scope="module")
def scripted() -> Iterator[World]:
    """A gateway that reads as one does that has no C compiler."""
    with closing(World()) as world:
        world.gateway = world.new_gateway("--script")
        yield serving(world)


def shipped(world: World, path: str, count: int = 1) -> list[Request]:
    """What the control plane was told of calls of a path."""

    def found() -> list[str]:
        return [line for line in world.plane.shipped if read(line)["path"] == path]

    until(lambda: len(found()) >= count, what=f"{path} is shipped")
    return [request for line in found() if (request := parse(line)) is not None]


def counts(request: Request) -> tuple[int, int, bool, bool]:
    return request.prompt_tokens, request.completion_tokens, request.estimated, request.unread


@pytest.fixture(scope="module")
def got(world: World) -> dict[str, Answer]:
    """What a caller got of each path, all called before the first is looked for in the log."""
    token = world.key.token()

    def call(path: str) -> Answer:
        if path == "/v1/models":
            return world.gateway.get(f"/v1/{NAME}{path}", token)
        return world.gateway.call("POST", f"/v1/{NAME}{path}", token=token, body=QUESTION)

    return {path: call(path) for path in ANSWERS}


@pytest.mark.parametrize("path", ANSWERS)
def test_answers_pass_as_they_are_and_are_counted(world: World, got: dict[str, Answer], path: str) -> None:
    body, _, expected = ANSWERS[path]
    assert got[path].status == 200
    assert got[path].body == body
    request = shipped(world, path)[0]
    if expected[1] < 0:  # of what cannot be read: its bytes
        expected = (expected[0], len(body) // 4, *expected[2:])
    assert counts(request) == expected
    assert (request.endpoint, request.subject, request.status) == (NAME, "sa-1", 200)
    assert abs(request.at - time.time()) < 30
    if expected[:3] == (9, 4, False):  # the common kind of line
        text = next(line for line in world.plane.shipped if read(line)["path"] == path)
        assert isinstance(next(used_in(text.encode())), Tokens)


def test_the_script_counts_as_the_module_does(world: World, scripted: World) -> None:
    assert bool(shutil.which("cc")) == (
        "dynamic_modules" in (world.gateway.home / "bootstrap.json").read_text()
    )
    assert "dynamic_modules" not in (scripted.gateway.home / "bootstrap.json").read_text()
    for path, (body, _, expected) in ANSWERS.items():
        method, content = ("GET", b"") if path == "/v1/models" else ("POST", QUESTION)
        got = scripted.gateway.call(method, f"/v1/{NAME}{path}", token=scripted.key.token(), body=content)
        assert got.body == body
        said = (expected[0], len(body) // 4, *expected[2:]) if expected[1] < 0 else expected
        assert counts(shipped(scripted, path)[0]) == said, path


def test_streams_that_break_off_are_estimated(world: World) -> None:
    token = world.key.token()
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        world.gateway.call("POST", f"/v1/{NAME}/cut", token=token, body=QUESTION)
    assert counts(shipped(world, "/cut")[0]) == (25, 3, True, False)
    with world.gateway.raw() as caller:
        head = f"POST /v1/{NAME}/hang HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n"
        caller.sendall(f"{head}content-length: {len(QUESTION)}\r\n\r\n".encode() + QUESTION)
        got = b""
        while not (b"77}" in got and got.endswith(b"\n\n\r\n")):  # the event's end, and its chunk's
            got += caller.recv(65536)
    assert counts(shipped(world, "/hang")[0]) == (25, 3, True, False)


def test_llama_cpps_own_counts_are_ours(world: World, tmp_path: Path) -> None:
    """Answers, streams that say what they used and streams that were not asked to."""
    with llama(tmp_path, world) as (name, figures):
        before = figures()
        message = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 6}
        asked: list[tuple[str, dict[str, Any]]] = [
            ("/v1/chat/completions", message),
            ("/v1/chat/completions", message | {"stream": True}),
            ("/v1/chat/completions", message | {"stream": True, "stream_options": {"include_usage": True}}),
            ("/v1/completions", {"prompt": "tell me", "max_tokens": 5, "stream": True}),
            ("/v1/responses", {"input": "hello", "max_output_tokens": 3}),
            ("/v1/messages", message),
            ("/completion", {"prompt": "tell me", "n_predict": 4, "stream": True}),
        ]
        for number, (path, body) in enumerate(asked * 3):
            got = world.gateway.call(
                "POST",
                f"/v1/{name}{path}",
                token=world.key.token(),
                body=json.dumps(body | {"seed": number}).encode(),
                headers={"content-type": "application/json"},
            )
            assert got.status == 200, got.body

        def of_llama() -> list[Request]:
            return [r for line in world.plane.shipped if (r := parse(line)) and r.endpoint == name]

        until(lambda: len(of_llama()) == 3 * len(asked), what="all calls are shipped")
        found = of_llama()
        prompt, completion = (now - then for now, then in zip(figures(), before, strict=True))
    assert not any(request.estimated or request.unread for request in found)
    assert sum(request.prompt_tokens for request in found) == prompt
    assert sum(request.completion_tokens for request in found) == completion


@contextmanager
def llama(folder: Path, world: World) -> Iterator[tuple[str, Callable[[], tuple[int, int]]]]:
    """A real model server behind the gateway: its endpoint, and what it counts itself, prompt and completion."""
    port = free_port()
    arguments = ("--model", str(tiny_llama(folder)), "--port", str(port), "--threads", "1")
    server = subprocess.Popen(
        python(str(LLAMA_CPP_SERVER), *arguments), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    url = f"http://127.0.0.1:{port}"

    def figures() -> tuple[int, int]:
        page = httpx.get(f"{url}/metrics").text.splitlines()
        values = {line.split()[0]: float(line.split()[1]) for line in page if not line.startswith("#")}
        prompt = values["llamacpp:prompt_tokens_total"] + values["llamacpp:prompt_tokens_cached_total"]
        return int(prompt), int(values["llamacpp:tokens_predicted_total"])

    def healthy() -> bool:
        try:
            return httpx.get(f"{url}/health").status_code == 200
        except httpx.TransportError:
            return False

    name = "me-00000000-0000-4000-8000-0000000000ca"
    try:
        until(healthy, 30, "llama.cpp is healthy")
        known = world.plane.targets.endpoints
        target = EndpointTarget(
            name, "p1", True, Serving.READY, "", replicas=(ReplicaTarget("l1", "127.0.0.1", port),)
        )
        world.gateway.publish(*known, target)
        yield name, figures
    finally:
        server.terminate()
        server.wait()


# ---- into the database, whatever is killed


class Web:
    """The real view behind the agent's requests. lost: how many answers did not arrive, at least the first. away: it is
    down."""

    def __init__(self, url: str, token: str) -> None:
        self.host, self.port = str(urlsplit(url).hostname), int(urlsplit(url).port or 80)
        self.token = token
        self.away = False
        self.dice = random.Random(7)
        self.lost = 0

    def __call__(self, headers: Message, body: bytes) -> tuple[int, bytes]:
        if self.away:
            return 503, b""
        method = "POST" if body else "GET"
        connection = http.client.HTTPConnection(self.host, self.port, timeout=20)
        given = {name: value for name, value in headers.items() if name.lower() != "host"}
        connection.request(method, USAGE_PATH, body, {**given, "Authorization": f"Bearer {self.token}"})
        got = connection.getresponse()
        answer = got.read()
        connection.close()
        if body and got.status == 200 and (not self.lost or self.dice.random() < 0.3):
            self.lost += 1
            return 0, b""
        return got.status, answer


class Callers(threading.Thread):
    """Calls an endpoint until `stop`; answered: how many calls were answered whole."""

    def __init__(self, world: World, path: str, token: str) -> None:
        super().__init__(daemon=True)
        self.world, self.path, self.token = world, path, token
        self.answered = 0
        self.going = True

    def run(self) -> None:
        while self.going:
            try:
                got = self.world.gateway.call("POST", self.path, token=self.token, body=QUESTION)
            except (OSError, http.client.HTTPException):
                time.sleep(0.02)
                continue
            self.answered += got.status == 200

    def stop(self) -> None:
        self.going = False
        self.join(30)


@pytest.mark.django_db(transaction=True)
@pytest.mark.timeout(90)
def test_each_request_counts_once_whoever_is_killed(
    live_server: Any, editor_actor: Actor, settings: Any
) -> None:
    load_data()
    made: Endpoint = new_endpoint(editor_actor)
    account = ServiceAccount.objects.create(project=made.project, name="robot")
    world = World()
    served = {"prompt": 0, "count": 0}
    lock = threading.Lock()

    def replica(exchange: Exchange) -> None:
        for _ in exchange.body():
            pass
        with lock:
            served["count"] += 1
            served["prompt"] += served["count"]
            said = {"usage": {"prompt_tokens": served["count"], "completion_tokens": 1}}
        exchange.answer(json.dumps(said).encode())

    def counted() -> tuple[int, int]:
        mine = Usage.objects.filter(endpoint_id=made.id, status=200)
        try:
            found = mine.aggregate(requests=Sum("requests"), prompt=Sum("prompt_tokens"))
        except OperationalError:  # memory that web's threads share has no waiting for a lock
            return -1, -1
        return found["requests"] or 0, found["prompt"] or 0

    try:
        web = world.plane.usage = Web(live_server.url, read_or_create(settings.BERTH_GATEWAY_TOKEN_FILE))
        project = str(made.project_id)
        world.plane.publish(endpoint(made.id, world.replica(replica), project=project))
        world.gateway.ready()
        token = world.key.token(sub=account.id, project=project)
        callers = Callers(world, f"/v1/{made.id}/v1/embeddings", token)
        callers.start()
        dice = random.Random(11)
        for number in range(6):
            time.sleep(dice.uniform(0.1, 0.6))  # the moment is what is tried here
            web.away = number == 3
            if number == 2:
                AccessLogs(world.gateway.home).begin()  # as at a rotation
            assert world.gateway.agent is not None
            world.gateway.agent.kill()
            world.gateway.agent.wait()
            time.sleep(dice.uniform(0, 0.1))
            world.gateway.start()
        callers.stop()
        web.away = False
        until(lambda: counted() == (served["count"], served["prompt"]), 30, "all is counted")
        assert callers.answered == served["count"] > 50
        assert web.lost > 0
        # Envoy is killed: what was in flight may be missing, nothing counts twice.
        before = counted()
        callers = Callers(world, f"/v1/{made.id}/v1/embeddings", token)
        callers.start()
        until(lambda: callers.answered > 20)
        old = callers.answered
        time.sleep(0.2)  # lines are written within 20 ms
        pid = world.gateway.envoy_pid()
        assert pid is not None
        its_file = (world.gateway.home / "access.log").resolve()
        os.kill(pid, signal.SIGKILL)
        until(lambda: world.gateway.envoy_pid() not in (pid, None), what="another Envoy")
        again = callers.answered
        until(lambda: callers.answered > again + 20)
        callers.stop()
        assert (world.gateway.home / "access.log").resolve() != its_file
        last = until(lambda: _settled(counted), 30, "nothing more is counted")
        assert before[0] + old + callers.answered - again <= last[0] <= served["count"]
        use = LastUse.objects.get()
        assert (use.subject, use.endpoint_id, use.address) == (account.id, made.id, "127.0.0.1")
        until(lambda: len(AccessLogs(world.gateway.home).files()) == 1, what="what is counted is removed")
    finally:
        world.close()


def _settled(counted: Callable[[], tuple[int, int]]) -> tuple[int, int] | None:
    before = counted()
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline:
        if counted() != before:
            return None
        time.sleep(0.1)
    return before
