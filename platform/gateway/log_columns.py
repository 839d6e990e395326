"""The columns of Envoy's access log: what Envoy is told to write, and where the readers find it.

A line for each request that has ended; its columns are separated by tabs, "-" is nothing. First those that count for
limits, then an empty one, so that lines which count alike begin alike up to it; and last the only one that callers
write: whatever is in it shifts nothing.

Text, since Envoy works half as much again on the same as a JSON object. No query string and no header of the caller's
is in it: both can hold secrets. A header's value may hold a tab, hence no column shows one that was received; `sub`
is of a token that we signed, `details` and `flags` are Envoy's own words, `usage` our script's. That neither tab nor
newline gets in is tried on the real one (tests/integration/test_gateway_log.py).
"""

from __future__ import annotations

import json
from datetime import datetime

from gateway import usage_reader

# name → Envoy's operator
COLUMNS = {
    "ended": "%EMIT_TIME(%s)%",  # seconds since 1970
    "endpoint": "%ROUTE_NAME%",
    "sub": usage_reader.CALLER_LOGGED,  # service account or API key
    "status": "%RESPONSE_CODE%",  # 0: the caller went away before an answer
    "usage": usage_reader.USAGE_LOGGED,
    "": "",
    "time": "%START_TIME%",  # when it began
    "duration_ms": "%DURATION%",
    "first_byte_ms": "%RESPONSE_DURATION%",
    "bytes_in": "%BYTES_RECEIVED%",
    "bytes_out": "%BYTES_SENT%",
    "client": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
    "replica": "%UPSTREAM_HOST_NAME%",  # its address; the activator's name where that held the request
    "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
    "flags": "%RESPONSE_FLAGS%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "request_id": "%REQ(X-REQUEST-ID)%",
    # The path as the replica got it, below its endpoint; as the caller sent it where no replica was asked.
    "request": "%REQ(:METHOD)% %PATH(NQ:PATH):1024%",
}
NOTHING = "-"
TAB = "\t"
GAP = TAB * 2  # around the empty column
FORMAT = TAB.join(COLUMNS.values()) + "\n"
_LAST = len(COLUMNS) - 1


def split(line: str) -> list[str]:
    """What stands in COLUMNS, in their order. Raises ValueError; KeyError, TypeError, OverflowError or RecursionError
    of JSON."""
    if line[:1] == "{":
        return _of_json(line)
    found = line.split(TAB, _LAST)
    if len(found) <= _LAST:
        raise ValueError(f"{len(found)} columns")
    return found


def _of_json(line: str) -> list[str]:
    """Of the objects that were written before there were columns. Files of them may still be there, and an Envoy that
    runs on under a newer agent goes on writing them."""
    said = json.loads(line)
    began = datetime.fromisoformat(said["time"]).timestamp()
    said |= {
        "": "",
        "ended": int(began + int(said["duration_ms"]) / 1000),
        "request": f"{said['method']} {said['path']}",
    }
    return [NOTHING if said[name] is None else str(said[name]) for name in COLUMNS]
