"""A whole platform with real containers, after a day's work with secrets: none of them lies anywhere; a page that shows
hostile text runs nothing; and what runs in a replica's container finds no way out of it."""

from __future__ import annotations

import base64
import ipaddress
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import docker
import httpx
import psutil
import pytest
import redis

from config.places import socket_dir
from runtimes.images import PYTHON
from tests.contract.drivers import DockerDriver
from tests.contract.outside import can_connect, outside_world
from tests.support import require
from tests.support_browser import chromium, new_context
from tests.support_days import Day, day
from tests.support_platform import place
from tests.support_processes import eventually, processes_of
from tests.support_runtimes import clean_up, engine_answers

pytestmark = [
    *(pytest.mark.engine, pytest.mark.redis, pytest.mark.envoy, pytest.mark.browser),
    pytest.mark.timeout(300),
]

EMAIL, PASSWORD, WRONG = "zz@example.org", "zz-right-pass-phrase-1", "zz-wrong-pass-phrase-2"
TYPED = {
    "hub token": "hf_zzHubToken0123456789",
    "registry password": "zzRegistryPassword0123",
    "a model's variable": "zzModelVariable0123456",
    "an endpoint's variable": "zzEndpointVariable0123",
    "password": PASSWORD,
    "wrong password": WRONG,
    "SSO secret": "zzSingleSignOnSecret01",
}
# The container's own, because it is meant for the program in it.
IN_CONTAINERS = {"an endpoint's variable", "a model's variable"}

_PERSON = f"""
from allauth.mfa.models import Authenticator
from allauth.mfa.recovery_codes.internal.auth import RecoveryCodes
from allauth.mfa.totp.internal.auth import TOTP, generate_totp_secret
from iam.models import Membership, User
from iam.oauth import tokens
from iam.oauth.validator import client_for
from iam.models import ServiceAccount, Invitation
from endpoints import events

person = User.objects.create_user({EMAIL!r}, {PASSWORD!r}, is_staff=True)
Membership.objects.create(user=person, project=actor.project, role="aiplatform.admin")
"""


@dataclass
class Work:
    """What was done, and every secret that came up meanwhile."""

    day: Day
    endpoint: str
    browser: httpx.Client
    secrets: dict[str, str] = field(default_factory=dict)
    monitored: list[str] = field(default_factory=list)

    @property
    def gateway(self) -> str:
        return f"http://localhost:{self.day.where.gateway_port}"

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """As the console's own scripts call the API."""
        token = next(cookie.value for cookie in self.browser.cookies.jar if cookie.name == "berth_csrf")
        headers = {"X-CSRFToken": str(token), "Origin": self.day.where.console}
        answer = self.browser.post(f"/api/v1/{path}", json=body, headers=headers)
        assert answer.status_code in (200, 201), answer.text
        return dict(answer.json())


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Work]:
    require("docker engine", engine_answers(), "docker ping failed")
    where = place(tmp_path_factory.mktemp("walls"), "docker")
    env = {
        "HF_ENDPOINT": "http://127.0.0.1:1",
        "BERTH_OIDC_ISSUER": "http://127.0.0.1:1/sso",
        "BERTH_OIDC_CLIENT_ID": "berth",
        "BERTH_OIDC_CLIENT_SECRET": TYPED["SSO secret"],
    }
    try:
        with day(where, **env) as today, httpx.Client(base_url=where.console, timeout=30) as browser:
            endpoint = today.create("walled", environment={"API_TOKEN": TYPED["an endpoint's variable"]})
            done = Work(today, endpoint, browser, dict(TYPED))
            with watched(done):
                sign_in(done)
                make_secrets(done)
                today.until(endpoint, "ACTIVE")
                call(done)
            yield done
    finally:
        clean_up(where)


