"""With a certificate and the settings for production, console and gateway speak TLS, every part of the platform still
reaches every other, and browsers are told to stay with TLS."""

from __future__ import annotations

import datetime
import http.client
import json
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.support_platform import Place, place
from tests.support_processes import Running, python, started

pytestmark = [pytest.mark.redis, pytest.mark.envoy, pytest.mark.timeout(240)]


@dataclass(frozen=True)
class Secure:
    """A platform that speaks TLS with a self-signed certificate for localhost."""

    where: Place
    running: Running
    certificate: Path

    def request(self, port: int, path: str, body: str | None = None) -> tuple[int, bytes]:
        """(status, body) of a call whose certificate is checked."""
        answer = self.answer(port, path, body)
        return answer.status, answer.read()

    def answer(self, port: int, path: str, body: str | None = None) -> http.client.HTTPResponse:
        """The whole answer."""
        context = ssl.create_default_context(cafile=str(self.certificate))
        connection = http.client.HTTPSConnection("localhost", port, timeout=10, context=context)
        headers = {"Content-Type": "application/json"} if body else {}
        connection.request("POST" if body else "GET", path, body, headers)
        return connection.getresponse()


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secure]:
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = self_signed(folder)
    where = place(folder)
    env = {
        **where.env,
        "DJANGO_SETTINGS_MODULE": "config.settings.production",
        "BERTH_PUBLIC_URL": f"https://localhost:{where.port}",
        "BERTH_GATEWAY_URL": f"https://localhost:{where.gateway_port}",
        "BERTH_TLS_CERT": str(certificate),
        "BERTH_TLS_KEY": str(key),
    }
    with started(python("manage.py", "up"), where.home, env) as running:
        running.line(r"Berth is up after", 120)
        yield Secure(where, running, certificate)


def self_signed(folder: Path) -> tuple[Path, Path]:
    """(certificate, key) for localhost, PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "certificate.pem", folder / "key.pem"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    form = serialization.PrivateFormat.PKCS8
    paths[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, form, plain))
    return paths


def test_the_console_answers_over_tls(secure: Secure) -> None:
    assert secure.request(secure.where.port, "/healthz")[0] == 200


@pytest.mark.parametrize("path", ["/accounts/login/", "/", "/nowhere", "/api/v1/endpoints/"])
def test_browsers_stay_with_tls(secure: Secure, path: str) -> None:
    answer = secure.answer(secure.where.port, path)
    assert answer.headers["Strict-Transport-Security"] == "max-age=31536000"
    cookies = answer.headers.get_all("Set-Cookie") or []
    assert all("; Secure" in cookie and "; SameSite=Lax" in cookie for cookie in cookies)
    assert any(cookie.startswith("__Host-berth_csrf=") for cookie in cookies) == (path == "/accounts/login/")


def test_every_part_writes_json_lines(secure: Secure) -> None:
    for name in ("web", "worker", "watcher", "activator", "gateway"):
        for line in (secure.where.home / "log" / f"{name}.log").read_text().splitlines():
            assert {"time", "level", "logger", "message"} <= json.loads(line).keys(), (name, line)


def test_the_token_call_is_served_by_both_hosts(secure: Secure) -> None:
    body = json.dumps({"grant_type": "client_credentials"})
    for port in (secure.where.port, secure.where.gateway_port):
        status, answer = secure.request(port, "/accounts-api/v2/auth/token", body)
        assert (status, json.loads(answer)["error"]) == (401, "invalid_client")


def test_the_activator_reaches_the_control_plane(secure: Secure) -> None:
    secure.running.line(r"activator .*the control plane answers", 30)


def test_the_agent_reaches_the_control_plane(secure: Secure) -> None:
    secure.running.line(r"snapshot taken version=", 30)
    answer = secure.answer(secure.where.gateway_port, "/v1/me-none/v1/models")
    assert (answer.status, answer.headers["Strict-Transport-Security"]) == (401, "max-age=31536000")
