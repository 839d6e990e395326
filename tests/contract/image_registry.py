"""A small image registry on a loopback port: one image, public or private.

Routes and answers follow the distribution specification
(https://github.com/opencontainers/distribution-spec/blob/main/spec.md), as far as a pull needs them.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import http.server
import io
import json
import os
import re
import tarfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
LAYER_BYTES = 3_000_000
USER, PASSWORD = "puller", "correct horse"


@dataclass
class Registry:
    """`address` is host:port; its one image is {address}/image:1."""

    address: str
    private: bool = False
    delay_s: float = 0.0  # between the pieces of a layer, so that progress is seen


@contextmanager
def running_registry() -> Iterator[Registry]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.registry = Registry(f"127.0.0.1:{server.server_port}")  # type: ignore[attr-defined]
    server.blobs = _blobs()  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.registry  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _blobs() -> dict[str, bytes]:
    """{digest: content} of a layer of random bytes, its configuration and the manifest, the last as "manifest"."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        info = tarfile.TarInfo("data")
        info.size = LAYER_BYTES
        tar.addfile(info, io.BytesIO(os.urandom(LAYER_BYTES)))
    layer = gzip.compress(raw.getvalue(), 1)
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [_digest(raw.getvalue())]},
        }
    ).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": _entry("application/vnd.docker.container.image.v1+json", config),
        "layers": [_entry("application/vnd.docker.image.rootfs.diff.tar.gzip", layer)],
    }
    return {_digest(layer): layer, _digest(config): config, "manifest": json.dumps(manifest).encode()}


def _entry(kind: str, content: bytes) -> dict[str, object]:
    return {"mediaType": kind, "size": len(content), "digest": _digest(content)}


def _digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        blobs: dict[str, bytes] = self.server.blobs  # type: ignore[attr-defined]
        found = re.fullmatch(r"/v2/(\w+)/(manifests|blobs)/(\S+)", self.path)
        if self.path == "/v2/":
            return self._answer(200, b"{}") if self._allowed() else self._unauthorised()
        if not self._allowed():
            return self._unauthorised()
        if not found or found[1] != "image":
            return self._error(404, "NAME_UNKNOWN", "repository name not known to registry")
        if found[2] == "manifests":
            if found[3] != "1" and found[3] != _digest(blobs["manifest"]):
                return self._error(404, "MANIFEST_UNKNOWN", "manifest unknown")
            return self._answer(200, blobs["manifest"], MANIFEST)
        return self._blob(blobs[found[3]])

    def _blob(self, content: bytes) -> None:
        self._head(200, len(content), "application/octet-stream")
        delay = self.server.registry.delay_s  # type: ignore[attr-defined]
        for start in range(0, len(content), 200_000):
            self.wfile.write(content[start : start + 200_000])
            time.sleep(delay)

    def _allowed(self) -> bool:
        if not self.server.registry.private:  # type: ignore[attr-defined]
            return True
        wanted = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        return self.headers.get("Authorization") == wanted

    def _unauthorised(self) -> None:
        self._error(
            401, "UNAUTHORIZED", "authentication required", {"WWW-Authenticate": 'Basic realm="test"'}
        )

    def _error(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        body = json.dumps({"errors": [{"code": code, "message": message}]}).encode()
        self._answer(status, body, headers=headers)

    def _answer(
        self,
        status: int,
        body: bytes,
        kind: str = "application/json",
        headers: dict[str, str] | None = None,
    ) -> None:
        self._head(status, len(body), kind, {**(headers or {}), "Docker-Content-Digest": _digest(body)})
        if self.command == "GET":
            self.wfile.write(body)

    def _head(self, status: int, length: int, kind: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(length))
        self.send_header("Docker-Distribution-Api-Version", "registry/2.0")
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass
