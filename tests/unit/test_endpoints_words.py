"""What people read about an endpoint: reasons, events, what does not fit."""

from __future__ import annotations

import re
from string import Formatter

import pytest

from endpoints import events
from endpoints.errors import WORDS, describe
from endpoints.models import Event
from endpoints.reconciler.findings import WAITS
from iam.actors import Actor
from runtimes import errors as runtime_errors
from tests.support_endpoints import load_data, new_endpoint


def test_every_failure_of_a_runtime_has_words() -> None:
    kinds = [runtime_errors.RuntimeFailure]
    for kind in kinds:
        kinds += kind.__subclasses__()
    codes = {kind.code for kind in kinds} - {runtime_errors.UnknownRuntime.code}  # refused at start already
    assert codes - set(WORDS) == set()
    assert set(WORDS) >= WAITS


@pytest.mark.parametrize("code", sorted(WORDS))
def test_words_are_whole_without_their_parameters_too(code: str) -> None:
    reason = describe(code, {})
    assert reason.message
    assert reason.action
    assert not re.search(r"%\(|\{\}", reason.message + reason.action)
    assert list(Formatter().parse(reason.message))  # a lone brace or percent sign would fail here


def test_a_code_nobody_knows_is_shown_as_itself() -> None:
    assert describe("brand_new", {}).message == "brand new"


@pytest.mark.django_db
def test_events_speak_in_sentences(editor_actor: Actor) -> None:
    load_data()
    endpoint = new_endpoint(editor_actor)
    name = f"berth-{endpoint.id}-v1-r1-1"
    failed = events.record(endpoint, "replica.failed", replica=name, reason="container_exited", exit_code=3)
    assert events.sentence(failed) == (
        "Replica v1-r1-1 failed: The container ended by itself with exit code 3 before it was ready."
    )
    changed = events.record(endpoint, "status.changed", before="DEPLOYING", after="ACTIVE")
    assert events.sentence(changed) == "Status went from Deploying to Active"


@pytest.mark.django_db
def test_every_kind_that_is_written_has_a_sentence(editor_actor: Actor) -> None:
    load_data()
    endpoint = new_endpoint(editor_actor)
    for kind in events.SENTENCES:
        assert events.sentence(Event(kind=kind, target=endpoint.id, params={})) != kind
