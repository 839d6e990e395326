"""What a container prints is a tenant's text: made harmless before it reaches a page, a file or a terminal.

Terminal sequences go (colours, cursor movements, titles, links); what a progress bar overwrote goes; every other
control character and every mark that turns the direction of text becomes "\\ufffd". Tabs stay.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

# ECMA-48: CSI sequences; OSC, DCS, SOS, PM, APC strings up to their end; two-character escapes.
_SEQUENCES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_][^\x07\x1b\n]*(?:\x07|\x1b\\)?|\x1b[ -/]*[0-~]|\x9b[0-?]*[ -/]*[@-~]"
)
# C0 without tab and newline, DEL, C1; the bidirectional marks of CVE-2021-42574; what JavaScript takes for newlines.
_CONTROLS = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2028\u2029\u2066-\u2069\ufeff]"
)
_SUSPECT = re.compile(_CONTROLS.pattern[:-1] + r"\r]")


def clean(text: str) -> str:
    """Of one line or of many, with "\\n" between them."""
    if not _SUSPECT.search(text):
        return text
    text = _SEQUENCES.sub("", text)
    if "\r" in text:
        text = "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))
    return _CONTROLS.sub("\ufffd", text)


def cleaned(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same of a stream of bytes that is cut anywhere; a line without end is cut at a megabyte."""
    pending = b""
    for piece in pieces:
        pending += piece
        end = pending.rfind(b"\n") + 1
        if not end and len(pending) > 1_000_000:
            end = len(pending)
        if end:
            yield _clean_bytes(pending[:end])
            pending = pending[end:]
    if pending:
        yield _clean_bytes(pending)


def _clean_bytes(raw: bytes) -> bytes:
    return clean(raw.decode(errors="replace")).encode()
