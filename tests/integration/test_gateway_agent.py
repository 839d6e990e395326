"""The agent: starting, adopting, restarting, refusing and stopping a real Envoy."""

from __future__ import annotations

import contextlib
import datetime
import http.client
import json
import os
import signal
import socket
import ssl
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gateway import names
from tests.support_gateway import Gateway, World, endpoint, is_running, until
from tests.support_replica import Exchange
from tests.support_tokens import bearer

pytestmark = pytest.mark.envoy

NAME = "me-00000000-0000-4000-8000-000000000200"
SECOND = "me-00000000-0000-4000-8000-000000000201"
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.fixture
def world() -> Iterator[World]:
    with contextlib.closing(World()) as world:
        world.plane.publish(endpoint(NAME, world.replica()))
        yield world


class Stream:
    """A stream through the gateway that stays open until the test ends it."""

    def __init__(self, world: World, gateway: Gateway) -> None:
        self._taken = threading.Event()
        self._end = threading.Event()
        self._exchange: Exchange | None = None
        gateway.publish(endpoint(NAME, world.replica(self._hold)))
        self.connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=20)
        self.connection.request("POST", f"/v1/{NAME}/x", b"{}", bearer(world.key.token()))
        assert self._taken.wait(10)
        self.answer = self.connection.getresponse()

    def _hold(self, exchange: Exchange) -> None:
        exchange.send(HEAD)
        self._exchange = exchange
        self._taken.set()
        self._end.wait(60)

    def event(self, text: bytes = b"data: x\n\n") -> bytes:
        assert self._exchange is not None
        self._exchange.chunk(text)
        return self.answer.read(len(text))

    def end(self) -> bytes:
        assert self._exchange is not None
        self._exchange.send(b"0\r\n\r\n")
        rest = self.answer.read()
        self._end.set()
        self.connection.close()
        return rest


def listener_on(port: int) -> socket.socket | None:
    try:
        return socket.create_server(("127.0.0.1", port))
    except OSError:
        return None


# --- life and death ---------------------------------------------------------------------------------------


def test_a_killed_agents_successor_adopts_envoy_and_no_connection_drops(world: World) -> None:
    gateway = world.gateway.ready()
    stream = Stream(world, gateway)
    pid = gateway.envoy_pid()
    gateway.signal(signal.SIGKILL)
    assert stream.event() == b"data: x\n\n"
    polls = len(world.plane.polls)
    gateway.start()
    version = world.plane.publish(*world.plane.targets.endpoints, endpoint(SECOND, world.replica()))
    until(
        lambda: any(p.applied == version for p in world.plane.polls[polls:]), what="the adopted Envoy follows"
    )
    assert gateway.envoy_pid() == pid
    assert f"adopted the running Envoy pid={pid}" in gateway.output()
    assert stream.event() == b"data: x\n\n"
    assert stream.end() == b""
    assert world.serves(SECOND, gateway)
    assert gateway.signal(signal.SIGTERM) == 0  # an adopted Envoy is stopped like a child
    assert not is_running(pid)


def test_a_hangup_leaves_envoy_and_a_stop_does_not(world: World) -> None:
    gateway = world.gateway.ready()
    pid = gateway.envoy_pid()
    assert gateway.signal(signal.SIGHUP) == 0
    assert is_running(pid)
    assert world.serves(NAME, gateway)
    gateway.ready()
    assert gateway.envoy_pid() == pid
    assert gateway.signal(signal.SIGINT) == 0
    assert not is_running(pid)
    with pytest.raises(OSError, match="refused"):
        gateway.raw()


def test_leave_envoy_is_for_supervisors_that_restart_agents(world: World) -> None:
    gateway = world.new_gateway("--leave-envoy", gateway_id="gw-2").ready()
    pid = gateway.envoy_pid()
    assert gateway.signal(signal.SIGTERM) == 0
    assert is_running(pid)


def test_a_stop_lets_what_is_in_flight_finish(world: World) -> None:
    gateway = world.new_gateway("--drain", "15", gateway_id="gw-2").ready()
    stream = Stream(world, gateway)
    assert gateway.agent is not None
    os.killpg(gateway.agent.pid, signal.SIGINT)  # as a Ctrl-C in a terminal does: to the whole group
    until(lambda: "draining" in gateway.output())
    assert stream.event() == b"data: x\n\n"
    assert stream.end() == b""
    assert gateway.agent.wait(10) == 0
    assert not is_running(gateway.envoy_pid())


