"""The gateway's files: replaced by rename, so that a reader sees the old content or the new, never a part."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write(path: Path, content: str | bytes, *, durable: bool = True) -> None:
    """Replace `path`, readable by the owner only. Raises OSError. durable: and wait until the disk has it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    data = content.encode() if isinstance(content, str) else content
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())  # Envoy starts from these files after a power cut, too
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    write(path, json.dumps(document, separators=(",", ":")))


def read_json(path: Path) -> Any:
    """The document, or None if there is none that can be read."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
