"""What the activator knows gateways by. Derived, so that nobody has to hand out a second secret."""

from __future__ import annotations

import hmac


def activator_secret(gateway_token: str) -> str:
    """From the token that gateways, activator and control plane share; it does not lead back to it."""
    return hmac.new(gateway_token.encode(), b"berth: gateway to activator", "sha256").hexdigest()