def test_a_stop_does_not_wait_for_ever(world: World) -> None:
    gateway = world.new_gateway("--drain", "0.3", gateway_id="gw-2").ready()
    pid = gateway.envoy_pid()
    stream = Stream(world, gateway)
    assert gateway.signal(signal.SIGTERM) == 0
    assert not is_running(pid)
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        stream.answer.read()


def test_a_killed_envoy_is_started_again(world: World) -> None:
    gateway = world.gateway.ready()
    first = gateway.envoy_pid()
    assert first is not None
    os.kill(first, signal.SIGKILL)
    until(lambda: gateway.envoy_pid() != first and world.serves(NAME, gateway), what="a new Envoy serves")
    assert f"Envoy ended pid={first}" in gateway.output()
    version = world.plane.publish(endpoint(SECOND, world.replica()))
    until(lambda: world.plane.applied(version), what="the new Envoy follows")


def test_an_envoy_that_is_gone_is_not_reported_as_serving(world: World) -> None:
    gateway = world.gateway.ready()
    first = gateway.envoy_pid()
    assert first is not None
    assert gateway.agent is not None
    gateway.agent.send_signal(signal.SIGSTOP)
    os.kill(first, signal.SIGKILL)
    with until(lambda: listener_on(gateway.port), what="the port is free"):  # no new Envoy can start
        gateway.agent.send_signal(signal.SIGCONT)
        until(lambda: world.plane.polls[-1].applied == "", what="nothing is reported as applied")
        until(lambda: "cannot start Envoy" in gateway.output())
    until(lambda: world.serves(NAME, gateway), what="it starts once the port is free")
    until(lambda: world.plane.polls[-1].applied != "")


def test_a_taken_port_is_one_clear_line(world: World) -> None:
    gateway = world.gateway
    with socket.create_server(("127.0.0.1", gateway.port)):
        gateway.start()
        assert gateway.agent is not None
        assert gateway.agent.wait(15) == 3
    lines = gateway.output().splitlines()
    assert len(lines) == 1
    assert f"127.0.0.1:{gateway.port} is taken" in lines[0]


def test_two_gateways_cannot_share_a_port_by_accident(world: World) -> None:
    first = world.gateway.ready()
    second = Gateway(world.plane, gateway_id="gw-2", port=first.port)
    try:
        second.start()
        assert second.agent is not None
        assert second.agent.wait(15) == 3
    finally:
        second.close()
    assert world.serves(NAME, first)


def test_a_changed_listener_restarts_envoy(world: World) -> None:
    gateway = world.gateway.ready()
    pid = gateway.envoy_pid()
    gateway.signal(signal.SIGHUP)
    old_port, gateway.port = gateway.port, Gateway(world.plane).port
    gateway.ready()
    assert world.serves(NAME, gateway)
    assert gateway.envoy_pid() != pid
    assert not is_running(pid)
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", old_port))


# --- the control plane away -------------------------------------------------------------------------------


def test_calls_go_on_while_the_control_plane_is_away(world: World) -> None:
    gateway = world.gateway.ready()
    version = world.plane.polls[-1].applied
    world.plane.stop()
    until(lambda: gateway.status().get("control_plane") == "away")
    assert world.serves(NAME, gateway)
    gateway.signal(signal.SIGTERM)  # agent and Envoy start anew, with nobody to ask
    gateway.start()
    until(lambda: world.serves(NAME, gateway), what="it serves from its disk")
    assert gateway.get(f"/v1/{NAME}/x").status == 401
    pid = gateway.envoy_pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    until(lambda: gateway.envoy_pid() != pid and world.serves(NAME, gateway))
    polls = len(world.plane.polls)
    world.plane.start()
    until(lambda: any(p.applied == version for p in world.plane.polls[polls:]), what="it reports again")
    until(lambda: "control plane answers again" in gateway.output())


def test_without_any_snapshot_it_waits_for_the_first(world: World) -> None:
    world.plane.stop()
    gateway = world.gateway.start()
    until(lambda: "waiting for the control plane" in gateway.output())
    with pytest.raises(OSError, match="refused"):
        gateway.raw()
    world.plane.start()
    until(lambda: world.serves(NAME, gateway))


