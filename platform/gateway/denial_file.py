"""The file in which the agent tells Envoy whom to deny, and whether Envoy does as it says.

The accounting thread writes it (gateway.budgets), the main thread looks whether Envoy took it: that costs questions
which must not delay the counting of tokens.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from gateway import denials, files, names
from gateway.admin import Admin
from gateway.apply import Refusal
from gateway.denials import Denial

Json = dict[str, Any]

_AT_ONCE_S = 0.3  # Envoy takes a file in milliseconds
_PATIENCE_S = 15.0


class DenialFile:
    """version: of what was written last, "" before that."""

    def __init__(self, path: Path) -> None:
        self.version = ""
        self._path = path
        self._written: frozenset[Denial] | None = None
        self._good = _document(())  # Envoy took that last
        self._document = self._good
        self._lock = threading.Lock()

    def write(self, denied: Iterable[Denial]) -> None:
        """Nobody else is to be denied from now on. Raises OSError."""
        wanted = frozenset(denied)
        if wanted == self._written:
            return
        document = _document(wanted)
        with self._lock:
            files.write_json(self._path, document)
            self._document, self.version = document, document["version_info"]
        self._written = wanted

    def prepare(self) -> None:
        """For an Envoy that is about to start: it does not without the file. Raises OSError."""
        found = files.read_json(self._path)
        if not isinstance(found, dict) or not found.get("version_info"):
            self.write(())

    def took(self, version: str) -> None:
        """Envoy works with it."""
        with self._lock:
            if version == self.version:
                self._good = self._document

    def put_back(self, version: str) -> None:
        """Envoy refuses it: what it took before lies there again, also for an Envoy that is started anew. Raises
        OSError."""
        with self._lock:
            if version == self.version:
                files.write_json(self._path, self._good)


def _document(denied: Iterable[Denial]) -> Json:
    resources = [denials.extension(denied)]
    version = hashlib.sha256(json.dumps(resources).encode()).hexdigest()[:16]
    return {"version_info": version, "resources": resources}


class Watch:
    """refused: why Envoy does not deny whom it should; nothing if it does."""

    def __init__(self, file: DenialFile, admin: Admin, evidence: Callable[[], str]) -> None:
        self.refused: tuple[Refusal, ...] = ()
        self._file = file
        self._admin = admin
        self._evidence = evidence
        self._judged = ""
        self._seen = ("", 0.0)  # which version, and since when
        self._rejections = 0

    def begin(self) -> None:
        """Another Envoy runs, or one that was found."""
        self._rejections = 0
        self._seen = ("", 0.0)
        if not self.refused:
            self._judged = ""

    def look(self, now: float) -> None:
        """now: seconds of a steady clock. Raises AdminError, OSError."""
        version = self._file.version
        if version == self._judged:
            return
        if self._seen[0] != version:
            self._seen = (version, now)
        waited = now - self._seen[1]
        if self._admin.versions().get(names.DENIALS) == version:
            self._file.took(version)
            self._judged, self.refused = version, ()
        elif waited > _AT_ONCE_S and self._admin.rejections()[names.DENIALS] > self._rejections:
            self._refuse(version, self._evidence() or "Envoy gave no reason")
        elif waited > _PATIENCE_S:
            self._refuse(version, self._evidence() or f"Envoy did not take it within {_PATIENCE_S:.0f} s")

    def _refuse(self, version: str, evidence: str) -> None:
        self._rejections = self._admin.rejections()[names.DENIALS]
        self._file.put_back(version)
        self._judged, self.refused = version, (Refusal(names.DENIALS, evidence),)
