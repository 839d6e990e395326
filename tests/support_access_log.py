"""Lines of a gateway's access log, as Envoy writes them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from gateway.log_columns import COLUMNS, NOTHING, TAB, split

ENDPOINT = "me-00000000-0000-4000-8000-0000000000a1"
_NUMBERS = ("ended", "status", "duration_ms", "first_byte_ms", "bytes_in", "bytes_out", "attempts")


def line(at: datetime | None = None, **fields: Any) -> bytes:
    """One line, of a call that a model server answered; at: when it began."""
    said = _said(at, fields)
    said["request"] = f"{said['method']} {said['path']}"
    columns = (NOTHING if said[name] is None else str(said[name]) for name in COLUMNS)
    return TAB.join(columns).encode("utf-8", "surrogatepass") + b"\n"


def json_line(at: datetime | None = None, **fields: Any) -> bytes:
    """The same as it was written before there were columns: members in the order of their names."""
    said = _said(at, fields)
    kept = {name: value for name, value in sorted(said.items()) if name not in ("", "ended")}
    return json.dumps(kept, separators=(",", ":")).encode() + b"\n"


def _said(at: datetime | None, fields: dict[str, Any]) -> dict[str, Any]:
    began = at or datetime.now(UTC)
    said = {
        "": "",
        "attempts": 1,
        "bytes_in": 100,
        "bytes_out": 300,
        "client": "192.0.2.7",
        "details": "via_upstream",
        "duration_ms": 20,
        "endpoint": ENDPOINT,
        "first_byte_ms": 15,
        "flags": "-",
        "method": "POST",
        "path": "/v1/chat/completions",
        "replica": "127.0.0.1:9000",
        "request_id": "39baca1c-754a-4afe-85d4-997390adf407",
        "status": 200,
        "sub": "sa-1",
        "time": began.strftime("%Y-%m-%dT%H:%M:%S.") + f"{began.microsecond // 1000:03}Z",
        "usage": "9 2 0",
        **fields,
    }
    took = said["duration_ms"]
    ended = began.timestamp() + (took / 1000 if isinstance(took, int) else 0)
    return {"ended": int(ended), **said}


def read(text: str) -> dict[str, Any]:
    """A line's columns by their names, and `method` and `path` for themselves. Numbers are numbers, None is nothing."""
    said: dict[str, Any] = dict(zip(COLUMNS, split(text), strict=True))
    said["method"], _, said["path"] = said["request"].partition(" ")
    return {
        name: None if value == NOTHING else int(value) if name in _NUMBERS else value
        for name, value in said.items()
    }
