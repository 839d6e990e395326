"""The main job as a person does it: in a browser, on the whole platform, and then from a program that has nothing but
the strings which that person copied."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from playwright.sync_api import BrowserContext, ConsoleMessage, Page, Request, expect
from playwright.sync_api import TimeoutError as PlaywrightTimeout

from launcher import weights
from tests.support import require
from tests.support_browser import chromium, new_context
from tests.support_models import tiny_llama
from tests.support_platform import Place, place, platform
from tests.support_processes import ROOT, Running, eventually
from tests.support_runtimes import clean_up, containers, engine_answers

pytestmark = [
    pytest.mark.engine,
    pytest.mark.envoy,
    pytest.mark.redis,
    pytest.mark.browser,
    pytest.mark.timeout(400),
]

PHASES = [
    "Queued",
    "Scheduling",
    "Creating",
    "Starting",
    "Loading model",
    "Health check",
    "Routing",
    "Active",
]
SENTENCES = ["The weather is lovely today.", "It is so sunny outside!", "He drove to the stadium."]


@dataclass(frozen=True, slots=True)
class Console:
    """A platform that runs, and its first admin's login."""

    where: Place
    running: Running
    email: str
    password: str


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    """The whole platform on a real engine, with both test models under its models root."""
    require("docker engine", engine_answers(), "docker ping failed")
    where = place(tmp_path_factory.mktemp("main-job"), "docker")
    models = where.home / "models"
    tiny_llama(models / "tiny-llama.gguf")
    weights.ensure(models, where.home / "downloads", ROOT / "locks" / "demo.txt", print)
    try:
        with platform(where) as running:
            login = running.line(r"first admin\s+(\S+)\s+password (\S+)", 60)
            running.line(r"Berth is up", 90)
            yield Console(where, running, login[1], login[2])
    finally:
        clean_up(where)


@pytest.fixture(scope="module")
def context(console: Console) -> Iterator[BrowserContext]:
    """A browser in which the admin has signed in."""
    with chromium() as browser:
        signed_in = new_context(browser, base_url=console.where.console)
        page = signed_in.new_page()
        page.goto("/")
        page.get_by_label("Email address").fill(console.email)
        page.get_by_label("Password", exact=True).fill(console.password)
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        page.close()
        yield signed_in


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    """A tab. A script error on any page fails the test."""
    tab = context.new_page()
    broken: list[str] = []
    tab.on("pageerror", lambda error: broken.append(str(error)))
    tab.on("console", lambda message: _is_script_error(message) and broken.append(message.text))
    yield tab
    tab.close()
    assert broken == []


def _is_script_error(message: ConsoleMessage) -> bool:
    # A form with errors answers 422, and Chromium calls that an error of its own.
    return message.type == "error" and not message.text.startswith("Failed to load resource")


def import_local(page: Page, file: str, name: str) -> None:
    """Through the import page, until the registry says that the model is ready."""
    page.goto("/registry/import/")
    page.get_by_label(re.compile("Local file")).check()
    page.locator("#id_path").fill(file)
    page.locator("#id_name").fill(name)
    page.get_by_role("button", name="Import").click()
    expect(page.locator("[data-status=READY]").first).to_be_visible()


def create_endpoint(page: Page, name: str, model: str, replicas: int = 1) -> None:
    """Through the create page, to the new endpoint's page."""
    page.goto("/inference/")
    page.get_by_role("link", name="Create endpoint").first.click()
    page.locator("#id_name").fill(name)
    page.locator("#id_model_id").select_option(
        label=page.locator("#id_model_id option", has_text=model).inner_text()
    )
    page.locator("input[name=instance_type][value=local-cpu]").check()
    page.locator("#id_max_replicas").fill(str(replicas))
    page.locator("#id_min_replicas").fill(str(replicas))
    page.get_by_role("button", name="Create endpoint").click()
    try:
        page.wait_for_url(re.compile(r"/inference/me-[0-9a-f-]+/$"))
    except PlaywrightTimeout:
        pytest.fail(f"no endpoint was made: {page.locator('main').inner_text()}")


def copied(page: Page, button: str) -> str:
    """What the clipboard holds after a click."""
    page.get_by_role("button", name=button, exact=True).first.click()
    return str(page.evaluate("navigator.clipboard.readText()"))


