"""What placement answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Placed:
    """The claim of a replica: its node and exactly these GPUs of it, which are its own until `release`."""

    node: str
    gpu_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NoRoom:
    """Why a replica can't be placed now: what `endpoints.errors` fills "no_capacity" with.

    Plain JSON, no names of other projects, and equal from look to look while nothing has changed. `kind`:

    no_node         no machine takes replicas there
    too_big         no machine could ever hold it
    gpus, machine   there is no room now: for want of GPUs; of CPUs or memory
    some            of several that were asked for there is room for a few
    turn            others came first
    ended           the replica itself is not waiting any more
    """

    params: Mapping[str, Any]

    code = "no_capacity"

    @property
    def kind(self) -> str:
        """Which of them."""
        return str(self.params["kind"])

    @property
    def for_good(self) -> bool:
        """Whether it takes another machine, not only time."""
        return self.kind in ("no_node", "too_big")
