"""Whether and when a replica that failed is tried again. Pure.

The first replacement of one that had been ready comes at once: most often its machine was at fault, not it. One that
never got ready, or that ended again, waits 10 s, 20 s, 40 s … 5 min, like the kubelet's restart back-off
(kubernetes.io, "Pod Lifecycle"). An attempt that served for ten minutes makes up for all failures before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from endpoints.reconciler.state import ReplicaView

BACK_OFF = timedelta(seconds=10)
BACK_OFF_LIMIT = timedelta(minutes=5)
CALM = timedelta(minutes=10)

# What fails again in the same way until a person changes something: trying on would only hold the GPUs of others.
PERMANENT = frozenset(
    {
        "image_not_found",
        "image_denied",
        "registry_not_allowed",
        "invalid_container",
        "command_not_found",
        "wrong_architecture",
        "wrong_port",
        "bound_to_loopback",
        "model_file_missing",
        "model_file_corrupt",
        "model_unsupported",
        "dtype_unsupported",
        "permission_denied",
        "context_too_long",
        "context_beyond_model",
        "out_of_memory",
        "gpu_out_of_memory",
        "gpu_unsupported",
        "read_only_files",
        "bad_arguments",
        "port_in_use",
        "gpu_driver_too_old",
    }
)


def failures_in_a_row(attempts: Sequence[ReplicaView], generation: int) -> list[ReplicaView]:
    """The failed attempts of one slot, newest first, back to the last one that served in calm or to the last change
    that a person made."""
    return list(_in_a_row(sorted(attempts, key=lambda item: -item.attempt), generation))


def _in_a_row(newest_first: Sequence[ReplicaView], generation: int) -> Iterator[ReplicaView]:
    for item in newest_first:
        if item.state in ("waiting", "starting"):
            continue  # the attempt that is under way
        if item.state != "failed" or item.generation < generation or _was_calm(item):
            return
        yield item


def _was_calm(item: ReplicaView) -> bool:
    return bool(item.ready_at and item.ended_at and item.ended_at - item.ready_at >= CALM)


def is_final(failed: ReplicaView) -> bool:
    """Whether only a person can help. What was ready once is always worth another try."""
    return failed.ready_at is None and failed.reason_code in PERMANENT


def next_try(failures: Sequence[ReplicaView]) -> datetime | None:
    """When the next attempt may begin, None for at once. `failures`: in a row, newest first."""
    if not failures or failures[0].ended_at is None:
        return None
    last = failures[0]
    free = 1 if last.ready_at or last.reason_code == "container_gone" else 0
    doublings = len(failures) - 1 - free
    if doublings < 0:
        return None
    wait: timedelta = min(BACK_OFF * float(2 ** min(doublings, 10)), BACK_OFF_LIMIT)
    assert last.ended_at is not None
    return last.ended_at + wait
