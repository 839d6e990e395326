"""The console speaks English and Vietnamese: nothing that people read of an endpoint lacks its Vietnamese words."""

from __future__ import annotations

import ast
import gettext
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import translation
from django.utils.functional import Promise
from django.utils.translation.template import templatize

from endpoints import cause_card, events
from endpoints.errors import WORDS, describe
from endpoints.models import PhaseName, ReplicaState, Status
from iam.actors import Actor
from iam.adapters import AccountAdapter, MFAAdapter
from iam.sso.adapter import SSOAccountAdapter
from registry import errors as registry_errors
from tests.support_endpoints import load_data, new_endpoint

ROOT = Path(__file__).parents[2]
CATALOGUE = ROOT / "platform" / "locale" / "vi" / "LC_MESSAGES"
PLACEHOLDER = re.compile(r"%\(\w+\)s|%%s|%s")
APPS = ("endpoints", "iam", "registry", "platform/config", "platform/launcher")
MISSING_SHARE = 0.03  # a new string may wait for its translator, a page may not


@pytest.fixture(autouse=True)
def _english_afterwards() -> Iterator[None]:
    """A request's language stays with its thread."""
    yield
    translation.deactivate()


def both(words: Promise | str) -> tuple[str, str]:
    """English, Vietnamese."""
    with translation.override("en"):
        english = str(words)
    with translation.override("vi"):
        return english, str(words)


def of_people() -> Iterator[tuple[str, Promise]]:
    """Everything that a page about an endpoint says, by where it is from."""
    for code, words in WORDS.items():
        yield f"{code}: message", words.message
        yield f"{code}: action", words.action
    for code, words in registry_errors.WORDS.items():
        yield f"import {code}: message", words.message
        yield f"import {code}: action", words.action
    for kind, sentence in events.SENTENCES.items():
        yield f"event {kind}", sentence
    for _name, label, _shown in cause_card._SHOWN:
        yield "a fact on the cause card", label
    for choices in (Status, PhaseName, ReplicaState):
        for choice in choices:
            yield f"{choices.__name__} {choice}", choice.label


SAME_IN_BOTH = {"Image"}


def test_every_code_event_status_and_phase_has_vietnamese_words() -> None:
    missing = [
        f"{where}: {english}"
        for where, words in of_people()
        for english, vietnamese in [both(words)]
        if english == vietnamese and english not in SAME_IN_BOTH
    ]
    assert missing == [], "translate these in platform/locale/vi, then `make messages`"


def test_placeholders_are_the_same_in_both_languages() -> None:
    for entry in entries():
        wanted = set(PLACEHOLDER.findall(entry.english + entry.plural))
        assert set(PLACEHOLDER.findall(entry.vietnamese)) == wanted, entry.english


def test_what_the_sign_in_library_says_of_itself_is_vietnamese_too() -> None:
    """It ships no Vietnamese. Nobody here has a phone number or a user name."""
    adapters = (AccountAdapter, MFAAdapter, SSOAccountAdapter)
    said = [both(words) for adapter in adapters for words in adapter.error_messages.values()]
    assert len(said) > 20
    english = [ours for ours, vietnamese in said if ours == vietnamese]
    assert not [text for text in english if "phone" not in text and "sername" not in text]


@pytest.mark.parametrize("code", sorted(WORDS))
def test_vietnamese_sentences_are_whole_without_their_parameters_too(code: str) -> None:
    with translation.override("vi"):
        reason = describe(code, {})
    assert not re.search(r"%\(|%s", reason.message + reason.action)


class Entry:
    """One entry of the .po file."""

    def __init__(self, chunk: str) -> None:
        self.english = self._text(chunk, "msgid")
        self.plural = self._text(chunk, "msgid_plural")
        self.vietnamese = self._text(chunk, r"msgstr(?:\[0\])?")
        self.context = self._text(chunk, "msgctxt")

    @staticmethod
    def _text(chunk: str, keyword: str) -> str:
        found = re.search(rf'^{keyword} ((?:".*"(?:\n|\Z))+)', chunk, re.MULTILINE)
        return "".join(ast.literal_eval(line) for line in found[1].splitlines()) if found else ""


