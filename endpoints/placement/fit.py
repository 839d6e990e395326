"""Where a replica fits: pure arithmetic on plain data. No database, no clock.

A node has room for a replica when it has as many CPUs and as much memory as the replica may use at most, when what
it has promised already leaves that much, and when enough of its GPUs of the wanted model are free. Memory is promised
once; CPUs are promised `overcommit` times, because a CPU limit is a ceiling that few replicas reach at once. All GPUs
of a replica come from one node.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

_GRAIN = 1e-6  # sums of fractions of a CPU are floats


@dataclass(frozen=True, slots=True)
class Need:
    """What one replica asks for. 0 cpus or memory: no limit, so nothing is promised.

    gpu   the model as instance types name it; "": any
    """

    cpus: float = 0
    memory_bytes: int = 0
    gpu: str = ""
    gpu_count: int = 0

    @property
    def kind(self) -> str:
        """What it competes for: the GPU's model, or "" for CPUs and memory alone."""
        return (self.gpu or "*") if self.gpu_count else ""


@dataclass(frozen=True, slots=True)
class GpuRoom:
    """A GPU that may be claimed. holder: the id of the replica that owns it; foreign: a program from outside the
    platform computes on it."""

    uuid: str
    model: str
    index: int = 0
    holder: str = ""
    foreign: bool = False

    @property
    def free(self) -> bool:
        """Whether nobody is on it."""
        return not self.holder and not self.foreign


@dataclass(frozen=True, slots=True)
class NodeRoom:
    """A node that takes replicas, and what it has promised.

    cpus, memory_bytes   what it has; 0: not known, then it limits nothing
    endpoints            endpoint → how many of its replicas hold room here
    """

    name: str
    cpus: float = 0
    memory_bytes: int = 0
    overcommit: float = 1
    cpus_claimed: float = 0
    memory_claimed: int = 0
    gpus: tuple[GpuRoom, ...] = ()
    endpoints: Mapping[str, int] = field(default_factory=dict)

    @property
    def cpus_promised(self) -> float:
        """How many CPUs may be promised in all."""
        return self.cpus * self.overcommit or math.inf

    @property
    def cpus_free(self) -> float:
        """How many CPUs may still be promised."""
        return max(0.0, self.cpus_promised - self.cpus_claimed)

    @property
    def memory_free(self) -> float:
        """How many bytes are not promised."""
        return max(0.0, (self.memory_bytes or math.inf) - self.memory_claimed)

    def gpus_of(self, model: str) -> tuple[GpuRoom, ...]:
        """Its GPUs of a model, all of them for ""."""
        return tuple(gpu for gpu in self.gpus if not model or gpu.model.casefold() == model.casefold())

    def free_gpus(self, model: str) -> tuple[GpuRoom, ...]:
        """Those of them that nobody is on, by index."""
        return tuple(
            sorted((g for g in self.gpus_of(model) if g.free), key=lambda gpu: (gpu.index, gpu.uuid))
        )


@dataclass(frozen=True, slots=True)
class Choice:
    """A node and exactly these of its GPUs."""

    node: str
    gpu_ids: tuple[str, ...] = ()


def could_hold(need: Need, node: NodeRoom) -> bool:
    """Whether the node could hold such a replica if nothing else were on it."""
    return (
        need.cpus <= (node.cpus or math.inf) + _GRAIN
        and need.memory_bytes <= (node.memory_bytes or math.inf)
        and (not need.gpu_count or len(node.gpus_of(need.gpu)) >= need.gpu_count)
    )


def has_machine(need: Need, node: NodeRoom) -> bool:
    """Whether CPUs and memory are left for it now."""
    return need.cpus <= node.cpus_free + _GRAIN and need.memory_bytes <= node.memory_free


def has_gpus(need: Need, node: NodeRoom) -> bool:
    """Whether GPUs are left for it now."""
    return not need.gpu_count or len(node.free_gpus(need.gpu)) >= need.gpu_count


def choose(need: Need, endpoint: str, nodes: Iterable[NodeRoom]) -> Choice | None:
    """The node with the fewest replicas of this endpoint, of those the one with most room; None: none has room."""
    fitting = [
        node for node in nodes if could_hold(need, node) and has_machine(need, node) and has_gpus(need, node)
    ]
    if not fitting:
        return None
    best = min(fitting, key=lambda node: (node.endpoints.get(endpoint, 0), *_fullness(need, node), node.name))
    return Choice(best.name, tuple(gpu.uuid for gpu in best.free_gpus(need.gpu)[: need.gpu_count]))


def _fullness(need: Need, node: NodeRoom) -> tuple[float, float, float]:
    """Smallest for the emptiest node: GPUs of the wanted model first, then memory, then CPUs."""
    return (
        -float(len(node.free_gpus(need.gpu))) if need.gpu_count else 0.0,
        node.memory_claimed / node.memory_bytes if node.memory_bytes else 0.0,
        node.cpus_claimed / node.cpus_promised,
    )


def take(nodes: Sequence[NodeRoom], choice: Choice, need: Need, endpoint: str) -> tuple[NodeRoom, ...]:
    """The nodes after such a replica was placed there."""
    return tuple(_with(node, choice, need, endpoint) if node.name == choice.node else node for node in nodes)


def _with(node: NodeRoom, choice: Choice, need: Need, endpoint: str) -> NodeRoom:
    taken = set(choice.gpu_ids)
    return replace(
        node,
        cpus_claimed=node.cpus_claimed + need.cpus,
        memory_claimed=node.memory_claimed + need.memory_bytes,
        gpus=tuple(replace(gpu, holder=endpoint or "?") if gpu.uuid in taken else gpu for gpu in node.gpus),
        endpoints={**node.endpoints, endpoint: node.endpoints.get(endpoint, 0) + 1},
    )


@dataclass(frozen=True, slots=True)
class Waiting:
    """A replica that waits for room since before the one that is placed.

    patient   it has waited so long that nobody who wants the same may overtake it any more
    """

    endpoint: str
    need: Need
    patient: bool = False


@dataclass(frozen=True, slots=True)
class Turn:
    """There would be room, but for `before` replicas that came first."""

    before: int


def choose_in_turn(
    need: Need, endpoint: str, nodes: Sequence[NodeRoom], older: Sequence[Waiting]
) -> Choice | Turn | None:
    """`choose`, with the room left alone that replicas waiting longer could take now.

    One that can't use what is free is overtaken, so that a small replica need not wait behind a big one, until it
    has become patient: from then on nobody who competes for the same (the same GPU model; CPUs and memory) goes
    before it, so that the room it needs can add up. One that no node could ever hold holds up nobody.
    """
    found = choose(need, endpoint, nodes)
    left, before, held_up = tuple(nodes), 0, False
    too_much: set[Need] = set()  # room only shrinks: what did not fit once does not fit later
    for other in older:
        if found is None:
            break
        theirs = choose(other.need, other.endpoint, left) if other.need not in too_much else None
        if theirs is not None:
            left, before = take(left, theirs, other.need, other.endpoint), before + 1
            found = choose(need, endpoint, left)
            continue
        too_much.add(other.need)
        if other.patient and other.need.kind == need.kind and _could_ever(other.need, nodes):
            before, held_up = before + 1, True
    return Turn(before) if before and (held_up or found is None) else found


def _could_ever(need: Need, nodes: Iterable[NodeRoom]) -> bool:
    return any(could_hold(need, node) for node in nodes)
