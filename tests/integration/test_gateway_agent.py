"""The agent: starting, adopting, restarting, refusing and stopping a real Envoy."""

from __future__ import annotations

import copy
import datetime
import http.client
import json
import os
import signal
import socket
import ssl
import stat
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gateway import files, names, snapshot
from gateway.targets import Caller, Limits
from tests.support_gateway import Gateway, World, bearer, endpoint, until
from tests.support_replica import Exchange

pytestmark = pytest.mark.envoy

NAME = "me-00000000-0000-4000-8000-000000000200"
SECOND = "me-00000000-0000-4000-8000-000000000201"
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    try:
        world.plane.publish(endpoint(NAME, world.replica()))
        yield world
    finally:
        world.close()


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


def serves(gateway: Gateway, world: World, name: str = NAME) -> bool:
    try:
        return gateway.get(f"/v1/{name}/x", world.key.token()).status == 200
    except OSError:
        return False


def is_running(pid: int | None) -> bool:
    return pid is not None and psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


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
    assert serves(gateway, world, SECOND)
    assert gateway.signal(signal.SIGTERM) == 0  # an adopted Envoy is stopped like a child
    assert not is_running(pid)


def test_a_hangup_leaves_envoy_and_a_stop_does_not(world: World) -> None:
    gateway = world.gateway.ready()
    pid = gateway.envoy_pid()
    assert gateway.signal(signal.SIGHUP) == 0
    assert is_running(pid)
    assert serves(gateway, world)
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
    until(lambda: gateway.envoy_pid() != first and serves(gateway, world), what="a new Envoy serves")
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
    until(lambda: serves(gateway, world), what="it starts once the port is free")
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
    assert serves(first, world)


def test_a_changed_listener_restarts_envoy(world: World) -> None:
    gateway = world.gateway.ready()
    pid = gateway.envoy_pid()
    gateway.signal(signal.SIGHUP)
    old_port, gateway.port = gateway.port, Gateway(world.plane).port
    gateway.ready()
    assert serves(gateway, world)
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
    assert serves(gateway, world)
    gateway.signal(signal.SIGTERM)  # agent and Envoy start anew, with nobody to ask
    gateway.start()
    until(lambda: serves(gateway, world), what="it serves from its disk")
    assert gateway.get(f"/v1/{NAME}/x").status == 401
    pid = gateway.envoy_pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    until(lambda: gateway.envoy_pid() != pid and serves(gateway, world))
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
    until(lambda: serves(gateway, world))


def test_a_damaged_disk_is_no_reason_to_serve_nonsense(world: World) -> None:
    gateway = world.gateway.ready()
    gateway.signal(signal.SIGTERM)
    (gateway.home / "xds" / names.ROUTES).write_bytes(b'{"version_info": "1", "resources": []}')
    gateway.start()
    until(lambda: serves(gateway, world), what="it serves what the control plane has")
    assert "waiting for the control plane" in gateway.output()


def test_a_refused_token_is_said_once_and_a_new_one_is_used(world: World) -> None:
    gateway = world.gateway.ready()
    world.plane.token = "another"
    until(lambda: "refused" in gateway.output())
    assert serves(gateway, world)
    polls = len(world.plane.polls)
    gateway.token_file.write_text("another")
    until(lambda: len(world.plane.polls) > polls + 2, what="the new token is read")
    assert gateway.output().count("was refused") == 1


# --- versions apart ---------------------------------------------------------------------------------------


def lose(gateway: Gateway, *lost: str) -> None:
    for name in lost:
        for directory in ("xds", "good"):
            (gateway.home / directory / name).unlink()


