"""What every operation of the OpenAPI schema has in common: its error answers."""

from __future__ import annotations

from typing import Any

from config.problems import MEDIA_TYPE

_PROBLEM: dict[str, Any] = {
    "type": "object",
    "description": "What went wrong (RFC 9457).",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string", "description": "A stable name: urn:berth:problem:<code>."},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "For people."},
        "errors": {
            "type": "object",
            "description": "What is wrong with which field.",
            "additionalProperties": {"type": "array", "items": {"type": "string"}},
        },
        "params": {"type": "object", "description": "Of a conflict: the figures behind its words."},
    },
}
_REFERENCE = {"schema": {"$ref": "#/components/schemas/Problem"}}
_METHODS = {"get", "post", "put", "patch", "delete"}


def add_problems(result: dict[str, Any], **_other: Any) -> dict[str, Any]:
    """drf-spectacular's hook: each operation may answer with a problem instead."""
    result.setdefault("components", {}).setdefault("schemas", {})["Problem"] = _PROBLEM
    answer = {"description": "An error.", "content": {MEDIA_TYPE: _REFERENCE}}
    for operations in result["paths"].values():
        for method, operation in operations.items():
            if method in _METHODS:
                operation["responses"].setdefault("default", answer)
    return result