def test_a_damaged_disk_is_no_reason_to_serve_nonsense(world: World) -> None:
    gateway = world.gateway.ready()
    gateway.signal(signal.SIGTERM)
    (gateway.home / "xds" / names.ROUTES).write_bytes(b'{"version_info": "1", "resources": []}')
    gateway.start()
    until(lambda: world.serves(NAME, gateway), what="it serves what the control plane has")
    assert "waiting for the control plane" in gateway.output()


def test_a_refused_token_is_said_once_and_a_new_one_is_used(world: World) -> None:
    gateway = world.gateway.ready()
    world.plane.token = "another"
    until(lambda: "refused" in gateway.output())
    assert world.serves(NAME, gateway)
    polls = len(world.plane.polls)
    gateway.token_file.write_text("another")
    until(lambda: len(world.plane.polls) > polls + 2, what="the new token is read")
    assert gateway.output().count("was refused") == 1


# --- several, and their surroundings ----------------------------------------------------------------------


def test_two_gateways_follow_independently(world: World) -> None:
    first, second = world.gateway.ready(), world.new_gateway(gateway_id="gw-2").ready()
    version = world.plane.publish(endpoint(SECOND, world.replica()))
    for gateway in (first, second):
        until(lambda g=gateway: world.plane.applied(version, g.id))
        assert world.serves(SECOND, gateway)
    first.signal(signal.SIGTERM)
    assert world.serves(SECOND, second)
    version = world.plane.publish(endpoint(NAME, world.replica()))
    until(lambda: world.plane.applied(version, "gw-2"))
    assert not world.plane.applied(version, "gw-1")


def test_nothing_but_the_gateways_port_is_open_and_files_are_private(world: World) -> None:
    gateway = world.gateway.ready()
    assert gateway.agent is not None
    listening = [
        c.laddr
        for pid in (gateway.envoy_pid(), gateway.agent.pid)
        for c in psutil.Process(pid).net_connections("inet")
        if c.status == psutil.CONN_LISTEN
    ]
    assert {(a.ip, a.port) for a in listening} == {("127.0.0.1", gateway.port)}
    assert stat.S_IMODE(gateway.home.stat().st_mode) == 0o700
    assert stat.S_IMODE((gateway.home / "admin.sock").stat().st_mode) == 0o600
    assert gateway.admin.is_ready()


def certificate(directory: Path, name: str) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    paths = directory / "cert.pem", directory / "key.pem"
    paths[0].write_bytes(built.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return paths


def test_tls_and_a_renewed_certificate(world: World, tmp_path: Path) -> None:
    cert, key = certificate(tmp_path, "first")
    files = ("--tls-cert", str(cert), "--tls-key", str(key))
    gateway = world.new_gateway(*files, "--hsts", "600", gateway_id="gw-2").ready()
    trust = ssl.create_default_context()
    trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE

    def name() -> str:
        with trust.wrap_socket(gateway.raw(), server_hostname="x") as connection:
            der = connection.getpeercert(binary_form=True)
        assert der is not None
        return x509.load_der_x509_certificate(der).subject.rfc4514_string()

    assert name() == "CN=first"
    connection = http.client.HTTPSConnection("127.0.0.1", gateway.port, context=trust, timeout=20)
    for _ in range(2):
        connection.request("GET", f"/v1/{NAME}/x", headers=bearer(world.key.token()))
        answer = connection.getresponse()
        told = dict(json.loads(answer.read())["headers"])
        assert (answer.status, told["x-forwarded-proto"]) == (200, "https")
        certificate(tmp_path, "second")
        until(lambda: name() == "CN=second", what="the renewed certificate is served")
    # What the gateway says itself tells browsers to stay with TLS; a replica's answer passes as it is.
    token = bearer(world.key.token())
    for path, headers, status, hsts in (
        (f"/v1/{NAME}/x", token, 200, None),
        (f"/v1/{NAME}/x", {}, 401, "max-age=600"),
        ("/v1/me-none/x", token, 404, "max-age=600"),
        ("/nowhere", {}, 404, "max-age=600"),
        (f"/v1/{NAME}/x", {"Transfer-Encoding": "odd"}, 501, "max-age=600"),
    ):
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        answer.read()
        assert (answer.status, answer.headers["Strict-Transport-Security"]) == (status, hsts), path
    connection.close()
