"""HTTP/2 as an attacker writes it: frames and header fields, whatever is in them."""

from __future__ import annotations

import struct
from collections.abc import Iterable

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS, HEADERS = 4, 1
END = 5  # of the header fields and of the request


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """RFC 9113 §4.1."""
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def literal(name: bytes, value: bytes) -> bytes:
    """RFC 7541 §6.2.2: a header field that no table holds."""
    return b"\x00" + _length(name) + name + _length(value) + value


def fields(pairs: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A block of them."""
    return b"".join(literal(name, value) for name, value in pairs)


def _length(text: bytes) -> bytes:
    """RFC 7541 §5.1, without Huffman's code."""
    rest = len(text)
    if rest < 127:
        return bytes((rest,))
    found, rest = [127], rest - 127
    while rest >= 128:
        found.append(rest % 128 + 128)
        rest //= 128
    return bytes((*found, rest))
