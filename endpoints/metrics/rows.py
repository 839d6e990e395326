"""A sample as a row of the database, and back."""

from __future__ import annotations

import json
from collections.abc import Iterable

from endpoints.metrics.sample import Sample
from endpoints.models import MetricSample

# A slot that is looked up is one parameter of a query, and not every SQLite takes more than a thousand.
SLOTS_AT_ONCE = 720
ROWS_AT_ONCE = 240

_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False, allow_nan=False).encode


def pack(sample: Sample, endpoint_id: str = "") -> str:
    """What `MetricSample.figures` holds. Without the endpoint's id: of a sample that was read without it, too."""
    return _encode(sample.pack(_prefix(endpoint_id)))


def unpack(at: int, figures: str, endpoint_id: str = "") -> Sample:
    """From `pack`'s with the same id."""
    return Sample.unpack(at, json.loads(figures), _prefix(endpoint_id))


def save(found: Iterable[MetricSample]) -> None:
    """Write them; one that is there already is replaced."""
    MetricSample.objects.bulk_create(
        found,
        batch_size=ROWS_AT_ONCE,
        update_conflicts=True,
        unique_fields=["resolution", "at", "series"],
        update_fields=["figures"],
    )


def _prefix(endpoint_id: str) -> str:
    """What replicas are called begins with it (endpoints.specs.replica_name)."""
    return f"berth-{endpoint_id}-" if endpoint_id else ""
