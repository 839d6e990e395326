"""What replicas cost, from the price that the admin set for a month of an instance type."""

from __future__ import annotations

from endpoints.models import InstanceType

HOURS_A_MONTH = 730  # 365 × 24 / 12


def price_hour(instance_type: InstanceType) -> float | None:
    """Of one replica for an hour, in the instance type's currency; None if no price is set."""
    month = instance_type.price_month
    return None if month is None else float(month) / HOURS_A_MONTH
