"""Rolling updates and everything else that moves replicas, on a whole platform, under a load that must not notice."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker

from tests.support_days import Day, day
from tests.support_platform import place
from tests.support_processes import eventually
from tests.support_runtimes import clean_up
from tests.support_steady import PORT, Load, image

PATIENCE_S = 180.0
# Killed one after the other, each while an update is under way.
PROCESSES = ("web", "worker", "redis", "beat", "watcher", "gateway", "activator", "transfers")


@dataclass(frozen=True, slots=True)
class Size:
    """How much of it. streams, stream_s, shorts, pause_s: as Load has them.

    rollouts   rolling updates; during every one but the first a process of the platform is killed
    requests   the load goes on until so many have been answered
    """

    rollouts: int
    requests: int
    streams: int
    stream_s: float
    shorts: int
    pause_s: float


@dataclass
class Outcome:
    """What happened. steps_s: from one old replica's way out to the next one's, of all rolling updates. slowest_s: the
    longest step of an update by the process that was killed in it, "" for none."""

    load: Load
    rollouts: int = 0
    killed: list[str] = field(default_factory=list)
    steps_s: list[float] = field(default_factory=list)
    slowest_s: dict[str, float] = field(default_factory=dict)
    took_s: float = 0.0

    def words(self) -> str:
        """One line for people."""
        tally = self.load.tally
        return (
            f"{tally.total} requests ({tally.answered['stream']} streams of {self.load.stream_s:.0f} s),"
            f" {len(tally.failures)} failed, {tally.bytes_compared / 1e6:.0f} MB compared,"
            f" {self.rollouts} rolling updates with steps of {statistics.median(self.steps_s):.1f} s"
            f" (longest {max(self.steps_s):.1f} s), killed {', '.join(self.killed)}, {self.took_s:.0f} s;"
            f" longest step by who was killed in it: "
            + ", ".join(f"{who or 'nobody'} {slowest:.1f} s" for who, slowest in self.slowest_s.items())
        )


@contextmanager
def stage(folder: Path, **changes: Any) -> Iterator[tuple[Day, str]]:
    """A platform on Docker, and the id of an endpoint with two steady replicas (or as `changes` say) that is ACTIVE."""
    asked = {"name": "steady", "min_replicas": 2, "max_replicas": 2, **changes}
    where = place(folder, "docker")
    try:
        with image() as name, day(where) as today:
            # More replicas than this machine has room for: their limits are ceilings that they never reach.
            today.hand.do("from endpoints.models import Node; from registry.models import Source")
            eventually(lambda: today.hand.do("Node.objects.count()"), "the machine is known", 30)
            today.hand.do("Node.objects.update(cpus_set=256, memory_gib_set=1024); None")
            today.hand.do(
                "steady = ready_model(actor.project, name='steady', framework='custom', source=Source.IMAGE,"
                f" source_ref={{'image': {name!r}, 'port': {PORT}, 'health_path': '/health',"
                f" 'command': ['{PORT}']}}, weights_path='', entry_file='', size_bytes=0)"
            )
            endpoint = today.hand.do(
                f"services.create_endpoint(actor=actor, spec=spec_for(steady, **{asked!r})).id"
            )
            today.until(endpoint, "ACTIVE")
            yield today, str(endpoint)
    finally:
        clean_up(where)


class Mover:
    """Moves the endpoint's replicas about, and waits each time until they have arrived."""

    def __init__(self, today: Day, endpoint: str, outcome: Outcome) -> None:
        self._day, self._endpoint, self._outcome = today, endpoint, outcome

    def _change(self, changes: str) -> None:
        code = f"services.update_endpoint(actor=actor, endpoint=get({self._endpoint!r}), changes={changes})"
        self._day.hand.do(code + "; None")

    def update(self, kill: str = "") -> None:
        """One rolling update, with a process killed in its middle."""
        number = self._outcome.rollouts + 1
        began = time.time()
        self._change(f"{{'environment': {{'NUMBER': '{number}'}}}}")
        if kill:
            eventually(lambda: self._moving(), "the update is under way", 60)
            self._kill(kill)
        eventually(self._arrived, f"update {number} is complete", PATIENCE_S)
        self._outcome.rollouts = number
        # Rows of ended replicas are not kept for ever: read now.
        exits = self._day.hand.do(
            f"sorted(r.drain_started_at.timestamp() for r in get({self._endpoint!r}).replicas.all()"
            f" if r.drain_started_at and r.drain_started_at.timestamp() > {began})"
        )
        moments = [began, *exits]
        steps = [after - before for before, after in itertools.pairwise(moments)]
        self._outcome.steps_s += steps
        self._outcome.slowest_s[kill] = max([self._outcome.slowest_s.get(kill, 0.0), *steps])

    def scale(self, count: int) -> None:
        """To so many replicas; returns when they serve and those above have ended."""
        self._change(f"{{'min_replicas': {count}, 'max_replicas': {count}}}")
        eventually(lambda: self._states() == ["ready"] * count, f"{count} replicas and no other", PATIENCE_S)
        self._day.until(self._endpoint, "ACTIVE", timeout_s=PATIENCE_S)

    def kill_idle(self) -> None:
        """Kill a replica while nobody asks anything; the next request comes at once."""
        names = self._day.hand.do(
            f"list(get({self._endpoint!r}).replicas.filter(state='ready').values_list('name', flat=True))"
        )
        with self._outcome.load.rest(), closing(docker.from_env()) as engine:
            engine.containers.get(names[0]).kill()
        self._outcome.killed.append("a replica")
        eventually(
            lambda: self._day.hand.do(
                f"get({self._endpoint!r}).replicas.get(name={names[0]!r}).state"
            ) == "failed",
            "the dead replica is noticed",
            60,
        )  # fmt: skip
        self._day.until(self._endpoint, "ACTIVE", timeout_s=PATIENCE_S)

    def _kill(self, name: str) -> None:
        running = self._day.running
        before = eventually(lambda: running.children().get(name), f"{name} runs", 30)
        before.kill()
        self._outcome.killed.append(name)
        eventually(lambda: running.children().get(name, before).pid != before.pid, f"{name} is back", 60)

    def _states(self) -> list[str]:
        code = f"list(get({self._endpoint!r}).replicas.values_list('state', flat=True))"
        return [state for state in self._day.hand.do(code) if state not in ("stopped", "failed")]

    def _moving(self) -> bool:
        return "starting" in self._states() or "draining" in self._states()

    def _arrived(self) -> bool:
        return bool(
            self._day.hand.do(
                f"(lambda e: e.status == 'ACTIVE' and not e.replicas.filter(state='ready').exclude("
                f"revision=e.revision_id).exists() and e.replicas.filter(state='ready').count() == 2)"
                f"(get({self._endpoint!r}))"
            )
        )


def run(folder: Path, size: Size) -> Outcome:
    """All of it. Raises AssertionError if the platform itself does not get where it should; failed requests are told
    in the outcome."""
    with stage(folder) as (today, endpoint):
        url = f"http://localhost:{today.where.gateway_port}/v1/{endpoint}"
        load = Load(
            url,
            today.token(),
            streams=size.streams,
            stream_s=size.stream_s,
            shorts=size.shorts,
            pause_s=size.pause_s,
        )
        outcome = Outcome(load)
        began = time.monotonic()
        with load:
            mover = Mover(today, endpoint, outcome)
            for number in range(size.rollouts):
                mover.update(PROCESSES[(number - 1) % len(PROCESSES)] if number else "")
            mover.scale(3)
            mover.scale(2)
            mover.kill_idle()
            eventually(lambda: load.tally.total >= size.requests, f"{size.requests} requests", 600)
        outcome.took_s = time.monotonic() - began
        if load.tally.failures:
            (folder / "platform.log").write_text(today.running.text)
        return outcome