class watched:
    """Everything that passes through Redis meanwhile."""

    def __init__(self, work: Work) -> None:
        self._work = work
        path = socket_dir(work.day.where.home) / "redis.sock"
        self._client = redis.Redis(unix_socket_path=str(path), socket_timeout=None)
        self._stop = threading.Event()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def _listen(self) -> None:
        with self._client.monitor() as monitor:
            self._started.set()
            for command in monitor.listen():
                self._work.monitored.append(command["command"])
                if self._stop.is_set():
                    return

    def __enter__(self) -> None:
        self._thread.start()
        assert self._started.wait(10)

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._client.ping()
        self._thread.join(10)
        self._client.close()


def sign_in(work: Work) -> None:
    """Once with the wrong password, then with the right one."""
    work.day.hand.do(_PERSON)
    for password in (WRONG, PASSWORD):
        page = work.browser.get("/accounts/login/").text
        token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page)
        assert token
        form = {"csrfmiddlewaretoken": token[1], "login": EMAIL, "password": password}
        answer = work.browser.post("/accounts/login/", data=form, headers={"Origin": work.day.where.console})
    assert answer.status_code == 302
    found = {cookie.name: str(cookie.value) for cookie in work.browser.cookies.jar}
    work.secrets["session"] = found["berth_session"]


def make_secrets(work: Work) -> None:
    """Whatever holds a secret: each is shown once, in the answer that makes it."""
    known = work.secrets
    made = work.post("service-accounts/", {"name": "worker", "roles": ["aiplatform.user"]})
    known["client secret"] = made["client_secret"]
    known["second client secret"] = work.post(f"service-accounts/{made['id']}/secrets/", {})["client_secret"]
    known["API key"] = work.post("api-keys/", {"name": "laptop"})["api_key"]
    link = work.post("invitations/", {"email": "guest@example.org", "role": "aiplatform.user"})["link"]
    known["invitation"] = re.split(r"[/#?=]", link.rstrip("/"))[-1]
    work.post("models/", {
        "name": "hub", "framework": "vllm", "source": "huggingface", "repo_id": "zz/private",
        "hub_token": TYPED["hub token"],
    })  # fmt: skip
    work.post("models/", {
        "name": "image", "framework": "custom", "source": "image", "image": "127.0.0.1:1/zz/private:1", "port": 80,
        "environment": {"PASSPHRASE": TYPED["a model's variable"]},
        "registry_username": "zz-puller", "registry_password": TYPED["registry password"],
    })  # fmt: skip
    ready = "RegisteredModel.objects.get(name='image').status == 'READY'"
    eventually(lambda: work.day.hand.do(ready), "an image needs no import", 30)
    work.day.hand.do(
        "services.create_endpoint(actor=actor,"
        " spec=spec_for(RegisteredModel.objects.get(name='image'), name='refused')).id"
    )
    totp = work.day.hand.do("(lambda s: (TOTP.activate(person, s), s)[1])(generate_totp_secret())")
    known["TOTP secret"] = totp
    codes = work.day.hand.do("RecoveryCodes.activate(person).get_unused_codes()")
    known |= {"recovery code": codes[0], "last recovery code": codes[-1]}
    known["Basic credentials"] = base64.b64encode(f"{made['id']}:{made['client_secret']}".encode()).decode()
    answer = httpx.post(
        f"{work.gateway}/accounts-api/v2/auth/token",
        auth=(made["id"], made["client_secret"]),
        json={"grant_type": "client_credentials"},
    )
    known["access token"] = answer.raise_for_status().json()["access_token"].rsplit(".", 1)[1]
    work.secrets["whole access token"] = answer.json()["access_token"]
    known["API key's signature"] = known["API key"].rsplit(".", 1)[1]


def call(work: Work) -> None:
    """The endpoint, rightly and wrongly: with the token in the address, and with secrets in place of tokens."""
    url = f"{work.gateway}/v1/{work.endpoint}/v1/models"
    for token in (work.secrets["whole access token"], work.secrets["API key"]):
        assert httpx.get(url, headers={"Authorization": f"Bearer {token}"}).status_code == 200
    for bad in (work.secrets["client secret"], TYPED["password"]):
        assert httpx.get(url, headers={"Authorization": f"Bearer {bad}"}).status_code == 401
    assert httpx.get(f"{url}?access_token={work.secrets['whole access token']}").status_code == 401
    for secret in (work.secrets["client secret"][:-1] + "x", TYPED["password"]):
        form = {"grant_type": "client_credentials", "client_id": "sa-x", "client_secret": secret}
        assert (
            httpx.post(f"{work.day.where.console}/accounts-api/v2/auth/token", data=form).status_code == 401
        )


