"""What a gateway refuses of a snapshot, as the line in which its agent tells the control plane."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from gateway import names

LIMIT = 2000  # characters; the line is a header
_FILE = re.compile(rf"(?:^|; )({'|'.join(map(re.escape, (*names.FILES, names.DENIALS)))}): ")


class Refused(Protocol):
    """gateway.apply.Refusal."""

    @property
    def file(self) -> str: ...
    @property
    def evidence(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Rejection:
    """One file that is not in force. file: "" where the line does not tell. evidence: Envoy's own words, if it has
    some."""

    file: str
    evidence: str


def in_one_line(version: str, refused: Iterable[Refused]) -> str:
    """What the control plane hears of what is refused of a snapshot, "" if nothing is."""
    texts = [f"{refusal.file}: {refusal.evidence}" for refusal in refused]
    return f"{version} {'; '.join(texts)}" if texts else ""


def read(line: str) -> list[Rejection]:
    """What `in_one_line` wrote, its end cut off at LIMIT; whatever else it is, as it is."""
    if not line:
        return []
    version, _, told = line.partition(" ")
    text = told if told and not version.endswith(":") else line
    if len(line) >= LIMIT:
        text += "…"
    before, *found = _FILE.split(text)
    rejections = [Rejection("", before)] if before else []
    return rejections + [Rejection(*pair) for pair in zip(found[::2], found[1::2], strict=True)]
