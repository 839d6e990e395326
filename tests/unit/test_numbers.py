"""Decimals are rounded, never cut off, and written as the language does."""

from __future__ import annotations

import pytest
from django.utils import translation

from endpoints.numbers import decimal
from endpoints.templatetags.usage import duration, hours


@pytest.mark.parametrize(
    ("language", "value", "places", "written"),
    [
        ("en", 1.9986, 1, "2.0"),
        ("vi", 1.9986, 1, "2,0"),
        ("en", 999.999, 2, "1,000.00"),
        ("vi", 1234567.891, 2, "1.234.567,89"),
        ("en", 1999.5, 0, "2,000"),
        ("en", 0.004, 2, "0.00"),
    ],
)
def test_decimals(language: str, value: float, places: int, written: str) -> None:
    with translation.override(language):
        assert decimal(value, places, grouped=True) == written


def test_figures_of_usage() -> None:
    with translation.override("en"):
        assert (duration(1999.0), hours(0.9999)) == ("2.0\u00a0s", "1.00")
