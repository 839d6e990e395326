"""The gateway beside its peers: the same stub of a replica, the same requests, in turns, in one run.

The stub is nginx with a fixed JSON answer. The contenders take turns over several rounds and each stands with its
best one: other work on the machine only ever makes a round worse.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
from cryptography.hazmat.primitives import serialization

from gateway import consistency, counting, snapshot
from gateway.targets import EndpointTarget, ReplicaTarget, Serving
from tests.bench.result import Result
from tests.support_gateway import ControlPlane, Gateway, endpoint, free_port, until
from tests.support_tokens import AUDIENCE, ISSUER, Key, bearer

HERE = Path(__file__).resolve().parent
NAME = "me-00000000-0000-4000-8000-0000000be7c4"
THREADS = 2
ROUNDS = 5
SECONDS = 2
MANY = 32
ANSWER = (
    '{"id":"c-1","object":"chat.completion","created":1,"model":"stub","choices":[{"index":0,"message":'
    '{"role":"assistant","content":"Hello."},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,'
    '"completion_tokens":2,"total_tokens":11}}'
)
REQUEST = '{"model":"stub","messages":[{"role":"user","content":"Say hello."}]}'


@dataclass(frozen=True, slots=True)
class Contender:
    name: str
    url: str
    token: str


@dataclass(frozen=True, slots=True)
class Figure:
    """rps: requests/s. p50_ms: median latency."""

    rps: float
    p50_ms: float


def run() -> list[Result]:
    """Every figure; needs nginx and wrk, names what else is missing."""
    missing = [program for program in ("nginx", "wrk") if program_path(program) is None]
    if missing:
        return [Result(f"gateway ({', '.join(missing)} is not installed)", 0, "missing", "-", None)]
    with tempfile.TemporaryDirectory(prefix="bench-") as directory, contextlib.ExitStack() as stack:
        return [*_throughput(Path(directory), stack), *_size(stack)]


def program_path(name: str) -> str | None:
    return shutil.which(
        name, path="/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"
    ) or shutil.which(name)


# --- throughput -------------------------------------------------------------------------------------------


def _throughput(work: Path, stack: contextlib.ExitStack) -> list[Result]:
    key = Key("bench")
    token = key.token(exp=int(time.time()) + 3600)
    stub = stack.enter_context(nginx(work))
    contenders = [Contender("direct", f"http://127.0.0.1:{stub}/v1/chat/completions", token)]
    contenders.append(stack.enter_context(_envoy(stub, key, token)))
    absent = []
    for name, start in (("HAProxy", _haproxy), ("LiteLLM", _litellm)):
        contender = stack.enter_context(start(work, stub, key, token))
        if contender is None:
            absent.append(name)
        else:
            contenders.append(contender)
    one = in_turns(work, contenders, connections=1)
    many = in_turns(work, contenders, connections=MANY)
    return [*_figures(one, many), *_goals(one, many, absent)]


Figures = dict[str, Figure]  # contender → its best


def _figures(one: Figures, many: Figures) -> Iterator[Result]:
    for connections, figures in ((1, one), (MANY, many)):
        for name, figure in figures.items():
            label = f"gateway: {name}, {connections} connection{'s' if connections > 1 else ''}"
            yield Result(f"{label}, requests/s", round(figure.rps), "1/s", "-", None)
            yield Result(f"{label}, p50", round(figure.p50_ms, 3), "ms", "-", None)


def _goals(one: Figures, many: Figures, absent: list[str]) -> Iterator[Result]:
    added = one["Envoy"].p50_ms - one["direct"].p50_ms
    yield Result("gateway: added p50 at one connection", round(added, 3), "ms", "<= 0.4", added <= 0.4)
    for peer, least in (("HAProxy", 0.6), ("LiteLLM", 100.0)):
        label = f"gateway: requests/s against {peer}, {MANY} connections"
        if peer in absent:
            yield Result(f"{label} ({peer} is not installed)", 0, "missing", f">= {least:g} x", None)
        else:
            ratio = many["Envoy"].rps / many[peer].rps
            yield Result(label, round(ratio, 2), "x", f">= {least:g} x", ratio >= least)


def in_turns(work: Path, contenders: list[Contender], connections: int, rounds: int = ROUNDS) -> Figures:
    """Each one's best round."""
    best: Figures = {}
    for _ in range(rounds):
        for contender in contenders:
            figure = _wrk(work, contender, connections)
            known = best.get(contender.name)
            best[contender.name] = figure if known is None or figure.rps > known.rps else known
    return best


