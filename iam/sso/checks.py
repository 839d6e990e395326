"""Wrong settings of single sign-on are told at start, not at somebody's sign-in."""

from __future__ import annotations

import ipaddress
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.checks import CheckMessage, Error, register

from iam.roles import Role


@register
def settings_of_sso(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """Only what can be told without asking the provider."""
    if not settings.BERTH_OIDC_ISSUER:
        return []
    found: list[CheckMessage] = []
    if not is_safe(settings.BERTH_OIDC_ISSUER):
        found.append(
            Error(
                f"BERTH_OIDC_ISSUER is {settings.BERTH_OIDC_ISSUER!r}: secrets would travel unencrypted.",
                hint="Give the provider's https:// address, without /.well-known/…",
                id="berth.E030",
            )
        )
    if not (settings.BERTH_OIDC_CLIENT_ID and settings.BERTH_OIDC_CLIENT_SECRET):
        found.append(
            Error(
                "BERTH_OIDC_ISSUER is set, but BERTH_OIDC_CLIENT_ID or BERTH_OIDC_CLIENT_SECRET is not.",
                hint="Register this console with the provider and set both. Its redirect address is "
                f"{settings.BERTH_PUBLIC_URL}/accounts/sso/callback/",
                id="berth.E031",
            )
        )
    if settings.BERTH_OIDC_PROJECT and settings.BERTH_OIDC_ROLE not in Role.values:
        found.append(
            Error(
                f"BERTH_OIDC_ROLE is {settings.BERTH_OIDC_ROLE!r}, which is no role.",
                hint=f"One of: {', '.join(Role.values)}",
                id="berth.E032",
            )
        )
    return found


def is_safe(address: str) -> bool:
    """https, or this machine itself."""
    parts = urlsplit(address)
    if parts.scheme == "https":
        return bool(parts.hostname)
    try:
        local = parts.hostname == "localhost" or ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        local = False
    return parts.scheme == "http" and local