def entries() -> list[Entry]:
    """The catalogue's text form."""
    chunks = (CATALOGUE / "django.po").read_text().split("\n\n")[1:]
    assert not [chunk for chunk in chunks if "#, fuzzy" in chunk], "a guess of gettext's is no translation"
    return [Entry(chunk) for chunk in chunks]


def test_the_compiled_catalogue_is_that_of_the_text() -> None:
    """No gettext tools are needed on the machine: the compiled form is committed, and must not lag behind."""
    with (CATALOGUE / "django.mo").open("rb") as file:
        compiled = gettext.GNUTranslations(file)
    for entry in entries():
        if not entry.vietnamese:
            continue
        if entry.plural:
            found = compiled.ngettext(entry.english, entry.plural, 2)
        elif entry.context:
            found = compiled.pgettext(entry.context, entry.english)
        else:
            found = compiled.gettext(entry.english)
        assert found == entry.vietnamese, "run `make messages`"


def test_nearly_nothing_waits_for_a_translation() -> None:
    done = {entry.english for entry in entries() if entry.vietnamese}
    used = set(_python_strings()) | set(_template_strings())
    assert len(used) > 500
    missing = sorted(used - done)
    assert len(missing) <= MISSING_SHARE * len(used), "\n".join(missing)


_CALLS = {
    "_",
    "gettext",
    "gettext_lazy",
    "gettext_noop",
    "ngettext",
    "ngettext_lazy",
    "pgettext",
    "pgettext_lazy",
}


def _python_strings() -> Iterator[str]:
    for app in APPS:
        for path in (ROOT / app).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _CALLS:
                    at = 1 if node.func.id.startswith("pgettext") else 0
                    word = node.args[at] if len(node.args) > at else None
                    if isinstance(word, ast.Constant) and isinstance(word.value, str):
                        yield word.value


_LITERAL = r"""u?('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
_TEMPLATE_CALL = re.compile(rf"\b_?n?(?:gettext|_)\(\s*{_LITERAL}")


def _template_strings() -> Iterator[str]:
    for path in (ROOT / "templates").rglob("*.html"):
        for found in _TEMPLATE_CALL.finditer(templatize(path.read_text())):
            yield ast.literal_eval(found[1])


@pytest.mark.django_db
def test_the_switch_in_the_top_bar_turns_the_page_vietnamese(
    editor_client: Client, editor_actor: Actor
) -> None:
    load_data()
    endpoint = new_endpoint(editor_actor)
    page = reverse("endpoints:detail", args=[endpoint.id])
    assert 'lang="en"' in editor_client.get(page).content.decode()
    answer = editor_client.post(
        reverse("endpoints:set_language"), {"language": "vi", "next": page}, follow=True
    )
    text = answer.content.decode()
    assert '<html lang="vi"' in text
    for words in ("Đang chờ một worker nhận việc.", "Đang chờ", "Tổng quan", "Truy cập riêng tư"):
        assert words in text


@pytest.mark.django_db
def test_a_browser_that_prefers_vietnamese_gets_it_and_the_api_too(
    editor_client: Client, editor_actor: Actor
) -> None:
    load_data()
    endpoint = new_endpoint(editor_actor)
    asks = {"HTTP_ACCEPT_LANGUAGE": "vi-VN,vi;q=0.9,en;q=0.5"}
    assert "Tổng quan" in editor_client.get("/", **asks).content.decode()
    reason = editor_client.get(f"/api/v1/endpoints/{endpoint.id}/", **asks).json()["status_reason"]
    assert reason["message"] == "Đang chờ một worker nhận việc."
