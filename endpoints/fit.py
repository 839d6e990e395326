"""Whether an instance type can hold a model: pure arithmetic on what is known, in words for people.

An estimate, and it says so only by being cautious: weights need their own size again a fifth more (buffers, the
context's cache at its smallest). What is not known (a container image, no size yet) fits.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from django.utils.translation import gettext as _

GIB = 1024**3
OVERHEAD = 1.2


@dataclass(frozen=True, slots=True)
class ModelNeeds:
    """What a model asks of a machine. size_bytes 0: unknown; device_kinds empty: any."""

    framework: str
    device_kinds: Collection[str]
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Offer:
    """What an instance type gives. memory_gib 0: as much as the machine has."""

    gpu_count: int
    vram_gib: float
    memory_gib: float


def misfit(needs: ModelNeeds, offer: Offer) -> str:
    """The reason why the model can't run there, "" if it can."""
    device = "gpu" if offer.gpu_count else "cpu"
    if needs.device_kinds and device not in needs.device_kinds:
        if device == "cpu":
            return _("%(framework)s needs a GPU") % {"framework": needs.framework}
        return _("%(framework)s does not use GPUs") % {"framework": needs.framework}
    needed = needs.size_bytes * OVERHEAD / GIB
    if offer.gpu_count and needed > offer.vram_gib:
        return _("needs about %(needed)s GiB of VRAM") % {"needed": _gib(needed)}
    if not offer.gpu_count and offer.memory_gib and needed > offer.memory_gib:
        return _("needs about %(needed)s GiB of RAM") % {"needed": _gib(needed)}
    return ""


def _gib(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}"
