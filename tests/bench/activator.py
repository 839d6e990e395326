"""Warm requests with an activator beside the gateway and without one: it must not be in their way."""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from gateway.secret import activator_secret
from gateway.targets import ReplicaTarget, Serving
from tests.bench.gateway import MANY, NAME, Contender, Figure, _nginx, _wrk, program_path
from tests.bench.result import Result
from tests.support_activator import Activator, sleeping
from tests.support_gateway import ControlPlane, Gateway, Key, endpoint

PAIRS = 10
GOAL = 0.95


def run() -> list[Result]:
    """Short rounds in turns, the activator killed for every other one; the middle of the neighbours' ratios stands."""
    missing = [program for program in ("nginx", "wrk") if program_path(program) is None]
    if missing:
        return [Result(f"activator ({', '.join(missing)} is not installed)", 0, "missing", "-", None)]
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, contextlib.ExitStack() as stack:
        work = Path(folder)
        contender, activator = stack.enter_context(_warm(work))
        for connections in (1, MANY):
            beside, alone = _in_turns(work, contender, activator, connections)
            results += _figures(beside, alone, connections)
    return results


@contextlib.contextmanager
def _warm(work: Path) -> Iterator[tuple[Contender, Activator]]:
    """An endpoint with a replica and one that sleeps, behind one gateway."""
    key = Key("bench")
    plane = ControlPlane(key)
    with contextlib.ExitStack() as stack:
        stack.callback(plane.stop)
        stub = stack.enter_context(_nginx(work))
        gateway = Gateway(plane)
        stack.callback(gateway.close)
        activator = Activator(plane.url, gateway.token_file)
        stack.callback(activator.close)
        warm = replace(
            endpoint(NAME), serving=Serving.READY, replicas=(ReplicaTarget("r1", "127.0.0.1", stub),)
        )
        secret = activator_secret(plane.token)
        plane.publish(warm, sleeping("me-1"), activator=activator.address, activator_secret=secret)
        gateway.ready()
        token = key.token(exp=int(time.time()) + 3600)
        url = f"http://127.0.0.1:{gateway.port}/v1/{NAME}/v1/chat/completions"
        yield Contender("Envoy", url, token), activator


def _in_turns(
    work: Path, contender: Contender, activator: Activator, connections: int
) -> tuple[list[Figure], list[Figure]]:
    """(beside the activator, without it), who begins changing from pair to pair."""
    _wrk(work, contender, connections)
    sides: dict[bool, list[Figure]] = {True: [], False: []}
    for number in range(PAIRS):
        for is_there in (True, False) if number % 2 else (False, True):
            if is_there:
                activator.start()
            sides[is_there].append(_wrk(work, contender, connections))
            if is_there:
                activator.end()
    return sides[True], sides[False]


def _figures(beside: list[Figure], alone: list[Figure], connections: int) -> Iterator[Result]:
    label = f"warm requests, {connections} connection{'s' if connections > 1 else ''}"
    for name, side in (("beside the activator", beside), ("without it", alone)):
        yield Result(
            f"{label}, {name}, requests/s", round(_middle(one.rps for one in side)), "1/s", "-", None
        )
        yield Result(f"{label}, {name}, p50", round(_middle(one.p50_ms for one in side), 3), "ms", "-", None)
    pairs = list(zip(beside, alone, strict=True))
    throughput = _middle(with_it.rps / without.rps for with_it, without in pairs)
    speed = _middle(without.p50_ms / with_it.p50_ms for with_it, without in pairs)
    for what, ratio in (("requests/s", throughput), ("1/p50", speed)):
        name = f"{label}, {what} beside the activator against without it"
        yield Result(name, round(ratio, 3), "x", f">= {GOAL:g} x", ratio >= GOAL)


def _middle(values: Iterable[float]) -> float:
    return statistics.median(values)
