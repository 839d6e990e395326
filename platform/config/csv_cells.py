"""Cells of CSV files that people open in a spreadsheet."""

from __future__ import annotations

# What makes a spreadsheet take a text for a formula, or look for one behind it (OWASP, "CSV Injection").
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def safe(text: str) -> str:
    """The text, with an apostrophe before what would be run as a formula."""
    return f"'{text}" if text.startswith(_FORMULA) else text
