"""Who works on an import, what a dead worker leaves behind, and what a deleted model does."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from config import holders
from iam.actors import Actor
from registry import services
from registry.importing import hub as hub_module
from registry.importing import lease as lease_module
from registry.importing.lease import LeaseLost, claim, release_dead
from registry.importing.progress import Progress
from registry.importing.run import run
from registry.models import ModelStatus, RegisteredModel
from registry.services import ImportSpec
from registry.tasks import sweep_imports
from tests.support_hub import Hub, Repo, running_hub
from tests.support_imports import gguf_bytes, imported, prepare
from tests.support_model_files import write_gguf

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def places(settings: Any, tmp_path: Path, db: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    return prepare(settings, tmp_path, monkeypatch)


@pytest.fixture
def hub(settings: Any) -> Iterator[Hub]:
    with running_hub() as running:
        settings.HF_ENDPOINT = running.endpoint
        yield running


@pytest.fixture
def waiting(editor_actor: Actor, places: Path) -> RegisteredModel:
    write_gguf(places / "models" / "tiny.gguf")
    return services.import_model(editor_actor, ImportSpec("m", "llama-cpp", "local", path="tiny.gguf"))


def test_only_one_worker_gets_an_import(waiting: RegisteredModel) -> None:
    lease = claim(str(waiting.pk))
    assert lease is not None
    assert claim(str(waiting.pk)) is None
    run(str(waiting.pk))
    waiting.refresh_from_db()
    assert (waiting.status, waiting.lease_token) == (ModelStatus.IMPORTING, lease.token)


def test_a_dead_workers_import_is_taken_over_and_it_can_write_nothing_more(
    waiting: RegisteredModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = claim(str(waiting.pk))
    assert dead is not None
    sent: list[str] = []
    monkeypatch.setattr("registry.tasks.import_now", lambda model_id, expires_s: sent.append(model_id))
    sweep_imports()
    assert sent == []  # its heartbeat is fresh
    late = timezone.now() - timedelta(seconds=1)
    RegisteredModel.objects.filter(pk=waiting.pk).update(lease_until=late)
    sweep_imports()
    assert sent == [str(waiting.pk)]
    run(str(waiting.pk))
    waiting.refresh_from_db()
    assert waiting.status == ModelStatus.READY
    with pytest.raises(LeaseLost):
        dead.end(status=ModelStatus.FAILED, reason_code="import_crashed")
    waiting.refresh_from_db()
    assert waiting.status == ModelStatus.READY


def test_a_killed_workers_import_waits_for_no_expiry(waiting: RegisteredModel) -> None:
    assert claim(str(waiting.pk)) is not None
    assert release_dead() == 0  # this very process
    token = f"{holders.host()}:{os.getpid()}:1.a"  # its number was given to another process since
    RegisteredModel.objects.filter(pk=waiting.pk).update(lease_token=token)
    assert claim(str(waiting.pk)) is None
    sweep_imports()
    assert claim(str(waiting.pk)) is not None


def test_a_lease_from_before_the_clock_was_set_back_holds_nobody_up(waiting: RegisteredModel) -> None:
    assert claim(str(waiting.pk)) is not None
    RegisteredModel.objects.update(lease_until=timezone.now() + timedelta(hours=1))
    assert claim(str(waiting.pk)) is not None


def test_a_heartbeat_prolongs_the_lease(waiting: RegisteredModel) -> None:
    lease = claim(str(waiting.pk))
    assert lease is not None
    soon = timezone.now() + timedelta(seconds=1)
    RegisteredModel.objects.filter(pk=waiting.pk).update(lease_until=soon)
    lease.write(bytes_done=1)
    waiting.refresh_from_db()
    assert waiting.lease_until is not None
    assert waiting.lease_until > soon + timedelta(seconds=lease_module.LEASE_S - 10)


def test_a_model_deleted_during_its_import_leaves_nothing(
    editor_actor: Actor, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, places: Path
) -> None:
    hub.repos["org/model"] = Repo({"a.gguf": gguf_bytes(tmp_path, rows=4096)})
    spec = ImportSpec("gone", "llama-cpp", "huggingface", repo_id="org/model")
    model = services.import_model(editor_actor, spec)
    fetch = hub_module.fetch

    def delete_then_fetch(*args: Any) -> None:
        RegisteredModel.objects.filter(pk=model.pk).delete()
        fetch(*args)

    monkeypatch.setattr(hub_module, "fetch", delete_then_fetch)
    run(str(model.pk))
    assert list((places / "weights").iterdir()) == []


def test_the_sweep_removes_weights_of_models_that_are_gone_and_nothing_else(
    editor_actor: Actor, places: Path
) -> None:
    write_gguf(places / "models" / "tiny.gguf")
    model = imported(editor_actor, path="tiny.gguf")
    (places / "weights" / str(uuid.uuid4())).mkdir()
    (places / "weights" / "not-ours-at-all-x-y").mkdir()
    sweep_imports()
    assert {path.name for path in (places / "weights").iterdir()} == {str(model.pk), "not-ours-at-all-x-y"}


def test_progress_is_written_at_most_four_times_a_second(waiting: RegisteredModel) -> None:
    lease = claim(str(waiting.pk))
    assert lease is not None
    now = [0.0]
    writes: list[int] = []

    class Counting(Progress):
        def write(self) -> None:
            writes.append(self.done)
            super().write()

    progress = Counting(lease, clock=lambda: now[0])
    progress.start(1000)
    for _ in range(1000):
        now[0] += 0.01
        progress.add(1)
    assert len(writes) <= 41
    waiting.refresh_from_db()
    assert waiting.bytes_total == 1000
    assert waiting.bytes_done >= 950
