"""The filter that reads how many tokens an answer took (usage_reader.lua), for the access log.

Tried and left: Envoy's json_to_metadata holds a body back and answers 500 to one that is larger than its buffer;
ai_protocol_manager publishes nothing of a stream that is broken off, and is not finished, as is sse_to_metadata.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

Json = dict[str, Any]

FILTER = "berth.usage"
NAMESPACE, KEY = "berth", "usage"  # of the dynamic metadata, as the script writes them
SCRIPT = Path(__file__).with_name("usage_reader.lua")


def http_filter() -> Json:
    """Next to the router, so that it sees an answer before any other filter does."""
    return {
        "name": FILTER,
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua",
            "default_source_code": {"inline_string": SCRIPT.read_text()},
        },
    }


LOGGED = f"%DYNAMIC_METADATA({NAMESPACE}:{KEY})%"