_WRK_SCRIPT = """
wrk.method = "POST"
wrk.body = [[%s]]
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Bearer %s"
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("\\nRESULT %%d %%d %%d %%d\\n", summary.requests, summary.duration,
    latency:percentile(50), e.connect + e.read + e.write + e.status + e.timeout))
end
"""


def _wrk(work: Path, contender: Contender, connections: int, seconds: int = SECONDS) -> Figure:
    script = work / "wrk.lua"
    script.write_text(_WRK_SCRIPT % (REQUEST, contender.token))
    command = [str(program_path("wrk")), "-t", "1", "-c", str(connections), "-d", f"{seconds}s"]
    shown = subprocess.run(
        [*command, "-s", str(script), contender.url],
        capture_output=True,
        text=True,
        check=True,
        timeout=seconds + 30,
    )
    line = next(line for line in shown.stdout.splitlines() if line.startswith("RESULT "))
    requests, microseconds, p50, errors = map(int, line.split()[1:])
    if errors or not requests:
        raise RuntimeError(f"{contender.name}: {errors} errors in {requests} requests\n{shown.stdout}")
    return Figure(requests / microseconds * 1e6, p50 / 1000)


# --- contenders -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def process(
    command: list[str], log: Path, ready: Callable[[], bool], timeout_s: float = 20
) -> Iterator[None]:
    """In a session of its own, as the agent starts its Envoy: Linux shares processor time between sessions first
    (sched_autogroup), and one that shares the load generator's gets a tenth more done."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, cwd=log.parent, start_new_session=True
        )
    try:
        until(lambda: process.poll() is not None or ready(), timeout_s, f"{command[0]} answers, see {log}")
        if process.poll() is not None:
            raise RuntimeError(f"{command[0]} ended: {log.read_text()[-2000:]}")
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def answers(port: int, path: str, token: str) -> bool:
    command = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-H", f"Authorization: Bearer {token}"]
    command += ["-H", "Content-Type: application/json", "-d", REQUEST, f"http://127.0.0.1:{port}{path}"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout == "200"


@contextlib.contextmanager
def nginx(work: Path) -> Iterator[int]:
    port = free_port()
    config = work / "nginx.conf"
    config.write_text(
        f"daemon off; pid {work}/nginx.pid; error_log {work}/nginx.err; worker_processes 1;\n"
        "events { worker_connections 4096; }\n"
        "http { access_log off; keepalive_requests 100000000; keepalive_timeout 1h;\n"
        f"  client_body_temp_path {work}/body; proxy_temp_path {work}/p; fastcgi_temp_path {work}/f;\n"
        f"  uwsgi_temp_path {work}/u; scgi_temp_path {work}/s;\n"
        f"  server {{ listen 127.0.0.1:{port}; default_type application/json;\n"
        f"    location / {{ return 200 '{ANSWER}'; }} }} }}\n"
    )
    command = [str(program_path("nginx")), "-p", str(work), "-c", str(config)]
    with process(command, work / "nginx.log", lambda: answers(port, "/", "")):
        yield port


@contextlib.contextmanager
def _envoy(stub: int, key: Key, token: str) -> Iterator[Contender]:
    plane = ControlPlane(key)
    gateway = Gateway(plane)
    try:
        target = endpoint(NAME)
        target = replace(target, serving=Serving.READY, replicas=(ReplicaTarget("r1", "127.0.0.1", stub),))
        plane.publish(target)
        gateway.ready()
        yield Contender("Envoy", f"http://127.0.0.1:{gateway.port}/v1/{NAME}/v1/chat/completions", token)
    finally:
        gateway.close()
        plane.stop()


@contextlib.contextmanager
def _haproxy(work: Path, stub: int, key: Key, token: str) -> Iterator[Contender | None]:
    program = program_path("haproxy")
    if program is None:
        yield None
        return
    pem = work / "public.pem"
    pem.write_bytes(
        key.private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    port = free_port()
    values = {
        "THREADS": THREADS,
        "PORT": port,
        "KEY": pem,
        "ISSUER": ISSUER,
        "AUDIENCE": AUDIENCE,
        "ENDPOINT": NAME,
        "REPLICA": stub,
    }
    text = (HERE / "haproxy.cfg.in").read_text()
    for name, value in values.items():
        text = text.replace(f"@{name}@", str(value))
    config = work / "haproxy.cfg"
    config.write_text(text)
    path = f"/v1/{NAME}/v1/chat/completions"
    with process(
        [program, "-db", "-f", str(config)], work / "haproxy.log", lambda: answers(port, path, token)
    ):
        if answers(port, path, Key("bench").token()):
            raise RuntimeError("HAProxy lets a token of another key pass: the comparison would not be fair")
        yield Contender("HAProxy", f"http://127.0.0.1:{port}{path}", token)


@contextlib.contextmanager
def _litellm(work: Path, stub: int, _key: Key, _token: str) -> Iterator[Contender | None]:
    program = shutil.which("litellm")
    if program is None:
        yield None
        return
    port = free_port()
    config = work / "litellm.json"  # JSON is YAML
    model = {"model": "openai/stub", "api_base": f"http://127.0.0.1:{stub}/v1", "api_key": "none"}
    settings = {
        "model_list": [{"model_name": "stub", "litellm_params": model}],
        "general_settings": {"master_key": "sk-bench"},
    }
    config.write_text(json.dumps(settings))
    command = [program, "--config", str(config), "--port", str(port), "--host", "127.0.0.1"]
    command += ["--num_workers", str(THREADS)]
    path = "/v1/chat/completions"
    with process(command, work / "litellm.log", lambda: answers(port, path, "sk-bench"), timeout_s=120):
        yield Contender("LiteLLM", f"http://127.0.0.1:{port}{path}", "sk-bench")


# --- size -------------------------------------------------------------------------------------------------

ENDPOINTS, REPLICAS = 1000, 3


def _size(stack: contextlib.ExitStack) -> Iterator[Result]:
    plane = ControlPlane()
    stack.callback(plane.stop)
    plane.publish(endpoint(NAME))
    gateway = Gateway(plane)
    stack.callback(gateway.close)
    gateway.ready()
    assert gateway.agent is not None
    resident = psutil.Process(gateway.agent.pid).memory_info().rss / 2**20
    yield Result("gateway: the agent's memory", round(resident, 1), "MiB", "<= 40", resident <= 40)
    many = [_endpoint(n) for n in range(ENDPOINTS)]
    started = time.perf_counter()
    built = snapshot.build(replace(plane.targets, endpoints=tuple(many)))
    problems = consistency.check(built.resources)
    size = len(built.body())
    seconds = time.perf_counter() - started
    assert not problems, problems
    label = f"gateway: snapshot of {ENDPOINTS} endpoints with {REPLICAS} replicas each"
    yield Result(f"{label}, built, checked and serialised", round(seconds, 3), "s", "<= 1", seconds <= 1)
    yield Result(f"{label}, size", round(size / 2**20, 2), "MiB", "-", None)
    gateway.publish(*many)
    token = plane.key.token()
    changed = [*many, replace(_endpoint(ENDPOINTS), private=False)]
    plane.publish(*changed)
    started = time.perf_counter()
    path = f"/v1/{changed[-1].endpoint_id}/x"
    until(lambda: gateway.get(path, token).status == 503)  # its route is there, its replica is not
    seconds = time.perf_counter() - started
    yield Result(f"{label}, change published → enforced", round(seconds, 2), "s", "<= 2", seconds <= 2)
    yield _reading(gateway, token)


def _reading(gateway: Gateway, token: str) -> Result:
    """What the agent does every 5 s, while every endpoint has figures."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=30)
    for number in range(ENDPOINTS):
        connection.request("GET", f"/v1/{_endpoint(number).endpoint_id}/x", headers=bearer(token))
        connection.getresponse().read()
    connection.close()
    until(lambda: len(counting.read(gateway.admin).duration) >= ENDPOINTS, what="all of them have figures")
    started = time.perf_counter()
    counting.read(gateway.admin)
    milliseconds = (time.perf_counter() - started) * 1000
    label = f"gateway: figures of {ENDPOINTS} endpoints, read from Envoy"
    return Result(label, round(milliseconds), "ms", "<= 250", milliseconds <= 250)


def _endpoint(number: int) -> EndpointTarget:
    replicas = tuple(ReplicaTarget(f"r-{number}-{n}", "127.0.0.1", 9 + n) for n in range(REPLICAS))
    return EndpointTarget(
        f"me-{number:08x}-0000-4000-8000-000000000000", "p1", True, Serving.READY, "", replicas=replicas
    )
