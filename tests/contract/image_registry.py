"""Debian's `docker-registry` on a loopback port: images of random layers, with or without credentials."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from tests.support import require
from tests.support_processes import eventually, free_ports

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
LAYER_BYTES = 3_000_000
USER, PASSWORD = "puller", "correct horse"
# As `htpasswd -B` writes it for the two above, with a low cost.
HTPASSWD = "puller:$2b$04$8RECRa3rchFte6LhcvqiZuWM9REkpX5MhlLJoOwfqtBRQTuekigbC\n"


@dataclass
class Registry:
    """One registry. `address` is host:port; what was stored stays over `stop` and `start`."""

    folder: Path
    private: bool = False
    address: str = field(init=False)
    _process: subprocess.Popen[bytes] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.address = f"127.0.0.1:{free_ports(1)[0]}"
        (self.folder / "htpasswd").write_text(HTPASSWD)

    def start(self) -> None:
        """Return once it answers."""
        program = shutil.which("docker-registry")
        require("docker-registry", program is not None, "Debian's package docker-registry is not installed")
        config = self.folder / "config.json"  # YAML is a superset of JSON
        config.write_text(json.dumps(self._config()))
        with (self.folder / "registry.log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(program), "serve", str(config)],
                env={"PATH": os.environ["PATH"], "OTEL_TRACES_EXPORTER": "none"},
                stdout=log,
                stderr=log,
            )
        eventually(self._answers, "the registry answers")

    def stop(self) -> None:
        """As a crash would: at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def put(self, name: str = "image", tag: str = "1", layers: Sequence[int] = (LAYER_BYTES,)) -> str:
        """Store an image with layers of so many random bytes; returns `name:tag`, to go behind an address."""
        auth = httpx.BasicAuth(USER, PASSWORD) if self.private else None
        with httpx.Client(base_url=f"http://{self.address}/v2/{name}", auth=auth, trust_env=False) as client:
            blobs, manifest = _image(layers)
            for content in blobs:
                there = client.post("/blobs/uploads/").raise_for_status().headers["Location"]
                whole = httpx.URL(there).copy_add_param("digest", _digest(content))
                client.put(whole, content=content).raise_for_status()
            kind = {"Content-Type": MANIFEST}
            client.put(f"/manifests/{tag}", content=manifest, headers=kind).raise_for_status()
        return f"{name}:{tag}"

    @property
    def log(self) -> str:
        """Everything it printed."""
        return (self.folder / "registry.log").read_text(errors="replace")

    def _config(self) -> dict[str, object]:
        return {
            "version": "0.1",
            "log": {"level": "info"},
            "storage": {"filesystem": {"rootdirectory": str(self.folder / "data")}},
            "http": {"addr": self.address},
            **(
                {"auth": {"htpasswd": {"realm": "test", "path": str(self.folder / "htpasswd")}}}
                if self.private
                else {}
            ),
        }

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log
        try:
            with urllib.request.urlopen(f"http://{self.address}/v2/", timeout=5):
                return True
        except urllib.error.HTTPError:
            return True  # it asks for credentials
        except OSError:
            return False


@contextmanager
def running_registry(folder: Path, *, private: bool = False) -> Iterator[Registry]:
    """An empty registry with its files below `folder`, ended with the block."""
    folder.mkdir(parents=True, exist_ok=True)
    registry = Registry(folder, private)
    try:
        registry.start()
        yield registry
    finally:
        registry.stop()


def _image(layers: Sequence[int]) -> tuple[list[bytes], bytes]:
    """Its blobs and its manifest. Random layers: an engine never has them already."""
    raw = [_tar(size) for size in layers]
    packed = [gzip.compress(layer, 1) for layer in raw]
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [_digest(layer) for layer in raw]},
        }
    ).encode()
    layer_kind = "application/vnd.docker.image.rootfs.diff.tar.gzip"
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": _entry("application/vnd.docker.container.image.v1+json", config),
        "layers": [_entry(layer_kind, layer) for layer in packed],
    }
    return [*packed, config], json.dumps(manifest).encode()


def _tar(size: int) -> bytes:
    content = os.urandom(size)
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        info = tarfile.TarInfo(f"data-{content[:4].hex()}")
        info.size = size
        tar.addfile(info, io.BytesIO(content))
    return raw.getvalue()


def _entry(kind: str, content: bytes) -> dict[str, object]:
    return {"mediaType": kind, "size": len(content), "digest": _digest(content)}


def _digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()
