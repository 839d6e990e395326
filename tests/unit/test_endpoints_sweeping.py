"""What the sweep removes, and what it leaves alone."""

from __future__ import annotations

import pytest

from endpoints.sweeping import remove_networks, remove_strangers
from iam.actors import Actor
from runtimes.contract import LABEL_ENDPOINT, ContainerSpec
from runtimes.errors import RuntimeFailure, RuntimeUnreachable
from runtimes.fake import FakeEngine, FakeRuntime
from tests.support_endpoints import load_data, new_endpoint

pytestmark = pytest.mark.django_db


def start(runtime: FakeRuntime, name: str, endpoint_id: str, network: str | None = None) -> None:
    labels = {LABEL_ENDPOINT: endpoint_id}
    runtime.start(ContainerSpec(name=name, labels=labels, image="x", port=80, network=network))


def test_only_networks_that_nobody_needs_go(editor_actor: Actor) -> None:
    load_data()
    runtime, endpoint = FakeRuntime(), new_endpoint(editor_actor)
    start(runtime, "kept", endpoint.pk, network=str(endpoint.project_id))
    start(runtime, "left-behind", "me-gone", network="p-gone")
    assert remove_networks(runtime) == ["p-gone"], "asked for"
    assert runtime.networks() == sorted([str(endpoint.project_id), "p-gone"]), "a container is still on it"
    runtime.remove("left-behind")
    remove_networks(runtime)
    assert runtime.networks() == [str(endpoint.project_id)]


def test_only_strangers_of_this_installation_go(editor_actor: Actor) -> None:
    load_data()
    ours, theirs = FakeRuntime("ours", engine := FakeEngine()), FakeRuntime("theirs", engine)
    start(ours, "kept", new_endpoint(editor_actor).pk)
    start(ours, "left-behind", "me-gone")
    start(theirs, "another-installation", "me-gone")
    assert remove_strangers(ours) == ["left-behind"]
    assert set(engine.containers) == {"kept", "another-installation"}


def test_an_engine_that_does_not_answer_has_no_strangers() -> None:
    runtime = FakeRuntime()
    start(runtime, "left-behind", "me-gone")
    runtime.engine.unreachable()
    with pytest.raises(RuntimeUnreachable):
        remove_strangers(runtime)
    runtime.engine.recovers()
    assert set(runtime.engine.containers) == {"left-behind"}


def test_one_that_cannot_be_removed_does_not_keep_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = FakeRuntime()
    for name in ("first", "stuck", "last"):
        start(runtime, name, "me-gone")
    remove = runtime.remove

    def stubborn(name: str) -> None:
        if name == "stuck":
            raise RuntimeFailure("device or resource busy")
        remove(name)

    monkeypatch.setattr(runtime, "remove", stubborn)
    assert remove_strangers(runtime) == ["first", "last"]
    assert set(runtime.engine.containers) == {"stuck"}