def test_a_disk_with_fewer_files_is_served_while_nobody_answers(world: World) -> None:
    public = endpoint(SECOND, world.replica(), private=False)
    world.plane.publish(endpoint(NAME, world.replica()), public, revoked=("gone-0:1",))
    gateway = world.gateway.ready()
    world.plane.stop()
    gone = world.key.token(grant="gone-0:1")
    for lost, private in (
        ((names.BODY_LIMIT, names.LIMITS), 200),
        ((names.ACCESS,), 503),  # whom to refuse is not known: nobody is let through
    ):
        gateway.signal(signal.SIGTERM)
        lose(gateway, *lost)
        gateway.start()
        until(lambda: serves(gateway, world, SECOND), what=f"without {lost}")
        assert gateway.get(f"/v1/{NAME}/x", world.key.token()).status == private
        assert gateway.get(f"/v1/{NAME}/x", gone).status == (401 if private == 200 else 503)
        assert f"until the control plane sends these files: {', '.join(sorted(lost))}" in gateway.output()
    assert gateway.get(f"/v1/{NAME}/x", world.key.token()).code == "gateway_not_informed"
    world.plane.start()
    until(lambda: serves(gateway, world), what="all is there again")
    assert is_revoked(gateway, gone)


def test_more_files_and_fewer_are_taken_as_they_are(world: World) -> None:
    world.plane.publish(max_request_bytes=10)
    gateway = world.gateway.ready()
    built = snapshot.build(replace(world.plane.targets, revoked=("gone-0:1",)))
    resources = {**built.resources, "../quota.json": {"version_info": "1", "resources": []}}
    del resources[names.BODY_LIMIT]
    world.plane.publish_raw("v-apart", resources)
    until(lambda: world.plane.applied("v-apart"))
    assert is_revoked(gateway, world.key.token(grant="gone-0:1"))
    answer = gateway.call("POST", f"/v1/{NAME}/x", token=world.key.token(), body=b"x" * 11)
    assert answer.status == 413  # as on the disk
    assert not world.plane.polls[-1].rejected
    assert not list(gateway.home.rglob("quota.json"))
    world.plane.publish_raw("v-again", resources)
    until(lambda: world.plane.applied("v-again"))
    for said in ("does not know and leaves out: '../quota.json'", "the snapshot lacks 'body-limit.json'"):
        assert gateway.output().count(said) == 1
    assert len(gateway.status()["odd"]) == 2


def test_an_envoy_of_another_agent_goes_on_until_there_is_something_to_start_a_new_one_from(
    world: World,
) -> None:
    gateway = world.gateway.ready()
    pid = gateway.envoy_pid()
    gateway.signal(signal.SIGHUP)
    world.plane.stop()
    lose(gateway, names.ROUTES)
    noted = json.loads((gateway.home / "envoy.json").read_text())
    files.write_json(gateway.home / "envoy.json", {**noted, "config": "of yesterday"})
    gateway.start()
    until(lambda: "goes on for now" in gateway.output())
    assert serves(gateway, world)
    assert gateway.envoy_pid() == pid
    version = world.plane._served[0]
    polls = len(world.plane.polls)
    world.plane.start()
    until(lambda: any(p.applied == version for p in world.plane.polls[polls:]), what="a new Envoy follows")
    assert gateway.envoy_pid() != pid
    assert not is_running(pid)
    assert serves(gateway, world)


# --- snapshots that must not be served --------------------------------------------------------------------


def spoiled(world: World, spoil: Callable[[dict[str, Any]], None]) -> tuple[str, dict[str, Any]]:
    """The present snapshot and a second endpoint, spoiled."""
    built = snapshot.build(world.plane.targets)
    resources = copy.deepcopy(built.resources)
    spoil(resources)
    for document in resources.values():
        document["version_info"] += "-spoiled"
    return f"{built.version}-spoiled", resources


def bad_cluster(resources: dict[str, Any]) -> None:
    resources[names.CLUSTERS]["resources"][-1]["lb_policy"] = "BY_MOON_PHASE"


def refused_cluster(resources: dict[str, Any]) -> None:
    resources[names.CLUSTERS]["resources"][-1]["outlier_detection"]["max_ejection_percent"] = 1000


def bad_route(resources: dict[str, Any]) -> None:
    resources[names.ROUTES]["resources"][0]["virtual_hosts"][0]["domains"] = ["*", "*"]


def bad_keys(resources: dict[str, Any]) -> None:
    provider = resources[names.TOKENS]["resources"][0]["typed_config"]["providers"]["iam"]
    provider["local_jwks"]["inline_string"] = "no keys"


