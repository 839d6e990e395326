"""The next bigger instance type: of the same kind, for this model, on a machine that there is."""

from __future__ import annotations

from endpoints.fit import ModelNeeds, Offer, misfit
from endpoints.models import InstanceType, Revision
from endpoints.placement import Rooms
from registry.frameworks import definition_of


def next_bigger(revision: Revision, *, of_gpu: bool = False) -> InstanceType | None:
    """The smallest type with more memory than the revision's, of nothing less than it has; None if there is none.

    of_gpu   more memory of the GPUs instead of the machine's
    """
    size, model = revision.instance_type, revision.model
    definition = definition_of(model.framework)
    needs = ModelNeeds(definition.name, definition.device_kinds, model.size_bytes)
    rooms = Rooms(revision.endpoint.region_id, project_id=revision.endpoint.project_id)
    for other in _bigger(size, of_gpu=of_gpu):
        if misfit(needs, Offer(other.gpu_count, other.vram_gib, other.memory_gib)):
            continue
        missing = rooms.room_for(other)
        # No room at the moment passes: the endpoint waits for it and says so. No such machine does not.
        if missing is None or not missing.for_good:
            return other
    return None


def _bigger(size: InstanceType, *, of_gpu: bool) -> list[InstanceType]:
    """All that are bigger, the smallest first. A type without a limit has nothing above it."""
    if not size.memory_gib and not of_gpu:
        return []
    rows = [row for row in InstanceType.objects.filter(enabled=True) if _is_bigger(row, size, of_gpu=of_gpu)]
    if of_gpu:
        return sorted(rows, key=lambda row: (row.vram_gib, row.gpu_count, row.memory_gib, row.position))
    return sorted(rows, key=lambda row: (row.gpu_count, row.memory_gib, row.vcpu, row.position))


def _is_bigger(row: InstanceType, size: InstanceType, *, of_gpu: bool) -> bool:
    if of_gpu:
        return bool(size.gpu_count) and row.vram_gib > size.vram_gib
    same_kind = row.gpu == size.gpu and row.gpu_count >= size.gpu_count
    return same_kind and row.memory_gib > size.memory_gib and (not row.vcpu or row.vcpu >= size.vcpu)
