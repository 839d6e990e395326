"""A replica's answer as the continuation of a stream that has begun already."""

from __future__ import annotations

import asyncio

import h11

from activator import answers, sse
from activator.link import Link

_ERROR_KEPT = 64 * 1024  # bytes of an error's body that are looked at
_EXCERPT = 300


async def continue_stream(caller: Link, replica: Link, stirred: asyncio.Event) -> bool:
    """Pass on the body of the replica's answer, or say in one event why there is none. The request was sent already.

    False: the replica was lost before it answered anything, and nothing was said.
    """
    talk = h11.Connection(h11.CLIENT, max_incomplete_event_size=_ERROR_KEPT)
    # Nothing of this is sent: it makes the parser expect an answer.
    talk.send(h11.Request(method="POST", target="/", headers=[("host", "replica")]))
    talk.send(h11.EndOfMessage())
    response: h11.Response | None = None
    other = bytearray()
    try:
        while True:
            event = talk.next_event()
            if event is h11.NEED_DATA:
                await _something(caller, replica, stirred)
                if caller.ended:
                    return True
                talk.receive_data(replica.take())
            elif isinstance(event, h11.Response):
                response = event
            elif isinstance(event, h11.Data):
                if response is not None and _is_stream(response):
                    await _room(caller, stirred)
                    caller.send(sse.chunk(bytes(event.data)))
                elif len(other) < _ERROR_KEPT:
                    other += event.data
            elif isinstance(event, (h11.EndOfMessage, h11.ConnectionClosed)):
                break
    except h11.RemoteProtocolError:
        if not replica.received:
            return False
        caller.send(sse.error(answers.error_of(answers.LOST[1]) or {}))
    else:
        caller.send(
            sse.LAST if response is not None and _is_stream(response) else _told(response, bytes(other))
        )
    caller.close()
    return True


def _is_stream(response: h11.Response) -> bool:
    headers = {bytes(name): bytes(value) for name, value in response.headers}
    kind = headers.get(b"content-type", b"").lower()
    plain = headers.get(b"content-encoding", b"identity").lower() == b"identity"
    return 200 <= response.status_code < 300 and kind.startswith(b"text/event-stream") and plain


def _told(response: h11.Response | None, body: bytes) -> bytes:
    """An answer that is no stream, as the last event of one."""
    status = response.status_code if response is not None else 0
    error = answers.error_of(body)
    if error is not None:
        return sse.error({"status_code": status, **error})
    excerpt = " ".join(body.decode(errors="replace").split())[:_EXCERPT]
    text = f"The model server answered with status {status} instead of a stream: {excerpt}"
    return sse.error(answers.error_of(answers.not_streamed(status, f"http_{status}", text)[1]) or {})


async def _something(caller: Link, replica: Link, stirred: asyncio.Event) -> None:
    while not replica.incoming and not replica.ended and not caller.ended:
        await stirred.wait()
        stirred.clear()


async def _room(caller: Link, stirred: asyncio.Event) -> None:
    while caller.is_full and not caller.ended:
        await stirred.wait()
        stirred.clear()
