"""Regions and instance types that a new installation starts with. What an admin changed is never overwritten."""

from __future__ import annotations

import csv
from decimal import Decimal
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand
from django.db import transaction

from endpoints.models import InstanceType, Region
from iam import audit

SOURCE = Path(__file__).resolve().parents[2] / "data" / "instance-types.csv"
REGIONS = {"HCM": "Ho Chi Minh City"}


class Command(BaseCommand):
    """`manage.py load_places`: adds the rows that are missing."""

    help = "Add the regions and instance types that are missing."

    @transaction.atomic
    def handle(self, *args: Any, **options: Any) -> None:
        """Add what is missing and say how much that was."""
        added = []
        for code, name in REGIONS.items():
            if Region.objects.get_or_create(code=code, defaults={"name": name})[1]:
                added.append(code)
        with SOURCE.open(newline="") as file:
            for position, row in enumerate(csv.DictReader(file)):
                defaults = _columns(row) | {"position": position}
                if InstanceType.objects.get_or_create(name=row["name"], defaults=defaults)[1]:
                    added.append(row["name"])
        if added:
            audit.record(audit.Command("load_places"), "places.load", kind="places", after={"added": added})
        self.stdout.write(f"{len(added)} regions and instance types added")


def _columns(row: dict[str, str]) -> dict[str, Any]:
    return {
        "family": row["family"],
        "vcpu": float(row["vcpu"] or 0),
        "memory_gib": float(row["memory_gib"] or 0),
        "gpu": row["gpu"],
        "gpu_count": int(row["gpu_count"] or 0),
        "vram_gib_per_gpu": float(row["vram_gib_per_gpu"] or 0),
        "price_month": Decimal(row["price_month"]) if row["price_month"] else None,
        "currency": row["currency"],
    }
