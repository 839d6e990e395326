"""Whose address a request comes from. The one place that decides when `X-Forwarded-For` is believed.

Only from our own gateway, and from a proxy that BERTH_TRUSTED_PROXIES names, and only its last entry: that is what
the proxy saw itself, all before it is the caller's own claim.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from functools import lru_cache

from django.conf import settings
from django.http import HttpRequest

UNKNOWN = "unknown"
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def client_address(request: HttpRequest) -> str:
    """The caller's address as text, UNKNOWN where the connection has none (a socket file)."""
    return address_of(request.META.get("REMOTE_ADDR", ""), request.headers.get("X-Forwarded-For", ""))


def from_proxy(request: HttpRequest) -> bool:
    """Whether our gateway, or a proxy that we trust, handed the request over."""
    return is_trusted(request.META.get("REMOTE_ADDR", ""))


def address_of(peer: str, forwarded: str) -> str:
    """The caller's address. peer: the other end of the connection; forwarded: the header, "" without one."""
    found = parse(peer)
    if found is not None and _trusted(found):
        found = parse(forwarded.rpartition(",")[2].strip()) or found
    return str(found) if found is not None else UNKNOWN


def is_trusted(peer: str) -> bool:
    """Whether what this peer says of others counts."""
    found = parse(peer)
    return found is not None and _trusted(found)


def network_of(address: str) -> str:
    """What limits are counted by: an IPv4 address; of an IPv6 address its /64, which one host may fill at will."""
    found = parse(address)
    if found is None:
        return UNKNOWN
    return str(ipaddress.ip_network((found, 64), strict=False)) if found.version == 6 else str(found)


def parse(text: str) -> _Address | None:
    """An address; one of IPv4 that is dressed up as IPv6 is one of IPv4. None for anything else."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _trusted(peer: _Address) -> bool:
    return any(peer in network for network in _networks(tuple(settings.BERTH_TRUSTED_PROXIES)))


@lru_cache(maxsize=4)
def _networks(named: Iterable[str]) -> tuple[_Network, ...]:
    return tuple(ipaddress.ip_network(name, strict=False) for name in named)
