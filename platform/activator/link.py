"""One end of a connection: what has come and was not taken yet, bounded, and whether the other side is still there.

Two of them can be joined: then bytes go straight through, each side no faster than the other one takes them.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import struct
from collections.abc import Callable, Collection
from typing import cast

_PIECE = 64 * 1024
# What one read brings; every link's, as each takes it out at once: thousands that wait hold no buffer of their own.
_ARRIVED = memoryview(bytearray(_PIECE))
# Of poll(2): the other side has closed its end, seen also while nobody reads. Linux only.
_GONE = getattr(select, "POLLRDHUP", 0)


class Link(asyncio.BufferedProtocol):
    """incoming   what came and was not taken yet
    ended      the other side sends no more
    lost       and hears no more
    received   bytes that came in all
    name       for its owner
    peer       where bytes go at once; None: they are kept, up to `limit`, and then left in the kernel
    changed    called after whatever happens
    """

    def __init__(self, limit: int = _PIECE) -> None:
        self.incoming = bytearray()
        self.name = ""
        self.ended = self.lost = False
        self.received = 0
        self.limit = limit
        self.peer: Link | None = None
        self.changed: Callable[[], None] = _nobody
        self._transport: asyncio.Transport | None = None
        self._full = False
        self._is_reading = True

    # --- what asyncio calls -------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The beginning."""
        self._transport = cast(asyncio.Transport, transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        """As long as there is room for."""
        return _ARRIVED if self.peer is not None else _ARRIVED[: max(1, self.limit - len(self.incoming))]

    def buffer_updated(self, nbytes: int) -> None:
        """To the peer, or kept."""
        data = bytes(_ARRIVED[:nbytes])
        self.received += nbytes
        if self.peer is not None:
            self.peer.send(data)
        else:
            self.incoming += data
            self.settle()
        self.changed()

    def eof_received(self) -> bool:
        """It may still listen."""
        self.ended = True
        self.changed()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """The end, in both directions."""
        self.ended = self.lost = True
        if self.peer is not None:
            self.peer.settle()
        self.changed()

    def pause_writing(self) -> None:
        """It takes no more for now: nor does its peer."""
        self._full = True
        if self.peer is not None:
            self.peer.settle()

    def resume_writing(self) -> None:
        """It takes more again."""
        self._full = False
        if self.peer is not None:
            self.peer.settle()
        self.changed()

    # --- what its owner calls -----------------------------------------------------------------------------

    @property
    def is_full(self) -> bool:
        """Whether what was sent waits to be taken."""
        return self._full

    @property
    def is_paused(self) -> bool:
        """Whether nobody reads: then nobody learns by reading that the other side has gone."""
        return not self._is_reading and not self.ended

    def settle(self) -> None:
        """Read on or not, as there is room."""
        wanted = not self.peer.is_full if self.peer is not None else len(self.incoming) < self.limit
        if self._transport is None or self._transport.is_closing() or wanted == self._is_reading:
            return
        self._is_reading = wanted
        (self._transport.resume_reading if wanted else self._transport.pause_reading)()

    def take(self) -> bytes:
        """All that has come; there is room for more then."""
        data = bytes(self.incoming)
        self.incoming.clear()
        self.settle()
        return data

    def send(self, data: bytes) -> None:
        """Nothing, if nobody hears it."""
        if data and self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def join(self, peer: Link) -> None:
        """From now on the bytes of each go to the other."""
        self.peer, peer.peer = peer, self
        for one in (self, peer):
            cast(Link, one.peer).send(one.take())
        self.settle()
        peer.settle()

    def part(self) -> None:
        """Bytes are kept again."""
        if self.peer is not None:
            self.peer.peer = None
            self.peer = None

    def finish(self) -> None:
        """Nothing more will be sent; what comes is still read."""
        if self._transport is not None and not self._transport.is_closing():
            with contextlib.suppress(OSError):  # it has just gone
                self._transport.write_eof()

    def close(self) -> None:
        """When all that was sent is out."""
        if self._transport is not None:
            self._transport.close()

    def reset(self) -> None:
        """At once, and so that the other side takes it for a failure."""
        if self._transport is None or self.lost:
            return
        sock = self._transport.get_extra_info("socket")
        with contextlib.suppress(OSError):
            if sock is not None and sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def fileno(self) -> int:
        """Of its socket, -1 if it has none any more."""
        sock = self._transport.get_extra_info("socket") if self._transport is not None else None
        return -1 if sock is None else int(sock.fileno())


def _nobody() -> None:
    pass


def notice_departures(links: Collection[Link]) -> None:
    """Find those whose other side has closed among the ones nobody reads, and say so."""
    paused = {fd: link for link in links if link.is_paused and (fd := link.fileno()) >= 0}
    if not paused:
        return
    poll = select.poll()
    for fd in paused:
        poll.register(fd, _GONE)
    for fd, events in poll.poll(0):
        if events & (_GONE | select.POLLHUP | select.POLLERR):
            paused[fd].eof_received()
