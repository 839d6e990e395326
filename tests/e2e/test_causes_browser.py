"""A failed deployment in a browser on the whole platform: the card says the cause, and its button mends it."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from playwright.sync_api import Page, expect

from tests.support import require
from tests.support_browser import chromium, new_context
from tests.support_days import Hand
from tests.support_models import tiny_llama
from tests.support_platform import Place, place, platform
from tests.support_processes import eventually
from tests.support_runtimes import clean_up, engine_answers

pytestmark = [
    pytest.mark.engine,
    pytest.mark.envoy,
    pytest.mark.redis,
    pytest.mark.browser,
    pytest.mark.timeout(300),
]

# Imported by the hand; `admin` is the first admin, `new(name, model, …)` asks for an endpoint and answers its id.
HAND = """
from iam.actors import actor_for_user
from iam.models import User
from registry import services as registry
from registry.images import resolve
from registry.models import Framework, Source
from registry.services import ImportSpec
from endpoints.models import InstanceType
actor = actor_for_user(User.objects.get(is_superuser=True))
Framework.objects.filter(slug='custom').update(definition={**Framework.objects.get(slug='custom').definition,
    'start_timeout_s': 27})
new = lambda name, model, **changes: services.create_endpoint(
    actor=actor, spec=spec_for(RegisteredModel.objects.get(name=model), name=name, **changes)).id
"""


@dataclass(frozen=True, slots=True)
class Stage:
    """A platform that runs, a hand on its database, and the admin's browser."""

    where: Place
    hand: Hand
    page: Page


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """On a real engine, with a model that really answers under its models root."""
    require("docker engine", engine_answers(), "docker ping failed")
    where = place(tmp_path_factory.mktemp("causes"), "docker")
    tiny_llama(where.home / "models" / "tiny.gguf")
    try:
        with platform(where) as running, chromium() as browser:
            login = running.line(r"first admin\s+(\S+)\s+password (\S+)", 60)
            running.line(r"Berth is up", 90)
            hand = Hand(where.env | {"REDIS_URL": f"unix://{where.home / 'run' / 'redis.sock'}"})
            page = new_context(browser, base_url=where.console).new_page()
            broken: list[str] = []
            page.on("pageerror", lambda error: broken.append(str(error)))
            sign_in(page, login[1], login[2])
            try:
                for line in (f"exec({HAND!r}, globals())", _import_tiny()):
                    hand.do(line)
                ready = "RegisteredModel.objects.get(name='tiny').status == 'READY'"
                eventually(lambda: hand.do(ready), "the model is imported", 60)
                yield Stage(where, hand, page)
                assert broken == []
            finally:
                hand.end()
    finally:
        clean_up(where)


def _import_tiny() -> str:
    return (
        "registry.import_model(actor, ImportSpec('tiny', 'llama-cpp', 'local', path='tiny.gguf',"
        " task='llm')).name"
    )


def sign_in(page: Page, email: str, password: str) -> None:
    page.goto("/")
    page.get_by_label("Email address").fill(email)
    page.get_by_label("Password", exact=True).fill(password)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", level=1)).to_be_visible()


def status_is(page: Page, *statuses: str, within_s: float = 60) -> None:
    pattern = re.compile(f"^({'|'.join(statuses)})$")
    expect(page.locator("#ep-status")).to_have_attribute("data-status", pattern, timeout=within_s * 1000)


def mend(page: Page, button: str) -> None:
    """Click what the card offers, and see the endpoint serve."""
    page.locator("#ep-cause").get_by_role("button", name=button, exact=True).click()
    expect(page.get_by_text("is tried again with that.")).to_be_visible()
    status_is(page, "ACTIVE")
    expect(page.locator("#ep-cause")).to_be_empty()


def test_a_server_on_another_port_is_told_early_and_its_port_is_one_click_away(stage: Stage) -> None:
    stage.hand.do(
        "tiny = RegisteredModel.objects.get(name='tiny');"
        "own = ready_model(actor.project, 'own-server', 'custom', source=Source.IMAGE,"
        " weights_path=tiny.weights_path, entry_file='', source_ref={'image': resolve('berth/llama-cpp'),"
        " 'port': 8000, 'health_path': '/health', 'command': ['--model', '/models/tiny.gguf', '--host',"
        " '0.0.0.0', '--port', '8080']}); 0"
    )
    endpoint = stage.hand.do("new('wrong-port', 'own-server')")
    page = stage.page
    page.goto(f"/inference/{endpoint}/")
    card = page.locator("#ep-cause")
    expect(card).to_contain_text("listens on port 8080, but it is asked on port 8000", timeout=40_000)
    expect(page.locator("#ep-status")).to_have_attribute("data-status", "DEPLOYING")
    expect(card).to_contain_text("The deployment goes on meanwhile.")
    expect(card.get_by_role("button", name="Use port 8080")).to_be_visible()
    status_is(page, "FAILED")
    expect(card).to_contain_text("listens on port 8080, but it is asked on port 8000")
    expect(card).to_contain_text("serving tiny.gguf on 0.0.0.0:8080")
    mend(page, "Use port 8080")


def test_memory_that_is_too_small_is_followed_by_the_next_bigger_type(stage: Stage) -> None:
    stage.hand.do(
        "[InstanceType.objects.create(name=name, family='TEST', vcpu=1, memory_gib=gib, position=position)"
        " for name, gib, position in (('t-tiny', 0.2, 1), ('t-small', 1.0, 2))] and 0"
    )
    endpoint = stage.hand.do(
        "new('too-small', 'tiny', instance_type='t-tiny', settings={'max_context': 2048, 'max_sequences': 256})"
    )
    page = stage.page
    page.goto(f"/inference/{endpoint}/")
    status_is(page, "FAILED")
    card = page.locator("#ep-cause")
    expect(card).to_contain_text("needed more than its 0.2 GiB of memory")
    expect(card).to_contain_text("137 (SIGKILL)")
    mend(page, "Use t-small")


def test_a_model_whose_file_is_gone_is_imported_again(stage: Stage) -> None:
    folder = (
        stage.where.home / "weights" / str(stage.hand.do("str(RegisteredModel.objects.get(name='tiny').pk)"))
    )
    (file,) = folder.glob("*.gguf")
    file.unlink()
    endpoint = stage.hand.do("new('file-gone', 'tiny')")
    page = stage.page
    page.goto(f"/inference/{endpoint}/")
    status_is(page, "FAILED")
    card = page.locator("#ep-cause")
    expect(card).to_contain_text("A file of the model is not there: /models/tiny.gguf.")
    began = time.monotonic()
    mend(page, "Import the model again")
    assert time.monotonic() - began < 45
    assert list(folder.glob("*.gguf"))
