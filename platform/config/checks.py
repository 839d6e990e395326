"""What `manage.py check` says of this installation: who can read its keys, and with --deploy what faces the network."""

from __future__ import annotations

import ipaddress
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register


@register(Tags.security)
def keys_are_private(**_: Any) -> list[CheckMessage]:
    """Keys decrypt and sign everything: only the user that Berth runs as may read them (0700, 0600)."""
    folder = Path(settings.BERTH_HOME) / "keys"
    return [
        Warning(
            f"{path} can be read by others (mode {mode:04o}).",
            hint=f"Run: chmod {'700' if path.is_dir() else '600'} {path}. If somebody else may have read it, "
            "rotate the keys as SECURITY.md says.",
            id="berth.W001",
        )
        for path, mode in _modes(folder)
        if mode & 0o077
    ]


@register(Tags.security)
def proxies_are_named(**_: Any) -> list[CheckMessage]:
    """Whose word counts for a caller's address (iam.addresses): networks, and not the whole world."""
    return [
        Error(
            f"BERTH_TRUSTED_PROXIES names {name!r}, which {why}.",
            hint="List the addresses or networks of your gateways and TLS proxies: 127.0.0.0/8,::1/128,10.0.0.5",
            id="berth.E001",
        )
        for name in settings.BERTH_TRUSTED_PROXIES
        if (why := _wrong_network(name))
    ]


@register(Tags.security, deploy=True)
def addresses_are_encrypted(**_: Any) -> list[CheckMessage]:
    """Passwords, tokens and prompts cross the network in these."""
    return [
        Warning(
            f"{name} is {address}: what is sent there can be read on its way.",
            hint="Give it an https:// address, with BERTH_TLS_CERT and BERTH_TLS_KEY or a proxy that terminates TLS.",
            id="berth.W002",
        )
        for name, address in (
            ("BERTH_PUBLIC_URL", settings.BERTH_PUBLIC_URL),
            ("BERTH_GATEWAY_URL", settings.BERTH_GATEWAY_URL),
        )
        if not address.startswith("https://")
    ]


@register(Tags.security, deploy=True)
def plain_ports_are_local(**_: Any) -> list[CheckMessage]:
    """A port without TLS is for a proxy on this machine."""
    if settings.BERTH_TLS_CERT or _is_local(settings.BERTH_BIND):
        return []
    return [
        Warning(
            f"Console and gateway listen on {settings.BERTH_BIND} without TLS.",
            hint="Set BERTH_TLS_CERT and BERTH_TLS_KEY, or BERTH_BIND to 127.0.0.1 and put a TLS proxy in front.",
            id="berth.W003",
        )
    ]


@register(Tags.security, deploy=True)
def nobody_passes_the_proxy(**_: Any) -> list[CheckMessage]:
    """A gateway that believes its proxy must be reached by nobody else."""
    if not settings.BERTH_GATEWAY_BEHIND_PROXY or _is_local(settings.BERTH_BIND):
        return []
    return [
        Warning(
            f"BERTH_GATEWAY_BEHIND_PROXY is set, and the gateway listens on {settings.BERTH_BIND}: whoever reaches it "
            "past the proxy can name any address as theirs.",
            hint="Set BERTH_BIND to 127.0.0.1, with the proxy on this machine.",
            id="berth.W005",
        )
    ]


@register(Tags.security, deploy=True)
def the_replicas_are_isolated(**_: Any) -> list[CheckMessage]:
    """Local processes run as our own user, beside our keys."""
    if settings.BERTH_RUNTIME != "process":
        return []
    return [
        Warning(
            "Models run as local processes, which can read whatever Berth can.",
            hint="Run a Docker Engine and set BERTH_RUNTIME=docker, unless everybody who may import models is trusted.",
            id="berth.W004",
        )
    ]


def _wrong_network(name: str) -> str:
    try:
        network = ipaddress.ip_network(name, strict=False)
    except ValueError:
        return "is no address and no network"
    return "" if network.prefixlen else "is everybody: anybody could give any address as theirs"


def _modes(folder: Path) -> Iterator[tuple[Path, int]]:
    for path in (folder, *sorted(folder.rglob("*"))):
        try:
            yield path, stat.S_IMODE(path.lstat().st_mode)
        except FileNotFoundError:
            continue  # not made yet, or retired meanwhile


def _is_local(bind: str) -> bool:
    try:
        return ipaddress.ip_address(bind).is_loopback
    except ValueError:
        return bind == "localhost"