def test_import_deploy_live_copy_and_call(console: Console, page: Page) -> None:
    import_local(page, "tiny-llama.gguf", "tiny-llama")
    sockets: list[str] = []
    frames: list[str] = []

    def listen(socket: object) -> None:
        sockets.append(socket.url)  # type: ignore[attr-defined]
        socket.on("framereceived", lambda frame: frames.append(frame))  # type: ignore[attr-defined]

    page.on("websocket", listen)
    create_endpoint(page, "chat-01", "tiny-llama")
    requests: list[Request] = []
    page.on("request", lambda request: requests.append(request))
    page.evaluate("window.sameDocument = true")
    expect(page.locator("#ep-status")).to_have_attribute("data-status", "ACTIVE", timeout=60_000)
    for phase in PHASES:
        expect(page.locator(".phase-done, .phase", has_text=phase).first).to_be_visible()
    # Everything came over the socket: the page was not loaded again and asked for nothing by itself.
    assert page.evaluate("window.sameDocument") is True
    polls = [request.url for request in requests if request.resource_type in ("xhr", "fetch", "document")]
    assert polls == []
    assert any("/ws/endpoints/me-" in url for url in sockets)
    told = "".join(str(frame) for frame in frames)
    assert "Loading model" in told
    assert 'data-status="ACTIVE"' in told

    url = copied(page, "Copy URL")
    assert re.fullmatch(rf"http://localhost:{console.where.gateway_port}/v1/me-[0-9a-f-]{{36}}", url)

    import_local(page, "all-MiniLM-L6-v2.gguf", "minilm")
    create_endpoint(page, "embed-01", "minilm")
    expect(page.locator("#ep-status")).to_have_attribute("data-status", "ACTIVE", timeout=60_000)
    embed_url = copied(page, "Copy URL")

    page.goto("/iam/service-accounts/create/")
    page.get_by_label("Name").fill("caller")
    page.locator("input[name=roles][value='aiplatform.user']").check()
    page.get_by_role("button", name="Create").click()
    client_id = page.locator("#client-id").input_value()
    page.locator("[data-copy-from='#client-secret']").click()
    client_secret = str(page.evaluate("navigator.clipboard.readText()"))
    assert client_secret == page.locator("#client-secret").input_value()
    # Leaving and coming back must not show the secret again.
    page.goto("/iam/service-accounts/")
    page.go_back()
    assert client_secret not in page.content()

    answer = _call(console.where.console, client_id, client_secret, url, embed_url)
    assert answer["models"] == ["tiny-llama"]
    assert len(answer["chunks"]) > 1, "the completion came in one piece"
    assert answer["similar"] == pytest.approx(0.679, abs=0.002)
    assert answer["different"] == pytest.approx(0.104, abs=0.002)


# What a customer's program looks like: it shares nothing with the platform but the copied strings.
PROGRAM = """
import base64, json, sys, urllib.request
import openai

given = json.load(sys.stdin)
basic = base64.b64encode(f"{given['id']}:{given['secret']}".encode()).decode()
request = urllib.request.Request(
    given["iam"] + "/accounts-api/v2/auth/token",
    data=json.dumps({"grant_type": "client_credentials", "scope": "email"}).encode(),
    headers={"Authorization": "Basic " + basic, "Content-Type": "application/json"},
)
token = json.load(urllib.request.urlopen(request, timeout=20))["access_token"]
chat = openai.OpenAI(base_url=given["chat"] + "/v1", api_key=token, max_retries=0)
models = [model.id for model in chat.models.list()]
stream = chat.chat.completions.create(
    model=models[0], messages=[{"role": "user", "content": "hello"}], max_tokens=12, stream=True
)
chunks = [chunk.choices[0].delta.content for chunk in stream if chunk.choices]
embed = openai.OpenAI(base_url=given["embed"] + "/v1", api_key=token, max_retries=0)
answer = embed.embeddings.create(model="minilm", input=given["sentences"])
a, b, c = (item.embedding for item in answer.data)
def cosine(x, y):
    dot = sum(p * q for p, q in zip(x, y))
    return dot / (sum(p * p for p in x) ** 0.5 * sum(q * q for q in y) ** 0.5)
print(json.dumps({"models": models, "chunks": chunks, "similar": cosine(a, b), "different": cosine(a, c)}))
"""


def _call(iam: str, client_id: str, secret: str, chat: str, embed: str) -> dict[str, object]:
    given = {
        "iam": iam, "id": client_id, "secret": secret, "chat": chat, "embed": embed, "sentences": SENTENCES,
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_the_create_page_keeps_what_was_typed_and_names_each_error(console: Console, page: Page) -> None:
    page.goto("/inference/create/")
    page.locator("#id_name").fill("a/b")
    page.locator("#id_min_replicas").fill("4")
    page.locator("#id_max_replicas").fill("2")
    page.get_by_role("button", name="Create endpoint").click()
    expect(page.locator("[data-field=name] [role=alert]")).to_be_visible()
    expect(page.locator("[data-field=min_replicas] [role=alert]")).to_be_visible()
    expect(page.locator("#id_name")).to_have_value("a/b")
    expect(page.locator("#id_min_replicas")).to_have_value("4")


def test_killing_the_worker_in_the_middle_of_a_deploy(console: Console, page: Page) -> None:
    create_endpoint(page, "survivor", "tiny-llama", replicas=3)
    worker = eventually(lambda: console.running.children().get("worker"), "the worker runs")
    assert page.locator("#ep-status").get_attribute("data-status") in ("PENDING", "DEPLOYING")
    worker.kill()
    expect(page.locator("#ep-status")).to_have_attribute("data-status", "ACTIVE", timeout=60_000)
    endpoint_id = re.search(r"me-[0-9a-f-]{36}", page.url)
    assert endpoint_id
    mine = [one for one in containers(console.where) if one.labels.get("berth.endpoint") == endpoint_id[0]]
    assert len(mine) == 3
