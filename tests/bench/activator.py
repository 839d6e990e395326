"""Warm requests with an activator beside the gateway and without one: it must not be in their way."""

from __future__ import annotations

import contextlib
import signal
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from gateway.secret import activator_secret
from gateway.targets import ReplicaTarget, Serving
from tests.bench.gateway import MANY, NAME, Contender, _wrk, nginx, program_path
from tests.bench.result import Result
from tests.support_activator import Activator, sleeping
from tests.support_gateway import ControlPlane, Gateway, endpoint
from tests.support_tokens import Key

PAIRS = 12
SECONDS = 1
GOAL = 0.95


@dataclass(frozen=True, slots=True)
class Round:
    """rps: requests/s. p50_ms: median latency. cpu_us: Envoy's processor time a request; that of the activator."""

    rps: float
    p50_ms: float
    cpu_us: float
    activator_us: float


@dataclass(frozen=True, slots=True)
class Stage:
    """A warm endpoint behind a gateway, and an activator that is not started yet."""

    work: Path
    contender: Contender
    envoy: psutil.Process
    activator: Activator

    def round(self, connections: int, *, beside: bool) -> Round:
        """So many connections that never rest, with the activator running or killed."""
        if beside:
            self.activator.start()
        pid = self.activator.process.pid if beside and self.activator.process else 0
        other = psutil.Process(pid) if pid else None
        began = _cpu_s(self.envoy), _cpu_s(other)
        figure = _wrk(self.work, self.contender, connections, SECONDS)
        spent = _cpu_s(self.envoy) - began[0], _cpu_s(other) - began[1]
        if beside:
            self.activator.end(signal.SIGKILL)
        micros = [seconds * 1e6 / (figure.rps * SECONDS) for seconds in spent]
        return Round(figure.rps, figure.p50_ms, *micros)


def run() -> list[Result]:
    """Short rounds in turns, the activator killed for every other one; the middle of the neighbours' ratios stands.

    Envoy's processor time a request says the same on a machine that has other work.
    """
    missing = [program for program in ("nginx", "wrk") if program_path(program) is None]
    if missing:
        return [Result(f"activator ({', '.join(missing)} is not installed)", 0, "missing", "-", None)]
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, _stage(Path(folder)) as stage:
        for connections in (1, MANY):
            results += _figures(*_in_turns(stage, connections), connections)
    return results


@contextlib.contextmanager
def _stage(work: Path) -> Iterator[Stage]:
    """With an endpoint that sleeps beside the warm one, so that the gateway knows the activator."""
    key = Key("bench")
    plane = ControlPlane(key)
    with contextlib.ExitStack() as stack:
        stack.callback(plane.stop)
        stub = stack.enter_context(nginx(work))
        gateway = Gateway(plane)
        stack.callback(gateway.close)
        activator = Activator(plane.url, gateway.token_file)
        stack.callback(activator.close)
        replica = ReplicaTarget("r1", "127.0.0.1", stub)
        warm = replace(endpoint(NAME), serving=Serving.READY, replicas=(replica,))
        secret = activator_secret(plane.token)
        plane.publish(warm, sleeping("me-1"), activator=activator.address, activator_secret=secret)
        gateway.ready()
        token = key.token(exp=int(time.time()) + 3600)
        url = f"http://127.0.0.1:{gateway.port}/v1/{NAME}/v1/chat/completions"
        pid = gateway.envoy_pid()
        assert pid is not None
        yield Stage(work, Contender("Envoy", url, token), psutil.Process(pid), activator)


def _cpu_s(process: psutil.Process | None) -> float:
    if process is None:
        return 0.0
    times = process.cpu_times()
    return float(times.user + times.system)


def _in_turns(stage: Stage, connections: int) -> tuple[list[Round], list[Round]]:
    """(beside the activator, without it), who begins changing from pair to pair; the first pair is dropped."""
    sides: dict[bool, list[Round]] = {True: [], False: []}
    for number in range(PAIRS + 1):
        for beside in (True, False) if number % 2 else (False, True):
            sides[beside].append(stage.round(connections, beside=beside))
    return sides[True][1:], sides[False][1:]


def _figures(beside: list[Round], alone: list[Round], connections: int) -> Iterator[Result]:
    label = f"warm requests, {connections} connection{'s' if connections > 1 else ''}"

    def middle(side: list[Round], of: Callable[[Round], float]) -> float:
        return statistics.median(map(of, side))

    for name, side in (("beside the activator", beside), ("without it", alone)):
        where = f"{label}, {name}"
        yield Result(f"{where}, requests/s", round(middle(side, lambda one: one.rps)), "1/s", "-", None)
        yield Result(f"{where}, p50", round(middle(side, lambda one: one.p50_ms), 3), "ms", "-", None)
        spent = middle(side, lambda one: one.cpu_us)
        yield Result(f"{where}, Envoy's processor time each", round(spent, 1), "µs", "-", None)
    spent = middle(beside, lambda one: one.activator_us)
    yield Result(f"{label}, the activator's processor time each", round(spent, 2), "µs", "-", None)
    pairs = list(zip(beside, alone, strict=True))
    ratios = {
        "requests/s": [one.rps / other.rps for one, other in pairs],
        "1/p50": [other.p50_ms / one.p50_ms for one, other in pairs],
        "1/processor time": [other.cpu_us / one.cpu_us for one, other in pairs],
    }
    for what, found in ratios.items():
        ratio = statistics.median(found)
        name = f"{label}, {what} beside the activator against without it"
        yield Result(name, round(ratio, 3), "x", f">= {GOAL:g} x", ratio >= GOAL)
