"""What browsers are told, what is checked before a start, and what web takes of slow and greedy clients."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from django.contrib import admin
from django.core.checks import run_checks
from django.test import Client
from django.urls import reverse

from config import checks, web_limits
from config.middleware import BrowserHeaders
from gateway.targets import origin_of
from iam.models import User
from tests.conftest import signed_in
from tests.support_endpoints import load_data
from tests.support_gateway import free_port, until
from tests.support_sockets import Socket
from tests.support_tenancy import routes, world

ROOT = Path(__file__).resolve().parents[2]
ORIGIN = "https://berth.example"


# --- pages ------------------------------------------------------------------------------------------------


class Inline(HTMLParser):
    """What a page would need 'unsafe-inline' for."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "style" or (
            tag == "script" and not given.get("src") and "json" not in (given.get("type") or "")
        ):
            self.found.append(f"<{tag}>")
        self.found += [f"<{tag} {name}>" for name in given if name == "style" or name.startswith("on")]
        self.found += [
            f"<{tag}> {value}" for value in given.values() if (value or "").startswith("javascript:")
        ]


@pytest.fixture
def staff(owner: User) -> Client:
    """Somebody who may see every page there is."""
    owner.is_staff = owner.is_superuser = True
    owner.save()
    return signed_in(owner)


def every_page() -> Iterator[str]:
    """Every address without a parameter, of console, sign-in and admin."""
    from django.urls import get_resolver

    def walk(patterns: Any, prefix: str) -> Iterator[str]:
        for pattern in patterns:
            route = prefix + str(pattern.pattern).removeprefix("^").removesuffix("$").replace(r"\Z", "")
            if hasattr(pattern, "url_patterns"):
                yield from walk(pattern.url_patterns, route)
            else:
                yield route

    for route in walk(get_resolver().url_patterns, ""):
        if not re.search(r"[<(\[]", route) and not route.startswith(("internal/", "accounts-api/")):
            yield f"/{route}"


def test_no_page_needs_anything_inline_and_none_is_without_the_policy(staff: Client) -> None:
    looked = 0
    for url in sorted(set(every_page())):
        answer = staff.get(url)
        if not answer.get("Content-Type", "").startswith("text/html") or not answer.content:
            continue
        page = Inline()
        page.feed(answer.content.decode())
        assert not page.found, (url, page.found)
        policy = answer["Content-Security-Policy"]
        assert "unsafe" not in policy, url
        assert "default-src 'none'" in policy, url
        looked += 1
    assert looked > 40


@pytest.mark.django_db
def test_no_page_of_an_object_needs_anything_inline() -> None:
    load_data()
    full = world("zzalpha")
    browser = signed_in(full.owner)
    looked = 0
    for route in routes():
        for url in route.addresses(full, full) if route.objects else []:
            answer = browser.get(url)
            if answer.status_code != 200 or not answer.get("Content-Type", "").startswith("text/html"):
                continue
            page = Inline()
            page.feed(answer.content.decode())
            assert not page.found, (url, page.found)
            assert "unsafe" not in answer["Content-Security-Policy"]
            looked += 1
    assert looked > 15


def test_admin_pages_of_objects_need_nothing_inline(staff: Client, owner: User) -> None:
    for model, options in admin.site._registry.items():
        name = f"admin:{model._meta.app_label}_{model._meta.model_name}_change"
        found = model._default_manager.first()
        if found is None or not options.has_view_permission(answer_of(staff)):
            continue
        answer = staff.get(reverse(name, args=[found.pk]))
        page = Inline()
        page.feed(answer.content.decode())
        assert answer.status_code == 200
        assert not page.found, (name, page.found)


def answer_of(client: Client) -> Any:
    return client.get("/admin/").wsgi_request


def test_what_browsers_are_told(staff: Client) -> None:
    answer = staff.get("/")
    assert answer["X-Content-Type-Options"] == "nosniff"
    assert answer["X-Frame-Options"] == "DENY"
    assert answer["Referrer-Policy"] == "same-origin"
    assert answer["Cross-Origin-Opener-Policy"] == "same-origin"
    assert answer["Cross-Origin-Resource-Policy"] == "same-origin"
    assert "camera=()" in answer["Permissions-Policy"]
    assert "publickey-credentials-get=(self)" in answer["Permissions-Policy"]
    assert "Server" not in answer
    assert "X-Powered-By" not in answer


def test_what_a_signed_in_person_sees_is_kept_nowhere(staff: Client, client: Client) -> None:
    for url in ("/", "/iam/service-accounts/", "/api/v1/endpoints/", "/admin/"):
        assert "no-store" in staff.get(url)["Cache-Control"], url
    bearer = {"Authorization": "Bearer x"}
    assert "no-store" in client.get("/api/v1/endpoints/", headers=bearer)["Cache-Control"]
    assert "public" in staff.get("/.well-known/jwks.json")["Cache-Control"]


