"""Numbers with decimals as the language writes them."""

from __future__ import annotations

from django.utils.formats import number_format


def decimal(value: float, places: int, *, grouped: bool = False) -> str:
    """Rounded to so many places; Django's own cuts the rest off. grouped: with separators of thousands."""
    return str(number_format(round(value, places), places, use_l10n=True, force_grouping=grouped))
