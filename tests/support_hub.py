"""A Hugging Face hub on loopback: the routes that a download uses, and the ways they fail.

Routes and headers as https://huggingface.co/docs/hub/api and huggingface_hub 2.4's requests have them. Large files
(LFS) are redirected to another host name, as the real hub redirects to its CDN.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LFS_FROM = 200  # bytes; smaller files are plain git blobs


@dataclass
class Repo:
    """A repository. private: only `token` sees it; gated: everyone sees it, only `token` reads it."""

    files: dict[str, bytes]
    private: bool = False
    gated: bool = False
    token: str = "hf_good"
    revisions: tuple[str, ...] = ("main",)


@dataclass
class Request:
    """What came in."""

    method: str
    path: str
    headers: dict[str, str]


@dataclass
class Hub:
    """The server's state. Change it from a test at any time.

    cut_after    file name → after how many bytes of an answer the connection breaks
    cuts         how many more answers break; None: all of them
    corrupt      names of files that arrive with a flipped byte
    status       file name → status to answer instead
    ignore_range answers 200 with everything
    slow_s       how long a file's answer takes
    on_download  called with a repository's name when the answer to a request for a file's bytes begins
    """

    repos: dict[str, Repo] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    cut_after: dict[str, int] = field(default_factory=dict)
    cuts: int | None = None
    corrupt: set[str] = field(default_factory=set)
    status: dict[str, int] = field(default_factory=dict)
    ignore_range: bool = False
    slow_s: float = 0.0
    on_download: Callable[[str], None] = lambda name: None
    port: int = 0

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def downloads(self) -> list[Request]:
        """Requests for a file's bytes."""
        return [request for request in self.requests if request.path.startswith("/cdn/")]


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A hub that answers on a free port until the block ends."""
    hub = Hub()

    class Handler(_Handler):
        state = hub

    server = _Server(("127.0.0.1", 0), Handler)
    hub.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *args: Any) -> None:
        """A client that hung up is what some tests are about; anything else fails them by its missing answer."""


class _Handler(BaseHTTPRequestHandler):
    state: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.state.requests.append(Request(self.command, path, dict(self.headers)))
        parts = path.strip("/").split("/")
        if parts[0] == "cdn":
            self._file("/".join(parts[1:3]), "/".join(parts[3:]))
        elif parts[:2] == ["api", "models"]:
            self._api("/".join(parts[2:4]), parts[4:])
        elif len(parts) > 4 and parts[2] == "resolve":
            self._resolve("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        else:
            self._refuse(404, "", "Not found")

    def _api(self, name: str, rest: list[str]) -> None:
        repo = self._allowed(name, reading=bool(rest) and rest[0] == "tree")
        if repo is None:
            return None
        revision = rest[1] if len(rest) > 1 else "main"
        if revision not in (*repo.revisions, COMMIT):
            return self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if rest and rest[0] == "tree":
            return self._json([_entry(path, content) for path, content in repo.files.items()])
        return self._json(
            {"id": name, "modelId": name, "sha": COMMIT, "private": repo.private, "siblings": []}
        )

    def _resolve(self, name: str, revision: str, path: str) -> None:
        repo = self._allowed(name, reading=True)
        if repo is None:
            return None
        if revision != COMMIT:
            return self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if path not in repo.files:
            return self._refuse(404, "EntryNotFound", "Entry not found")
        if path in self.state.status:
            return self._refuse(self.state.status[path], "", "Something else")
        self.send_response(302)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(repo.files[path]).hexdigest()}"')
        # Another host name, so that a client which passes its token on is found out.
        self.send_header("Location", f"http://localhost:{self.state.port}/cdn/{name}/{path}")
        self.send_header("Content-Length", "0")
        self.end_headers()
        return None

    def _file(self, name: str, path: str) -> None:
        if "Authorization" in self.headers:
            return self._refuse(400, "", "The token came along to the CDN")
        content = self.state.repos[name].files[path]
        if path in self.state.corrupt:
            content = bytes([content[0] ^ 255]) + content[1:]
        start = 0
        wanted = self.headers.get("Range")
        if wanted and not self.state.ignore_range:
            start = int(wanted.removeprefix("bytes=").split("-")[0])
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        body = content[start:]
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return None
        if path in self.state.cut_after and self.state.cuts != 0:
            if self.state.cuts is not None:
                self.state.cuts -= 1
            self.wfile.write(body[: self.state.cut_after[path]])
            self.wfile.flush()
            self.close_connection = True
            return None
        self.state.on_download(name)
        piece = len(body) // 20 + 1 if self.state.slow_s else len(body) or 1
        for begin in range(0, len(body), piece):
            self.wfile.write(body[begin : begin + piece])
            time.sleep(self.state.slow_s / 20)
        return None

    def _allowed(self, name: str, *, reading: bool) -> Repo | None:
        """The repository if the request may see it; else the real hub's refusal was sent."""
        sent = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if sent and not sent.startswith("hf_"):
            self._refuse(401, "", "Invalid credentials in Authorization header")
            return None
        repo = self.state.repos.get(name)
        if repo is None or (repo.private and sent != repo.token):
            self._refuse(404 if sent else 401, "RepoNotFound", "Repository not found")
            return None
        if repo.gated and reading and sent != repo.token:
            self._refuse(403 if sent else 401, "GatedRepo", f"Access to model {name} is restricted.")
            return None
        return repo

    def _json(self, data: Any) -> None:
        body = json.dumps(data).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _refuse(self, status: int, code: str, message: str) -> None:
        body = json.dumps({"error": message}).encode()
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _entry(path: str, content: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": _blob_id(content)}
    if len(content) >= LFS_FROM:
        entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
    return entry


def _blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
