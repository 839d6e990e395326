"""What the gateway's guards cost: limits, revocations, narrowing and the counting of tokens, all at once.

Against the gateway's first configuration (`first_gateway.json`, as rendered when the gateway knew tokens, projects and
roles and nothing else), against itself with nothing in its tables, and in the time a change takes at full size.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median

import envoy

from gateway import names
from gateway.targets import Caller, EndpointTarget, Limits, ReplicaTarget, Serving
from tests.bench.gateway import (
    MANY,
    NAME,
    THREADS,
    Contender,
    Figures,
    answers,
    in_turns,
    nginx,
    process,
    program_path,
)
from tests.bench.result import Result
from tests.support_gateway import ControlPlane, Gateway, endpoint, free_port, until
from tests.support_replica import Replica
from tests.support_tokens import Key

ENDPOINTS = ACCOUNTS = 2000
REVOKED = 200
SUBJECT = "sa-bench"
PATH = f"/v1/{NAME}/v1/chat/completions"
ROOMY = Limits(requests_per_minute=10_000_000, tokens_per_minute=10**9, tokens_per_month=10**12)
AT_ONCE = 10_000
CHANGES = 5


def run() -> list[Result]:
    """Every figure; needs nginx and wrk."""
    missing = [program for program in ("nginx", "wrk") if program_path(program) is None]
    if missing:
        return [Result(f"guards ({', '.join(missing)} is not installed)", 0, "missing", "-", None)]
    with tempfile.TemporaryDirectory(prefix="bench-") as directory, contextlib.ExitStack() as stack:
        work = Path(directory)
        key = Key("bench")
        stub = stack.enter_context(nginx(work))
        first = stack.enter_context(_first(work, stub, key))
        small = stack.enter_context(_guarded(key, stub, many=False))
        guarded = small.contender("guarded")
        against_the_first = list(_against_the_first(*_contest(work, first, guarded)))
        large = stack.enter_context(_guarded(key, stub, many=True))  # idles at 8 % of a core: not beside that
        return [
            *against_the_first,
            *_against_itself(*_contest(work, guarded, large.contender("large"))),
            *_revocations(work, small),
            *_denials(work, small),
            *_changes(large),
        ]


def _contest(work: Path, *contenders: Contender) -> tuple[Figures, Figures]:
    """With many connections, and with one."""
    busy, alone = (in_turns(work, [*contenders], connections=number) for number in (MANY, 1))
    return busy, alone


def _token(key: Key) -> str:
    return key.token(sub=SUBJECT, grant=f"{SUBJECT}:1", exp=int(time.time()) + 3600)


def _against_the_first(busy: Figures, alone: Figures) -> Iterator[Result]:
    ratio = busy["guarded"].rps / busy["first"].rps
    for name in ("first", "guarded"):
        yield Result(f"guards: {name}, {MANY} connections", round(busy[name].rps), "1/s", "-", None)
        yield Result(f"guards: {name}, 1 connection, p50", round(alone[name].p50_ms, 3), "ms", "-", None)
    label = f"guards: everything on against the first configuration, requests/s, {MANY} connections"
    yield Result(label, round(ratio, 2), "x", ">= 0.9 x", ratio >= 0.9)


def _against_itself(busy: Figures, alone: Figures) -> Iterator[Result]:
    for connections, figures in ((1, alone), (MANY, busy)):
        ratio = figures["large"].p50_ms / figures["guarded"].p50_ms
        label = f"guards: p50 with {ENDPOINTS} endpoints and accounts against one, {connections} connections"
        yield Result(label, round(ratio, 2), "x", "<= 1.2 x", ratio <= 1.2)


def _revocations(work: Path, small: Guarded) -> Iterator[Result]:
    """The same gateway with and without them, in turns."""
    found: dict[str, list[float]] = {"without": [], "with": []}
    for _ in range(CHANGES):
        for name, grants in (("without", ()), ("with", tuple(f"sa-{n}:1" for n in range(REVOKED)))):
            small.gateway.publish(revoked=grants)
            found[name].append(_p50(work, small))
    ratio = median(found["with"]) / median(found["without"])
    yield Result(f"guards: p50 with {REVOKED} revocations", round(ratio, 3), "x", "<= 1.05 x", ratio <= 1.05)


def _denials(work: Path, small: Guarded) -> Iterator[Result]:
    """The same gateway while nobody, and while that many callers have used up their tokens, in turns."""
    plane, gateway = small.plane, small.gateway
    tokens = {f"sa-{n}": plane.key.token(sub=f"sa-{n}", grant=f"sa-{n}:1") for n in range(ACCOUNTS)}
    some = [tokens[f"sa-{n}"] for n in range(0, ACCOUNTS, ACCOUNTS // 20)]

    def limited(tokens_per_month: int) -> tuple[Caller, ...]:
        limits = Limits(tokens_per_month=tokens_per_month)
        return (Caller(SUBJECT, ROOMY), *(Caller(subject, limits) for subject in tokens))

    gateway.publish(callers=limited(10**9), revoked=())  # none of those revocations
    until(lambda: gateway.get(PATH, some[0]).status == 200)  # workers follow a moment later
    for token in tokens.values():
        assert gateway.get(PATH, token).status == 200
    file = gateway.home / "xds" / names.DENIALS
    found: dict[str, list[float]] = {"without": [], "with": []}
    enforced, written = [], []
    for _ in range(CHANGES):
        gateway.publish(callers=limited(10**9))
        until(lambda: all(gateway.get(PATH, token).status == 200 for token in some))
        found["without"].append(_p50(work, small))
        began = time.time()
        plane.publish(callers=limited(1))
        until(lambda: all(gateway.get(PATH, token).status == 429 for token in some))
        enforced.append(time.time() - began)
        written.append(time.time() - file.stat().st_mtime)
        found["with"].append(_p50(work, small))
    assert file.read_text().count('"sa-') == ACCOUNTS
    label = f"guards: {ACCOUNTS} callers over their token limit"
    yield Result(f"{label}, built → enforced, longest of {CHANGES}", *_seconds(max(enforced)))
    yield Result(f"{label}, written → enforced, longest of {CHANGES}", *_seconds(max(written)))
    ratio = min(found["with"]) / min(found["without"])
    yield Result(f"{label}, p50 of another", round(ratio, 3), "x", "<= 1.2 x", ratio <= 1.2)


def _p50(work: Path, small: Guarded) -> float:
    return in_turns(work, [small.contender("one")], connections=1, rounds=1)["one"].p50_ms


def _changes(large: Guarded) -> Iterator[Result]:
    """From what the database says to the first refusal: built, published, taken, enforced. Then a route."""
    plane, gateway = large.plane, large.gateway
    others = tuple(f"sa-{n}:1" for n in range(REVOKED))
    token = plane.key.token(sub="sa-gone", grant="sa-gone:1")
    took = []
    for _ in range(CHANGES):
        gateway.publish(revoked=others)
        until(lambda: gateway.get(PATH, token).status == 200)  # workers follow a moment later
        began = time.perf_counter()
        plane.publish(revoked=(*others, "sa-gone:1"))
        until(lambda: gateway.get(PATH, token).status == 401)
        took.append(time.perf_counter() - began)
    label = f"guards: {ENDPOINTS} endpoints and accounts"
    yield Result(f"{label}, revocation built → enforced, longest of {CHANGES}", *_seconds(max(took)))
    endpoints = plane.targets.endpoints
    took = []
    for number in range(CHANGES):
        new = replace(endpoint(f"me-{number:08d}-aaaa-4000-8000-000000000000"), private=False)
        began = time.perf_counter()
        plane.publish(*endpoints, new)
        until(lambda new=new: gateway.get(f"/v1/{new.endpoint_id}/x").status == 503)
        took.append(time.perf_counter() - began)
    yield Result(f"{label}, new route built → enforced, longest of {CHANGES}", *_seconds(max(took)))
    first, *rest = endpoints
    other = Replica()
    took = []
    for number in range(CHANGES):
        replicas = first.replicas if number % 2 else (other.target(),)
        began = time.perf_counter()
        plane.publish(replace(first, replicas=replicas), *rest)
        until(lambda seen=number % 2 == 0: (b'"replica"' in gateway.get(PATH, large.token).body) is seen)
        took.append(time.perf_counter() - began)
    other.close()
    yield Result(f"{label}, replicas built → enforced, longest of {CHANGES}", *_seconds(max(took)))


def _seconds(value: float) -> tuple[float, str, str, bool]:
    return round(value, 2), "s", "<= 2", value <= 2


# --- contenders -------------------------------------------------------------------------------------------


class Guarded:
    """A gateway of today, with limits for the caller and the endpoint that nobody reaches."""

    def __init__(self, plane: ControlPlane, gateway: Gateway, token: str) -> None:
        self.plane, self.gateway, self.token = plane, gateway, token

    def contender(self, name: str) -> Contender:
        return Contender(name, f"http://127.0.0.1:{self.gateway.port}{PATH}", self.token)


@contextlib.contextmanager
def _guarded(key: Key, stub: int, *, many: bool) -> Iterator[Guarded]:
    plane = ControlPlane(key)
    plane.keeps_lines = False  # the gateway is measured, and this is on its cores
    gateway = Gateway(plane)
    try:
        target = replace(
            endpoint(NAME),
            serving=Serving.READY,
            replicas=(ReplicaTarget("r1", "127.0.0.1", stub),),
            limits=ROOMY,
            max_concurrency=AT_ONCE,
        )
        count = ENDPOINTS - 1 if many else 0
        callers = (
            Caller(SUBJECT, ROOMY),
            *(Caller(f"sa-{n}", ROOMY) for n in range(ACCOUNTS if many else 0)),
        )
        plane.publish(target, *(_other(n) for n in range(count)), callers=callers)
        gateway.ready()
        yield Guarded(plane, gateway, _token(key))
    finally:
        gateway.close()
        plane.stop()


def _other(number: int) -> EndpointTarget:
    replicas = tuple(ReplicaTarget(f"r-{number}-{n}", "127.0.0.1", 9 + n) for n in range(3))
    name = f"me-{number:08x}-0000-4000-8000-000000000000"
    target = EndpointTarget(name, f"p{number % 50}", True, Serving.READY, "", replicas=replicas, limits=ROOMY)
    return replace(target, max_concurrency=AT_ONCE)


@contextlib.contextmanager
def _first(work: Path, stub: int, key: Key) -> Iterator[Contender]:
    home = work / "first"
    (home / "xds").mkdir(parents=True)
    port = free_port()
    text = Path(__file__).with_name("first_gateway.json").read_text()
    values = {'"@PORT@"': port, '"@REPLICA@"': stub, "@KID@": key.kid, "@N@": key.jwk["n"]}
    for name, value in values.items():
        text = text.replace(name, str(value))
    documents = json.loads(text)
    (home / "bootstrap.json").write_text(json.dumps(documents.pop("bootstrap")))
    for name, document in documents.items():
        (home / "xds" / name).write_text(json.dumps(document))
    command = [str(Path(envoy.__file__).with_name("_bin") / "envoy"), "--config-path", "bootstrap.json"]
    command += ["--concurrency", str(THREADS), "--disable-hot-restart", "--log-level", "warning"]
    token = _token(key)
    with process(command, home / "log", lambda: answers(port, PATH, token)):
        yield Contender("first", f"http://127.0.0.1:{port}{PATH}", token)
