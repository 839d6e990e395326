"""The gateway's TLS certificate as a secret file of Envoy's, so that a renewed one is used without a restart."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

from gateway import bootstrap, files

_EVERY_S = 5.0


class Certificate:
    """pem: certificate chain and private key. directory: where Envoy looks for `certificate.json`."""

    def __init__(self, pem: tuple[Path, Path], directory: Path) -> None:
        self._pem = pem
        self._target = directory / bootstrap.CERTIFICATE
        self._content = ("", "")
        self._next_look = 0.0

    def refresh(self) -> bool:
        """Hand a changed pair to Envoy; whether there was one. Looks every few seconds. Raises OSError."""
        if time.monotonic() < self._next_look:
            return False
        self._next_look = time.monotonic() + _EVERY_S
        content = (self._pem[0].read_text(), self._pem[1].read_text())
        if content == self._content:
            return False
        changed = bool(self._content[0])
        files.write_json(self._target, self._document(content))
        self._content = content
        return changed

    def _document(self, content: tuple[str, str]) -> dict[str, object]:
        return {
            "version_info": hashlib.sha256("".join(content).encode()).hexdigest()[:16],
            "resources": [
                {
                    "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
                    "name": bootstrap.CERTIFICATE_NAME,
                    "tls_certificate": {
                        "certificate_chain": {"inline_string": content[0]},
                        "private_key": {"inline_string": content[1]},
                    },
                }
            ],
        }
