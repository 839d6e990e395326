"""Where the present act came from: the caller's address and the id of the request. Set at the edges, read anywhere.

It follows the request into threads and into the tasks that it causes; outside of both it is empty. Imports no table,
so that logging can read it before the apps are loaded.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

HEADER = "X-Request-Id"
# What Envoy and `new_request_id` make.
_FORMAT = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Origin:
    """Of one request. address: "" where nobody called, as in a task or a command."""

    address: str = ""
    request_id: str = ""


origin: ContextVar[Origin] = ContextVar("origin", default=Origin())  # noqa: B039 - frozen


def new_request_id() -> str:
    """An id that nobody else has."""
    return str(uuid.uuid4())


def request_id_of(told: str | None, *, trusted: bool) -> str:
    """The id that our own gateway gave the request, else a new one: a caller's word would let it write into the logs,
    and hide one request behind another's id."""
    return told if trusted and told and _FORMAT.fullmatch(told) else new_request_id()


@contextmanager
def acting_from(where: Origin) -> Iterator[None]:
    """What happens in here came from there."""
    token = origin.set(where)
    try:
        yield
    finally:
        origin.reset(token)
