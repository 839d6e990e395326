"""Where on this machine things lie that have to be agreed on before Django's settings exist."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from pathlib import Path

# A unix socket's path holds about 100 bytes (sockaddr_un); the rest is for the socket's own name.
LONGEST = 80
PLAIN = re.compile(r"[A-Za-z0-9/._-]+")


def socket_dir(home: Path) -> Path:
    """Where a home's unix sockets live: inside it, unless its path is too long for one or would need escaping in a
    URL; then a folder of its own below the temporary files."""
    inside = home / "run"
    if len(str(inside)) <= LONGEST and PLAIN.fullmatch(str(inside)):
        return inside
    digest = hashlib.sha256(str(home).encode()).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"berth-{os.getuid()}-{digest}"