# --- secrets ----------------------------------------------------------------------------------------------


def forms(secret: str) -> tuple[bytes, ...]:
    """As it is, and as addresses, JSON and Basic headers would have it."""
    whole = base64.b64encode(secret.encode()).rstrip(b"=")
    return tuple({secret.encode(), quote(secret).encode(), json.dumps(secret)[1:-1].encode(), whole})


def found_in(content: bytes, work: Work, *allowed: str) -> list[str]:
    """Names of the secrets that can be read there."""
    return [
        name
        for name, secret in work.secrets.items()
        if name not in allowed and any(form in content for form in forms(secret))
    ]


def test_what_is_searched_for_would_be_found(work: Work) -> None:
    for name, secret in work.secrets.items():
        assert len(secret) >= 6, name
        assert found_in(b"x" + secret.encode() + b"y", work) != []


def test_no_file_holds_a_secret(work: Work) -> None:
    """Logs of all processes, the database with its journal, the gateway's files and log, what the front printed."""
    home = work.day.where.home
    files = [one for top in (home, socket_dir(home)) for one in top.rglob("*") if one.is_file()]
    files = [one for one in files if (home / "keys") not in one.parents]
    wrong = {}
    for path in [*files, work.day.running.output]:
        if path.stat().st_size < 64_000_000 and "static" not in path.parts:
            # The session's name is its row's key: who can read the database can also write one.
            allowed = ("session",) if path.name.startswith("berth.sqlite3") else ()
            if names := found_in(path.read_bytes(), work, *allowed):
                wrong[str(path.relative_to(home.parent))] = names
    assert wrong == {}
    database = b"".join(path.read_bytes() for path in files if path.name.startswith("berth.sqlite3"))
    assert EMAIL.encode() in database, "what is no secret is found"
    kinds = {path.suffix for path in files} | {path.name for path in files}
    assert {".log", "berth.sqlite3", ".json"} <= kinds
    assert any("access" in path.name for path in files), "the gateway's access log"
    for key in (home / "keys").rglob("*"):
        assert key.stat().st_mode & 0o077 == 0, key


def test_redis_never_sees_a_secret(work: Work) -> None:
    assert len(work.monitored) > 50
    told = "\n".join(work.monitored).encode()
    assert found_in(told, work) == []


def test_no_process_shows_a_secret(work: Work) -> None:
    """But the one that the operator gives by the environment, to those that inherit it."""
    processes = processes_of(work.day.where.home)
    wrong = []
    for process in processes:
        shown = (" ".join(process.cmdline())).encode()
        if names := found_in(shown, work):
            wrong.append((process.name(), names))
        surroundings = " ".join(f"{k}={v}" for k, v in process.environ().items()).encode()
        if names := found_in(surroundings, work, "SSO secret"):
            wrong.append((process.name(), names))
        if "envoy" in process.name() and found_in(surroundings, work):
            wrong.append((process.name(), "environment"))
    assert wrong == []
    assert len(processes) >= 7


def test_no_answer_shows_a_secret(work: Work) -> None:
    """Every list and object of the API, and the console's pages."""
    schema = work.browser.get("/api/schema/?format=json").json()
    asked = 0
    for path, methods in schema["paths"].items():
        if "get" not in methods or path.count("{") > 1:
            continue
        targets = [path]
        if "{id}" in path:
            rows = work.browser.get(path.split("{id}")[0]).json().get("results", [])
            targets = [path.replace("{id}", str(row["id"])) for row in rows[:5] if "id" in row]
        for target in targets:
            answer = work.browser.get(target)
            assert answer.status_code < 500
            assert found_in(answer.content, work) == [], target
            asked += answer.status_code == 200
    assert asked > 30
    refused = work.day.hand.do("Endpoint.objects.get(name='refused').id")
    pages = (
        "",
        "inference/",
        f"inference/{work.endpoint}/",
        f"inference/{refused}/",
        "registry/",
        "audit/",
        "usage/",
    )
    for page in (
        *pages,
        "iam/service-accounts/",
        "iam/api-keys/",
        "iam/invitations/",
        "accounts/security/",
        "metrics",
    ):
        answer = work.browser.get(f"/{page}", follow_redirects=True)
        assert found_in(answer.content, work) == [], page