@pytest.mark.parametrize(
    ("spoil", "file"),
    [
        (bad_cluster, names.CLUSTERS),
        (refused_cluster, names.CLUSTERS),
        (bad_keys, names.TOKENS),
    ],
)
def test_what_envoy_refuses_keeps_the_last_good_one(
    world: World, spoil: Callable[[dict[str, Any]], None], file: str
) -> None:
    gateway = world.gateway.ready()
    good = world.plane.polls[-1].applied
    before = {p.name: p.read_bytes() for p in (gateway.home / "xds").iterdir() if p.is_file()}
    world.plane.publish_raw(*spoiled(world, spoil))

    def is_told() -> bool:
        """A filter's refusal is told before the routing behind it is taken."""
        last = world.plane.polls[-1]
        return file in last.rejected and (last.applied == good) is (file in names.ROUTING)

    until(is_told, what=f"a rejection is reported\n{gateway.output()}")
    (said,) = gateway.status()["rejected"]
    assert said["file"] == file
    assert len(said["evidence"]) > 20
    assert serves(gateway, world)
    kept = names.ROUTING if file in names.ROUTING else (file,)
    for name, content in before.items():  # all else is the newest
        changes = name not in (*kept, names.DENIALS)
        assert ((gateway.home / "xds" / name).read_bytes() != content) is changes, name
    pid = gateway.envoy_pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)  # a new Envoy does not meet the bad file either
    until(lambda: gateway.envoy_pid() != pid and serves(gateway, world))
    version = world.plane.publish(endpoint(NAME, world.replica()), endpoint(SECOND, world.replica()))
    until(lambda: world.plane.applied(version), what="a good one is taken again")
    until(lambda: world.plane.polls[-1].rejected == "" and gateway.status()["rejected"] == [])
    assert serves(gateway, world, SECOND)


def revoking(world: World, spoil: Callable[[dict[str, Any]], None], *grants: str) -> dict[str, Any]:
    """Publish a snapshot that is spoiled and has these tokens revoked."""
    built = snapshot.build(replace(world.plane.targets, revoked=grants))
    resources = copy.deepcopy(built.resources)
    spoil(resources)
    for name in names.ROUTING:
        resources[name]["version_info"] += "-spoiled"
    world.plane.publish_raw(f"{built.version}-spoiled", resources)
    return resources


def is_revoked(gateway: Gateway, token: str) -> bool:
    try:
        answer = gateway.get(f"/v1/{NAME}/x", token)
    except OSError:
        return False
    return answer.status == 401 and answer.code == "revoked_token"


def dangling_route(resources: dict[str, Any]) -> None:
    """What the agent finds by itself."""
    resources[names.CLUSTERS]["resources"] = resources[names.CLUSTERS]["resources"][:1]


@pytest.mark.parametrize("spoil", [bad_route, dangling_route])
def test_what_cannot_be_taken_holds_up_no_revocation(
    world: World, spoil: Callable[[dict[str, Any]], None]
) -> None:
    gateway = world.gateway.ready()
    good = world.plane.polls[-1].applied
    gone = [world.key.token(grant=f"gone-{n}:1") for n in range(2)]
    assert [gateway.get(f"/v1/{NAME}/x", token).status for token in gone] == [200, 200]
    revoking(world, spoil, "gone-0:1")
    until(lambda: is_revoked(gateway, gone[0]), 3, what="the first is refused")
    until(lambda: world.plane.polls[-1].rejected, what="the rejection is reported")
    assert world.plane.polls[-1].applied == good
    assert is_revoked(gateway, gone[0])
    assert gateway.get(f"/v1/{NAME}/x", gone[1]).status == 200
    spoiled = revoking(world, spoil, "gone-0:1", "gone-1:1")  # what is wrong with it stays
    until(lambda: is_revoked(gateway, gone[1]), 3, what="the second is refused")
    until(lambda: "gone-1:1" in (gateway.home / "xds" / names.ACCESS).read_text())
    assert world.plane.polls[-1].rejected
    world.plane.stop()
    assert gateway.agent is not None
    gateway.signal(signal.SIGKILL)
    for name in names.ROUTING:  # in the middle of taking it
        files.write_json(gateway.home / "xds" / name, spoiled[name])
    os.kill(gateway.envoy_pid() or 0, signal.SIGKILL)
    gateway.start()
    until(lambda: serves(gateway, world), what="a new agent and Envoy serve from the disk")
    assert all(is_revoked(gateway, token) for token in gone)
    world.plane.start()
    until(lambda: world.plane.polls[-1].applied == good and world.plane.polls[-1].rejected)
    version = world.plane.publish(revoked=("gone-0:1", "gone-1:1"))
    until(lambda: world.plane.applied(version) and not world.plane.polls[-1].rejected, what="it is mended")


