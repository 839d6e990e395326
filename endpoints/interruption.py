"""Whether replacing running replicas has to interrupt the service: asked before, never found out after."""

from __future__ import annotations

from endpoints.models import Endpoint, InstanceType


def is_needed(endpoint: Endpoint, size: InstanceType, *, allowed: bool) -> bool:
    """Whether an old replica has to go before its successor of `size` comes."""
    return False
