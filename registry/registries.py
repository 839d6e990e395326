"""Which registries an image may come from: the engine asks whatever host an image's name says, and an editor chose it.

BERTH_IMAGE_REGISTRIES lists them: "public" is every registry with a public address, anything else a host as it stands
in the image's name ("registry.corp:5000", "*.corp", "127.0.0.1:*"), which may then have any address. "*" is all.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Sequence
from fnmatch import fnmatchcase

from django.conf import settings
from django.utils.translation import gettext as _

PUBLIC = "public"
_HUB = "docker.io"
_PORT = re.compile(r":\d+$")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def host_of(image: str) -> str:
    """The registry that the engine asks, port and all, as it stands in the reference; docker.io where none does.

    As https://pkg.go.dev/github.com/distribution/reference#ParseDockerRef tells a host from a folder.
    """
    first, slash, _rest = image.partition("/")
    is_host = slash and ("." in first or ":" in first or first == "localhost" or first != first.lower())
    return first.lower() if is_host else _HUB


def refusal(image: str, *, look_up: bool) -> str:
    """Why the image may not be fetched from where it is, "" if it may.

    look_up: ask for the addresses of a name. A name without any is the engine's to complain of: where a proxy
    fetches images, this machine may know no names at all.
    """
    host = host_of(image)
    listed: Sequence[str] = settings.BERTH_IMAGE_REGISTRIES
    if any(_matches(host, pattern.lower()) for pattern in listed if pattern != PUBLIC):
        return ""
    if PUBLIC not in listed:
        return _("Images may come from these registries: %(registries)s. %(host)s is none of them.") % {
            "registries": ", ".join(listed) or "–",
            "host": host,
        }
    inside = _not_public(host, look_up=look_up)
    if not inside:
        return ""
    return _(
        "The registry %(host)s is at %(address)s, which is no public address. Whoever runs this platform can allow"
        " it: BERTH_IMAGE_REGISTRIES=public,%(host)s"
    ) % {"host": host, "address": inside}


def _matches(host: str, pattern: str) -> bool:
    pattern = pattern.replace("[", "[[]")  # of an IPv6 address, not a choice of letters
    return fnmatchcase(host, pattern) or fnmatchcase(_PORT.sub("", host), pattern)


def _not_public(host: str, *, look_up: bool) -> str:
    """The first address of the host that is not public, "" if there is none."""
    if host == _HUB:
        return ""
    name = _PORT.sub("", host).strip("[]")
    if name == "localhost" or name.endswith(".localhost"):
        return name
    literal = _literal(name)
    found = [literal] if literal else _addresses(name) if look_up else []
    return next((str(address) for address in found if not _is_public(address)), "")


def _literal(name: str) -> _Address | None:
    """The address that is written there, in any of the ways that resolvers take: 127.1, 2130706433, 0x7f.0.0.1."""
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        pass
    if re.fullmatch(r"(0x[0-9a-f]*|\d+)(\.(0x[0-9a-f]*|\d+)){0,3}", name):
        try:
            return ipaddress.IPv4Address(socket.inet_aton(name))
        except OSError:
            return None
    return None


def _addresses(name: str) -> list[_Address]:
    try:
        rows = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return [ipaddress.ip_address(str(row[4][0]).partition("%")[0]) for row in rows]


def _is_public(address: _Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return _is_public(inner)
    return address.is_global and not address.is_multicast