def test_an_inconsistent_snapshot_never_reaches_envoy(world: World) -> None:
    gateway = world.gateway.ready()
    good = world.plane.polls[-1].applied
    world.plane.publish_raw(*spoiled(world, lambda r: r[names.CLUSTERS]["resources"].pop()))
    until(lambda: world.plane.polls[-1].rejected)
    assert "which is not there" in world.plane.polls[-1].rejected
    assert world.plane.polls[-1].applied == good
    assert serves(gateway, world)


def test_after_a_long_silence_old_routes_lead_nowhere(world: World) -> None:
    """The addresses of a gateway that was silent for long are given to others."""
    gateway = world.gateway.ready()
    gateway.signal(signal.SIGTERM)
    old = time.time() - 2 * 3600
    os.utime(gateway.home / "status.json", (old, old))
    revoking(world, bad_route)
    gateway.start()
    until(lambda: names.ROUTES in world.plane.polls[-1].rejected, what=gateway.output())
    assert not serves(gateway, world)
    assert world.plane.polls[-1].applied == ""
    version = world.plane.publish()
    until(lambda: serves(gateway, world), what="a good one is taken")
    gateway.signal(signal.SIGTERM)
    revoking(world, bad_route)
    gateway.start()  # after a short one they are good
    until(lambda: serves(gateway, world), what="the last good ones are served")
    until(lambda: world.plane.polls[-1].applied == version and world.plane.polls[-1].rejected)


def test_denials_that_envoy_refuses_are_told_and_the_last_ones_stay(world: World) -> None:
    used_up = Limits(tokens_per_minute=-1)
    denied = Caller("sa-denied", used_up)
    token = world.key.token(sub="sa-denied")

    def is_denied() -> bool:
        try:
            return gateway.get(f"/v1/{NAME}/x", token).status == 429
        except OSError:
            return False

    world.plane.publish(callers=(denied,))
    gateway = world.gateway.ready()
    until(is_denied)
    good = gateway.envoy_pid()
    bad = world.plane.publish(callers=(denied, Caller("sa-\ud800", used_up)))  # no text that Envoy takes
    until(lambda: names.DENIALS in world.plane.polls[-1].rejected, what=gateway.output())
    assert "Envoy" not in world.plane.polls[-1].rejected  # but why
    assert world.plane.polls[-1].applied == bad  # the routes are
    assert [item["file"] for item in gateway.status()["rejected"]] == [names.DENIALS]
    os.kill(good or 0, signal.SIGKILL)
    until(lambda: gateway.envoy_pid() != good and is_denied(), what="a new Envoy has the last good ones")
    assert serves(gateway, world)
    world.plane.publish(callers=(denied,))
    until(lambda: not world.plane.polls[-1].rejected and gateway.status()["rejected"] == [])
    assert is_denied()


# --- several, and their surroundings ----------------------------------------------------------------------


def test_two_gateways_follow_independently(world: World) -> None:
    first, second = world.gateway.ready(), world.new_gateway(gateway_id="gw-2").ready()
    version = world.plane.publish(endpoint(SECOND, world.replica()))
    for gateway in (first, second):
        until(lambda g=gateway: world.plane.applied(version, g.id))
        assert serves(gateway, world, SECOND)
    first.signal(signal.SIGTERM)
    assert serves(second, world, SECOND)
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
