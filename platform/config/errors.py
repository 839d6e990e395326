"""Errors that any service may raise and that views, forms and the API know how to tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Conflict(Exception):
    """The request is fine, the present state is against it (409): a model that is in use, an import that runs.

    message  for people, translated: what stands in the way and what to do
    code     a stable word for programs
    params   the figures behind the message, for programs; plain JSON
    """

    def __init__(self, message: str, code: str = "conflict", params: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.params = dict(params or {})