def test_containers_hold_only_what_is_meant_for_them(work: Work) -> None:
    container = container_of(work)
    facts = json.dumps(container.attrs).encode()
    assert found_in(facts, work, *IN_CONTAINERS) == []
    names = {one.partition("=")[0] for one in container.attrs["Config"]["Env"]}
    assert "API_TOKEN" in names
    assert not {name for name in names if name.startswith(("BERTH", "DJANGO", "REDIS", "DATABASE", "HF_"))}


# --- walls ------------------------------------------------------------------------------------------------

PROBE = r"""
import json, os, socket, stat, sys, threading
targets = json.loads(sys.argv[1])
found = {"answers": {}, "sockets": [], "writable": []}
def connect(target):
    host, _, port = target.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=2).close()
        found["answers"][target] = "open"
    except OSError as error:
        found["answers"][target] = type(error).__name__
threads = [threading.Thread(target=connect, args=(target,)) for target in targets]
for one in threads:
    one.start()
for top, folders, files in os.walk("/"):
    if top.startswith(("/proc", "/sys")):
        folders[:] = []
        continue
    for name in files:
        path = os.path.join(top, name)
        try:
            if stat.S_ISSOCK(os.lstat(path).st_mode):
                found["sockets"].append(path)
        except OSError:
            pass
found["mounts"] = [line.split()[1:4] for line in open("/proc/mounts")]
status = open("/proc/self/status").read().splitlines()
found["status"] = dict(line.split(":\t", 1) for line in status if ":\t" in line)
found["pids"] = [name for name in os.listdir("/proc") if name.isdigit()]
for path in ("/models/x", "/proc/sys/kernel/core_pattern", "/sys/fs/cgroup/x", "/sys/kernel/uevent_helper"):
    try:
        open(path, "w").close()
        found["writable"].append(path)
    except OSError:
        pass
def tried(do):
    try:
        do()
        return "done"
    except OSError as error:
        return type(error).__name__
found["raw"] = tried(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP))
found["packet"] = tried(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
for one in threads:
    one.join()
print(json.dumps(found))
"""


def container_of(work: Work) -> Any:
    """The replica's container, as the engine has it."""
    (replica,) = work.day.hand.do(
        f"[one.name for one in get({work.endpoint!r}).replicas.filter(state='ready')]"
    )
    return docker.from_env().containers.get(replica)