def test_hsts_also_behind_a_proxy(settings: Any, rf: Any) -> None:
    from django.http import HttpResponse

    for url, seconds, expected in (
        (ORIGIN, 31_536_000, "max-age=31536000"),
        (ORIGIN, 0, None),
        ("http://localhost:8000", 31_536_000, None),
    ):
        settings.BERTH_PUBLIC_URL, settings.SECURE_HSTS_SECONDS = url, seconds
        answer = BrowserHeaders(lambda _request: HttpResponse())(rf.get("/"))
        assert answer.get("Strict-Transport-Security") == expected


# --- sockets ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "origin",
    [
        None,
        "null",
        "",
        "https://evil.example",
        "http://localhost:8000.evil.example",
        "http://evil.localhost:8000",
        "http://localhost:8001",
        "http://localhost",
        "https://localhost:8000",
        "http://127.0.0.1:8000",
    ],
)
async def test_sockets_open_for_the_console_alone(origin: str | None) -> None:
    from config.asgi import application

    headers = [(b"host", b"localhost:8000")] + ([(b"origin", origin.encode())] if origin is not None else [])
    live = Socket(application, "/ws/endpoints/", headers)
    await live.send_input({"type": "websocket.connect"})
    refused = await live.receive_output(2)
    assert refused["type"] == "websocket.close", "before it is accepted: HTTP 403"


def test_an_origin_is_written_as_browsers_write_it() -> None:
    for url, expected in (
        ("https://berth.example", "https://berth.example"),
        ("https://berth.example:443/", "https://berth.example"),
        ("HTTP://Berth.Example:8000", "http://berth.example:8000"),
        ("http://[::1]:8000", "http://[::1]:8000"),
    ):
        assert origin_of(url) == expected


# --- before a start ---------------------------------------------------------------------------------------


def deployed(tmp_path: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    surroundings = {
        "BERTH_HOME": str(tmp_path),
        "DJANGO_SETTINGS_MODULE": "config.settings.production",
        **env,
    }
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **surroundings},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_check_deploy_is_clean_under_production_settings(tmp_path: Path) -> None:
    tls = {"BERTH_PUBLIC_URL": ORIGIN, "BERTH_GATEWAY_URL": "https://api.berth.example"}
    done = deployed(tmp_path, "check", "--deploy", "--fail-level", "WARNING", **tls)
    assert done.returncode == 0, done.stderr
    assert "no issues (3 silenced)" in done.stdout + done.stderr or "3 silenced" in done.stdout + done.stderr


def test_production_is_stricter(tmp_path: Path) -> None:
    code = (
        "import json; from config.settings import production as p; "
        "from django.conf import global_settings as g; "
        "found = {**vars(g), **vars(p)}; "
        "print(json.dumps({n: v for n, v in found.items() if '_COOKIE_' in n or n.startswith('SECURE_H')}))"
    )
    path = os.pathsep.join((str(ROOT), str(ROOT / "platform")))
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": path, "BERTH_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True, timeout=60
    )
    found = json.loads(done.stdout)
    assert found["SECURE_HSTS_SECONDS"] >= 31_536_000
    # Of every cookie that Django itself may set. A page's own script sends the CSRF cookie's value.
    assert {name for name, value in found.items() if name.endswith("_SECURE") and value is not True} == set()
    readable = {name for name, value in found.items() if name.endswith("_HTTPONLY") and value is not True}
    assert readable == {"CSRF_COOKIE_HTTPONLY"}
    assert found["SESSION_COOKIE_NAME"].startswith("__Host-")
    assert found["CSRF_COOKIE_NAME"].startswith("__Host-")


def test_check_deploy_names_what_is_open(settings: Any, tmp_path: Path) -> None:
    settings.BERTH_HOME = tmp_path
    settings.BERTH_BIND, settings.BERTH_TLS_CERT = "0.0.0.0", ""
    settings.BERTH_PUBLIC_URL, settings.BERTH_GATEWAY_URL = "http://a.example", "https://b.example"
    settings.BERTH_RUNTIME = "process"
    found = {
        message.id: message.msg for message in run_checks(tags=["security"], include_deployment_checks=True)
    }
    assert "BERTH_PUBLIC_URL is http://a.example" in found["berth.W002"]
    assert "0.0.0.0 without TLS" in found["berth.W003"]
    assert "berth.W004" in found
    assert "berth.W005" not in found
    settings.BERTH_GATEWAY_BEHIND_PROXY = True
    assert "past the proxy" in checks.nobody_passes_the_proxy()[0].msg
    settings.BERTH_BIND = "127.0.0.1"
    assert checks.plain_ports_are_local() == checks.nobody_passes_the_proxy() == []


