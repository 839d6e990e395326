"""An image registry on loopback. Every tag is an image of its own: the replicas' layer, which the engine has after the
first pull, and a small one that arrives as slowly as we like.

Routes and answers follow the distribution specification
(https://github.com/opencontainers/distribution-spec/blob/main/spec.md), as far as a pull needs them.
"""

from __future__ import annotations

import gzip
import hashlib
import http.server
import io
import json
import random
import re
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG = "application/vnd.docker.container.image.v1+json"
LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
PIECE, PIECES = 40_000, 10


class Registry:
    """`image(tag)` names an image. `hold_s[tag]` is how long its small layer takes; `on_pull(tag)` is called when the
    engine begins to fetch that one."""

    def __init__(self, layer: Path, config: dict[str, Any]) -> None:
        raw = layer.read_bytes()
        self._base = (_digest(raw), gzip.compress(raw, 1))
        self._config = config
        self._blobs = {_digest(self._base[1]): self._base[1]}
        self._manifests: dict[str, bytes] = {}
        self._slow: dict[str, str] = {}  # digest of a small layer → its tag
        self._guard = threading.Lock()
        self.hold_s: dict[str, float] = {}
        self.on_pull: Callable[[str], None] = lambda tag: None
        self.address = ""

    def image(self, tag: str) -> str:
        """The name to pull."""
        return f"{self.address}/server:{tag}"

    def manifest(self, tag: str) -> bytes:
        """Made when it is first asked for."""
        with self._guard:
            if tag not in self._manifests:
                self._make(tag)
            return self._manifests[tag]

    def blob(self, digest: str) -> tuple[bytes | None, str]:
        """Its content, and the tag if it is a small layer's."""
        return self._blobs.get(digest), self._slow.get(digest, "")

    def _make(self, tag: str) -> None:
        small = _layer_of(tag)
        packed = gzip.compress(small, 1)
        config = json.dumps(
            {
                "architecture": "amd64",
                "os": "linux",
                "config": self._config,
                "rootfs": {"type": "layers", "diff_ids": [self._base[0], _digest(small)]},
            }
        ).encode()
        self._blobs[_digest(packed)] = packed
        self._blobs[_digest(config)] = config
        self._slow[_digest(packed)] = tag
        self._manifests[tag] = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": _entry(CONFIG, config),
                "layers": [_entry(LAYER, self._base[1]), _entry(LAYER, packed)],
            }
        ).encode()


def _layer_of(tag: str) -> bytes:
    content = random.Random(tag).randbytes(PIECE * PIECES)
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        info = tarfile.TarInfo("tag")
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    return raw.getvalue()


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _entry(kind: str, content: bytes) -> dict[str, Any]:
    return {"mediaType": kind, "size": len(content), "digest": _digest(content)}


@contextmanager
def running_registry(layer: Path, config: dict[str, Any]) -> Iterator[Registry]:
    """A registry while the block runs."""
    registry = Registry(layer, config)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(registry))
    server.daemon_threads = True
    registry.address = f"127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield registry
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(registry: Registry) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            with suppress(OSError):  # the engine was killed
                self._answer()

        do_HEAD = do_GET

        def _answer(self) -> None:
            if self.path == "/v2/":
                return self._send(200, b"{}", "application/json")
            found = re.fullmatch(r"/v2/server/(manifests|blobs)/(\S+)", self.path)
            if found and found[1] == "manifests":
                wanted = found[2]
                manifest = self._by_digest(wanted) if ":" in wanted else registry.manifest(wanted)
                if manifest:
                    return self._send(200, manifest, MANIFEST)
            elif found:
                content, tag = registry.blob(found[2])
                if content is not None:
                    return self._send(200, content, "application/octet-stream", tag)
            return self._send(404, b'{"errors": []}', "application/json")

        def _by_digest(self, digest: str) -> bytes | None:
            return next((one for one in registry._manifests.values() if _digest(one) == digest), None)

        def _send(self, status: int, body: bytes, kind: str, tag: str = "") -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Docker-Content-Digest", _digest(body))
            self.send_header("Docker-Distribution-Api-Version", "registry/2.0")
            self.end_headers()
            if self.command == "HEAD":
                return
            if tag:
                registry.on_pull(tag)
            pause = registry.hold_s.get(tag, 0) / PIECES
            for start in range(0, len(body), PIECE):
                self.wfile.write(body[start : start + PIECE])
                if pause:
                    time.sleep(pause)

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler
