"""A seed into a scenario: what is asked of the platform, at which named step a fault strikes, and which one. Pure.

Consecutive seeds walk through all steps in a shuffled order, a block of as many seeds as there are steps after the
other, and every block shifts the faults: any 2 × len(STEPS) - 1 seeds in a row hit every step, and a few hundred all
points (step × fault).
"""

from __future__ import annotations

import random
from dataclasses import dataclass

# What a person asks for; every scenario begins with a create and ends with a delete.
CREATE, UPDATE, UP, DOWN, PAUSE, RESTART, DELETE, IMPORT = (
    *("create", "update", "scale up", "scale down", "pause"),
    *("restart", "delete", "import"),
)

# Step → what the world sees when it is reached (see `watch.py`); the request it belongs to is the part before the dot.
STEPS: tuple[str, ...] = (
    "create.asked",
    "create.placed",
    "create.pulling",
    "create.made",
    "create.started",
    "create.starting",
    "create.ready",
    "create.active",
    "update.asked",
    "update.placed",
    "update.started",
    "update.ready",
    "update.draining",
    "update.stopping",
    "update.removed",
    "scale up.asked",
    "scale up.started",
    "scale up.ready",
    "scale down.asked",
    "scale down.draining",
    "scale down.stopping",
    "pause.stopping",
    "restart.started",
    "delete.asked",
    "delete.draining",
    "delete.stopping",
    "delete.removed",
    "import.copying",
)
PROCESSES = (
    "web",
    "worker",
    "transfers",
    "beat",
    "watcher",
    "activator",
    "gateway",
    "envoy",
    "redis",
    "dockerd",
)
OTHERS = ("flush", "freeze", "cut", "clock", "two workers", "by hand", "foreign", "changed again", "deleted")
FULL = "full volume"
FAULTS: tuple[str, ...] = (*(f"kill {name}" for name in PROCESSES), *OTHERS, FULL)
# A fault that a step can't have: a request while it is being deleted, a container while there is none.
_NO_CONTAINER = frozenset({"create.asked", "create.placed", "create.pulling"})
_AWAY = frozenset({"delete.removed"})
_BESIDE_FULL = ("kill transfers", "kill redis", "kill worker", "clock", "flush", "kill web")
_IMPORT_FAULTS = tuple(fault for other in _BESIDE_FULL for fault in (FULL, other))


@dataclass(frozen=True, slots=True)
class Scenario:
    """One seed's story.

    replicas     of the endpoint, before it is scaled
    private      its URL asks for a token
    gpu          its instance type has one
    step         where the fault strikes, one of STEPS
    fault        one of FAULTS
    late_s       between the step and the fault
    down_s       how long what was cut, frozen or killed from outside stays so
    ready_s      how long a replica takes to get ready
    pull_s       how long its image takes; 0: the engine has it
    jump_s       by how much the clock jumps
    pick         for the fault's own choices, 0 ≤ pick < 1
    """

    seed: int
    step: str
    fault: str
    replicas: int
    private: bool
    gpu: bool
    late_s: float
    down_s: float
    ready_s: float
    pull_s: float
    jump_s: int
    pick: float

    @property
    def request(self) -> str:
        """What is being carried out when the fault strikes."""
        return self.step.partition(".")[0]

    def __str__(self) -> str:
        size = f"{self.replicas} × {'GPU' if self.gpu else 'CPU'}"
        return f"seed {self.seed}: {self.fault} at {self.step} + {self.late_s:.2f} s ({size})"


def scenario(seed: int) -> Scenario:
    """The story of one seed; the same for the same seed."""
    block, place = divmod(seed, len(STEPS))
    order = list(STEPS)
    random.Random(f"order {block}").shuffle(order)
    step = order[place]
    chance = random.Random(f"seed {seed}")
    allowed = faults_at(step)
    # Every step begins its round through the faults somewhere else.
    fault = allowed[(block + STEPS.index(step) * 7) % len(allowed)]
    pulls = step == "create.pulling" or chance.random() < 0.15
    return Scenario(
        seed=seed,
        step=step,
        fault=fault,
        replicas=_replicas(step, chance),
        private=chance.random() < 0.5,
        gpu=chance.random() < 0.35,
        late_s=0.0 if chance.random() < 0.5 else chance.uniform(0.0, 0.4),
        down_s=30.0 if fault == "cut" else chance.uniform(0.5, 8.0),
        ready_s=chance.uniform(0.1, 1.2),
        pull_s=chance.uniform(2.0, 5.0) if pulls else 0.0,
        jump_s=chance.choice((-1, 1)) * chance.choice((45, 120, 600)),
        pick=chance.random(),
    )


def faults_at(step: str) -> tuple[str, ...]:
    """Which faults can strike there."""
    if step.startswith("import."):
        return _IMPORT_FAULTS
    left = [fault for fault in FAULTS if fault != FULL]
    if step in _NO_CONTAINER or step in _AWAY:
        left = [fault for fault in left if fault not in ("freeze", "by hand")]
    if step.startswith("delete."):
        left = [fault for fault in left if fault not in ("changed again", "deleted")]
    return tuple(left)


def _replicas(step: str, chance: random.Random) -> int:
    if step.startswith("scale down."):
        return 2
    if step.startswith(("scale up.", "import.")):
        return 1
    return chance.choice((1, 1, 2))
