"""A day in the life of an endpoint that scales, in minutes: its script, the platform that it is played on, and what
the policy makes of the script alone."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from endpoints.autoscaling.policy import Limits, Metric
from endpoints.autoscaling.simulate import simulate
from endpoints.metrics.sample import FINEST, Sample
from tests.support_days import Day
from tests.support_processes import eventually
from tests.support_rollouts import stage
from tests.support_steady import Load

# Callers come and go a second after the figures of a slot were taken, and are all there, or gone, when the next ones
# are: what is in flight in a slot is then what the script says.
BEHIND_S = 1.0
STREAM_S = 2.0  # each caller holds one stream after the other, each of this length
SETTINGS: dict[str, Any] = {
    "min_replicas": 0,
    "max_replicas": 4,
    "in_flight": 4,
    "idle_timeout_s": 25,
    "scale_up_after_s": 10,
    "scale_down_after_s": 20,
}
LIMITS = Limits(
    min_replicas=0,
    max_replicas=4,
    thresholds={Metric.IN_FLIGHT: 4},
    idle_timeout_s=25,
    up_after_s=10,
    down_after_s=20,
)


@dataclass(frozen=True, slots=True)
class Phase:
    """callers: how many requests are in flight all the time. seconds: for how long. A multiple of a slot, and long
    enough for what is decided in it to be carried out."""

    name: str
    callers: int
    seconds: int


SCRIPT = (
    Phase("quiet", 2, 20),
    Phase("ramp", 6, 35),
    Phase("ramp", 10, 35),
    Phase("spike", 24, 35),
    Phase("flat", 10, 40),
    Phase("silence", 0, 65),
)

Step = tuple[str, int, int]


def predicted(script: Sequence[Phase] = SCRIPT) -> list[Step]:
    """(rule, from, to) of every change, from nothing but the number of callers."""
    samples, at = [], 0
    for phase in script:
        for _ in range(phase.seconds // FINEST):
            samples.append(
                Sample(
                    at=at,
                    seconds=float(FINEST),
                    answered={"2xx": round(phase.callers * FINEST / STREAM_S)} if phase.callers else {},
                    in_flight=float(phase.callers),
                    in_flight_max=phase.callers,
                    wanted=1,
                    ready=1.0,
                    low=LIMITS.min_replicas,
                    high=LIMITS.max_replicas,
                )
            )
            at += FINEST
    found = simulate(LIMITS, samples, FINEST, start_s=5)
    return [
        (str(item.rule), item.before, item.after) for item in found.decisions if item.before != item.after
    ]


@dataclass
class Played:
    """What happened. steps: as `predicted` has them. failures: of the callers' requests."""

    steps: list[Step] = field(default_factory=list)
    answered: int = 0
    failures: list[tuple[float, str, str]] = field(default_factory=list)
    most: dict[str, int] = field(default_factory=dict)


@dataclass
class Stage:
    """The platform, and the endpoint that the day is about."""

    day: Day
    endpoint: str

    @property
    def url(self) -> str:
        """Where its callers send their requests."""
        return f"http://localhost:{self.day.where.gateway_port}/v1/{self.endpoint}"

    def steps(self) -> list[Step]:
        """Every change on record, in order."""
        code = (
            f"[(d.rule, d.before, d.after) for d in get({self.endpoint!r}).decisions.order_by('at', 'id')"
            " if d.before != d.after]"
        )
        return [(str(rule), before, after) for rule, before, after in self.day.hand.do(code)]

    def play(self, script: Sequence[Phase] = SCRIPT) -> Played:
        """The whole script, in real time."""
        played, token = Played(), self.day.token()
        loads: list[Load] = []
        with ExitStack() as running:
            time.sleep(FINEST - (time.time() - BEHIND_S) % FINEST)
            began = time.monotonic()
            for phase in script:
                while sum(load.streams for load in loads) > phase.callers:
                    loads.pop().end()
                missing = phase.callers - sum(load.streams for load in loads)
                if missing:
                    load = Load(self.url, token, streams=missing, stream_s=STREAM_S, shorts=0, pause_s=0)
                    running.callback(_add, played, load)
                    loads.append(running.enter_context(load))
                began += phase.seconds
                time.sleep(max(0.0, began - time.monotonic()))
                played.most[phase.name] = self.day.hand.do(f"get({self.endpoint!r}).wanted_replicas")
        played.steps = self.steps()
        return played


def _add(played: Played, load: Load) -> None:
    played.answered += load.tally.total - len(load.tally.failures)
    played.failures += load.tally.failures


@contextmanager
def theatre(folder: Path) -> Iterator[Stage]:
    """A platform on Docker with the endpoint of the day, ACTIVE with one replica and routed."""
    with stage(folder, **SETTINGS) as (today, endpoint):
        found = Stage(today, endpoint)
        # The first figures are there: before them, nothing is decided.
        today.hand.do("from endpoints.models import MetricSample")
        eventually(lambda: today.hand.do(_COUNTED.format(endpoint)), "something is measured", 60)
        yield found


_COUNTED = "MetricSample.objects.filter(series__endpoint={!r}).count()"
