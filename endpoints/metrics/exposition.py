"""Single series out of a page in Prometheus' text format. Pure.

Format: https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format. A model server prints hundreds
of series and a handful is wanted, so the page is searched for their names, not read line by line: what is not asked
for may be nonsense. Whoever wrote the page is not trusted.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

MOST_SETS = 1000  # of labels; a series with more is none of a model server
_LABELS = re.compile(rb'\{(?:[^"}\n]++|"(?:[^"\\\n]++|\\.)*+")*+\}')
_NUMBER = re.compile(rb"[ \t]*+([^ \t\r\n]++)")


def total(page: bytes, names: Iterable[str]) -> float | None:
    """The sum over these series and all their sets of labels. None if there is none, or if one of them is no number
    that can be counted: negative, NaN, infinite, text."""
    values = _all(page, names)
    return sum(values) if values else None


def mean(page: bytes, names: Iterable[str]) -> float | None:
    """Their mean; None as for `total`."""
    values = _all(page, names)
    return sum(values) / len(values) if values else None


def _all(page: bytes, names: Iterable[str]) -> list[float]:
    """[] if one of them makes no sense."""
    found: list[float] = []
    for name in names:
        word = b"\n" + name.encode()
        # A name may stand in the very first line, too.
        at = 0 if page.startswith(word[1:]) else page.find(word)
        end = at + len(word) - (at == 0 and page.startswith(word[1:]))
        while at >= 0:
            value = _value(page, end)
            if value is not None:
                found.append(value)
                if not 0 <= value < math.inf or len(found) > MOST_SETS:
                    return []
            at = page.find(word, end)
            end = at + len(word)
    return found


def _value(page: bytes, at: int) -> float | None:
    """The number of the sample whose name ends at `at`; None if the name goes on, NaN if it is no number."""
    after = page[at : at + 1]
    if after == b"{":
        labels = _LABELS.match(page, at)
        if labels is None:
            return math.nan
        at = labels.end()
    elif after not in (b" ", b"\t"):
        return None
    number = _NUMBER.match(page, at)
    try:
        return float(number[1]) if number else math.nan
    except ValueError:
        return math.nan
