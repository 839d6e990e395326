"""Lines of a gateway's access log, as Envoy writes them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

ENDPOINT = "me-00000000-0000-4000-8000-0000000000a1"


def line(at: datetime | None = None, **fields: Any) -> bytes:
    """One line, of a call that a model server answered; at: when it began."""
    began = at or datetime.now(UTC)
    said = {
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
    return json.dumps(said, separators=(",", ":")).encode() + b"\n"