def test_a_replica_finds_no_way_out(work: Work, tmp_path: Path) -> None:
    """Console, gateway, Redis, engine, the machine's own addresses, another project's replica and whatever is beyond
    the host, as a cloud's metadata service is: by network and by file. The machine beyond is our own."""
    where = work.day.where
    container = container_of(work)
    (network,) = container.attrs["NetworkSettings"]["Networks"].values()
    bridge = str(
        next(ipaddress.ip_network(f"{network['IPAddress']}/{network['IPPrefixLen']}", strict=False).hosts())
    )
    ports = {where.port, where.gateway_port, *listening(work)}
    own = [
        address.address
        for addresses in psutil.net_if_addrs().values()
        for address in addresses
        if address.family.name == "AF_INET" and not address.address.startswith(("127.", "169.254."))
    ]
    targets = [f"{host}:{port}" for host in ("127.0.0.1", bridge, *own[:2]) for port in sorted(ports)]
    neighbour = DockerDriver(tmp_path)
    try:
        there = neighbour.runtime.start(neighbour.spec("there", "serve", "8080")).address
        assert there is not None
        with outside_world() as outside:
            eventually(lambda: can_connect(there.host, 8080), "the other project's replica", 30)
            targets += [f"{there.host}:8080", outside]
            done = container.exec_run([PYTHON, "-c", PROBE, json.dumps(targets)])
    finally:
        neighbour.close()
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    assert {target for target, told in found["answers"].items() if told == "open"} == set()
    assert len(targets) >= 6
    assert found["sockets"] == [], "nobody's socket is mounted: neither Redis' nor the engine's nor Envoy's"
    assert found["writable"] == []
    status = {key: value.strip() for key, value in found["status"].items()}
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert found["raw"] == found["packet"] == "PermissionError"
    assert container.attrs["HostConfig"]["Dns"] == ["127.0.0.1"], "questions are asked of nobody"
    assert len(found["pids"]) < 20, "only its own processes"
    home = str(where.home)
    sources = [mount["Source"] for mount in container.attrs["Mounts"] if mount["Type"] == "bind"]
    assert all(source.startswith(f"{home}/weights/") for source in sources), sources
    assert all(not mount["RW"] for mount in container.attrs["Mounts"] if mount["Type"] == "bind")


def listening(work: Work) -> set[int]:
    """Every port on which the platform's processes listen; Redis and Envoy's admin are on none."""
    ports = set()
    for process in processes_of(work.day.where.home):
        held = {one.laddr.port for one in process.net_connections("tcp") if one.status == "LISTEN"}
        assert not (held and "redis" in process.name())
        ports |= held
    assert ports >= {work.day.where.port, work.day.where.gateway_port}
    return ports


# --- a browser --------------------------------------------------------------------------------------------

MARK = "xss-fired"
HOSTILE = f"</script><script>console.log('{MARK}')</script>'\"><img src=x onerror=console.log('{MARK}')>"


def test_a_browser_runs_nothing_that_is_stored(work: Work) -> None:
    """Text that would be a program, on the pages that show names, reasons, events and logs."""
    hand = work.day.hand
    hand.do(f"HOSTILE = {HOSTILE!r}")
    hand.do("hurt = Endpoint.objects.get(name='refused').id")
    hand.do("Endpoint.objects.filter(pk=hurt).update(reason_params={'image': HOSTILE, 'detail': HOSTILE})")
    hand.do("told = dict.fromkeys(('error', 'logs', 'image'), HOSTILE)")
    hand.do("Replica.objects.filter(endpoint_id=hurt).update(evidence=told)")
    hand.do("events.record(get(hurt), 'image.pulled', image=HOSTILE)")
    hand.do("ServiceAccount.objects.update(description=HOSTILE)")
    hand.do("RegisteredModel.objects.filter(name='image').update(name='a' + HOSTILE[:70])")
    hand.do("create_service_account(actor, HOSTILE[:50], ['aiplatform.user'], HOSTILE)")
    refused = hand.do("hurt")
    said: list[str] = []
    with chromium() as browser:
        context = new_context(browser)
        context.add_cookies(
            [{"name": "berth_session", "value": work.secrets["session"], "url": work.day.where.console}]
        )
        page = context.new_page()
        page.on("dialog", lambda dialog: (said.append(f"dialog {dialog.message}"), dialog.dismiss()))
        page.on(
            "console",
            lambda line: (
                said.append(f"{page.url}: {line.text}")
                if MARK in line.text or "Content Security Policy" in line.text
                else None
            ),
        )
        shown = 0
        for path in (
            *(
                "",
                "inference/",
                f"inference/{refused}/",
                f"inference/{refused}/?tab=events",
                "registry/",
                "audit/",
            ),
            *("iam/service-accounts/", "usage/", "inference/create/"),
        ):
            page.goto(f"{work.day.where.console}/{path}")
            page.wait_for_load_state("load")
            shown += MARK in page.content()
            assert page.evaluate("document.querySelectorAll('img[src=x], [onerror]').length") == 0, path
        context.close()
    assert said == []
    assert shown >= 4
