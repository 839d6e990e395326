"""What tests of every kind share."""

from __future__ import annotations

import os

import pytest


def require(part: str, available: bool, reason: str) -> None:
    """Go on if `part` is there. Where it is missing: skip, saying so; with CI=true fail, so that nothing hides."""
    if available:
        return
    message = f"{part} is missing: {reason}"
    if os.environ.get("CI") == "true":
        pytest.fail(message, pytrace=False)
    pytest.skip(message)
