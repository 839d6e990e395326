"""What an importer hands back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Inspected:
    """What the files say of themselves.

    entry_file   the file that the framework opens, "" for the whole folder
    task         what the model seems to be for (a ModelTask value), "" if the files don't tell
    """

    entry_file: str = ""
    task: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


def size_of(folder: Path) -> int:
    """Bytes of all files below `folder`."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