def test_keys_that_others_can_read_are_named(settings: Any, tmp_path: Path) -> None:
    settings.BERTH_HOME = tmp_path
    assert checks.keys_are_private() == []
    key = tmp_path / "keys" / "signing" / "a.pem"
    key.parent.mkdir(parents=True, mode=0o700)
    key.parent.parent.chmod(0o700)
    key.write_text("x")
    key.chmod(0o600)
    assert checks.keys_are_private() == []
    key.chmod(0o640)
    (found,) = checks.keys_are_private()
    assert str(key) in found.msg
    assert "chmod 600" in (found.hint or "")


# --- slow and greedy clients ------------------------------------------------------------------------------

APP = """
from config import web_limits
from config.web_limits import BodyLimit
web_limits.HEADERS_S = web_limits.BODY_S = {clock}

async def told(scope, receive, send):
    if scope["type"] == "websocket":
        await receive()
        await send({{"type": "websocket.accept"}})
        while (message := await receive())["type"] == "websocket.receive":
            await send({{"type": "websocket.send", "text": message["text"]}})
        return
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    body = str(size).encode()
    await send({{"type": "http.response.start", "status": 200,
                "headers": [(b"content-length", str(len(body)).encode())]}})
    await send({{"type": "http.response.body", "body": body}})

async def app(scope, receive, send):
    await (BodyLimit(told) if scope["type"] == "http" else told)(scope, receive, send)
"""
CLOCK_S = 0.6


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a real uvicorn with web's protocol and body limit."""
    folder, port = tmp_path_factory.mktemp("web"), free_port()
    (folder / "limited.py").write_text(APP.format(clock=CLOCK_S))
    command = [sys.executable, "-m", "uvicorn", "limited:app", "--port", str(port), "--lifespan", "off"]
    command += ["--http", "config.web_limits:LimitedProtocol", "--log-level", "warning", "--no-server-header"]
    path = os.pathsep.join(str(place) for place in (folder, ROOT, ROOT / "platform"))
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, cwd=folder)

    def answers() -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
        return False

    try:
        until(answers, what="uvicorn answers")
        yield port
    finally:
        process.kill()
        process.wait()


def connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def rest(client: socket.socket) -> bytes:
    found = b""
    with contextlib.suppress(ConnectionError):
        while data := client.recv(65536):
            found += data
    return found


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\nhost: x\r\nx: "], ids=["nothing", "half a head"])
def test_headers_that_do_not_come_end_the_connection(web: int, said: bytes) -> None:
    with connected(web) as client:
        client.sendall(said)
        began = time.monotonic()
        assert rest(client) == b""
        assert CLOCK_S * 0.5 < time.monotonic() - began < 8


def test_a_body_that_does_not_come_ends_it(web: int) -> None:
    with connected(web) as client:
        client.sendall(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nabc")
        assert rest(client) == b""


def test_a_kept_connection_may_rest_and_a_socket_be_silent(web: int) -> None:
    from websockets.sync.client import connect

    kept = http.client.HTTPConnection("127.0.0.1", web, timeout=10)
    with connect(f"ws://127.0.0.1:{web}/") as live, contextlib.closing(kept):
        for _ in range(2):
            kept.request("POST", "/", b"abc")
            assert kept.getresponse().read() == b"3"
            time.sleep(1.5 * CLOCK_S)
        live.send("still here")
        assert live.recv(timeout=5) == "still here"


def test_headers_have_a_limit(web: int) -> None:
    with connected(web) as client:
        client.sendall(b"GET / HTTP/1.1\r\nhost: x\r\nx-large: " + b"v" * 50_000 + b"\r\n\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 200 ")
    with connected(web) as client:
        with contextlib.suppress(ConnectionError):
            client.sendall(b"GET / HTTP/1.1\r\nhost: x\r\nx-large: ")
            for _ in range(400):
                client.sendall(b"v" * 25_000)
        assert rest(client)[:13] in (b"HTTP/1.1 431 ", b"")


def test_bodies_have_a_limit(web: int) -> None:
    head = b"POST / HTTP/1.1\r\nhost: x\r\n"
    fits = web_limits.BODY_BYTES
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", web, timeout=10)) as client:
        client.request("POST", "/", b"x" * fits)
        assert client.getresponse().read() == b"%d" % fits
    with connected(web) as raw:
        raw.sendall(head + b"content-length: 1000000000\r\n\r\n")
        assert raw.recv(4096).startswith(b"HTTP/1.1 413 ")
    with connected(web) as raw:
        with contextlib.suppress(ConnectionError):
            raw.sendall(head + b"transfer-encoding: chunked\r\n\r\n")
            for _ in range(fits // 65536 + 2):
                raw.sendall(b"10000\r\n" + b"x" * 65536 + b"\r\n")
        assert rest(raw)[:13] in (b"HTTP/1.1 413 ", b"")
