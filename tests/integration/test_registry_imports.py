"""Imports of local files and of container images, from the request to the outcome."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from iam.actors import Actor
from registry import services
from registry.importing import local as local_module
from registry.importing.progress import Progress
from registry.importing.run import run
from registry.models import ModelStatus
from registry.selectors import facts_of, pull_auth
from registry.services import ImportSpec
from registry.spec import ModelFacts
from registry.weights import weights_folder
from tests.support_imports import imported, prepare, why
from tests.support_model_files import folder_files, write_folder, write_gguf

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def places(settings: Any, tmp_path: Path, db: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    return prepare(settings, tmp_path, monkeypatch)


def test_a_local_gguf_is_linked_not_copied_and_read(editor_actor: Actor, places: Path) -> None:
    source = write_gguf(places / "models" / "sub" / "tiny.gguf")
    model = imported(editor_actor, path="sub/tiny.gguf")
    assert (model.status, model.task, model.entry_file) == (ModelStatus.READY, "llm", "tiny.gguf")
    assert model.weights_path == str(weights_folder(str(model.pk)))
    brought = Path(model.weights_path) / "tiny.gguf"
    assert brought.stat().st_ino == source.stat().st_ino
    assert model.size_bytes == model.bytes_done == model.bytes_total == source.stat().st_size
    assert model.facts["context_length"] == 2048
    assert (model.lease_token, model.lease_until) == ("", None)
    facts = facts_of(model)
    assert (facts.weights_path, facts.entry_file) == (model.weights_path, "tiny.gguf")


def test_a_chosen_task_stays(editor_actor: Actor, places: Path) -> None:
    write_gguf(places / "models" / "tiny.gguf")
    assert imported(editor_actor, path="tiny.gguf", task="embedding").task == "embedding"


def test_a_file_that_only_its_owner_may_read_is_copied_for_the_container(
    editor_actor: Actor, places: Path
) -> None:
    source = write_gguf(places / "models" / "tiny.gguf")
    source.chmod(0o600)
    model = imported(editor_actor, path="tiny.gguf")
    brought = Path(model.weights_path) / "tiny.gguf"
    assert brought.stat().st_ino != source.stat().st_ino
    assert brought.stat().st_mode & 0o777 == 0o644
    assert brought.read_bytes() == source.read_bytes()


def test_another_disk_means_a_copy_with_progress(
    editor_actor: Actor, places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_gguf(places / "models" / "tiny.gguf", rows=4096)

    def other_disk(*args: object, **kwargs: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    seen: list[int] = []
    write = Progress.write
    monkeypatch.setattr(os, "link", other_disk)
    monkeypatch.setattr(local_module, "CHUNK", 16 * 1024)
    monkeypatch.setattr("registry.importing.progress.INTERVAL_S", 0)
    monkeypatch.setattr(Progress, "write", lambda self: (seen.append(self.done), write(self)))
    model = imported(editor_actor, path="tiny.gguf")
    assert model.status == ModelStatus.READY
    assert len(seen) > 10
    assert seen == sorted(seen)


def test_a_folder_with_one_gguf_needs_no_name(editor_actor: Actor, places: Path) -> None:
    write_gguf(places / "models" / "one" / "a.gguf")
    assert imported(editor_actor, path="one").entry_file == "a.gguf"


def test_a_folder_with_several_gguf_models_asks_which(editor_actor: Actor, places: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        write_gguf(places / "models" / "two" / name)
    told = why(imported(editor_actor, path="two"))
    assert told.code == "gguf_several"
    assert "a.gguf, b.gguf" in told.message


def test_a_hugging_face_folder_for_vllm_follows_links_inside_the_root(
    editor_actor: Actor, places: Path
) -> None:
    write_folder(places / "models" / "blobs")
    snapshot = places / "models" / "snapshot"
    snapshot.mkdir()
    for name in folder_files():
        (snapshot / name).symlink_to(f"../blobs/{name}")
    (snapshot / ".cache").mkdir()
    model = imported(editor_actor, path="snapshot", framework="vllm")
    assert (model.status, model.entry_file, model.task) == (ModelStatus.READY, "", "llm")
    names = sorted(path.name for path in Path(model.weights_path).iterdir())
    assert names == sorted(folder_files())
    assert not any(path.is_symlink() for path in Path(model.weights_path).iterdir())


def test_a_link_out_of_the_root_inside_a_folder_ends_the_import(editor_actor: Actor, places: Path) -> None:
    folder = write_folder(places / "models" / "m")
    (places / "secret").write_text("s3cret")
    (folder / "notes.txt").symlink_to(places / "secret")
    model = imported(editor_actor, path="m", framework="vllm")
    assert why(model).code == "path_outside_root"
    assert not list(places.glob("weights/*/notes.txt"))


def test_a_file_swapped_after_the_page_was_sent_is_caught_by_the_import(
    editor_actor: Actor, places: Path
) -> None:
    source = write_gguf(places / "models" / "tiny.gguf")
    model = services.import_model(editor_actor, ImportSpec("m", "llama-cpp", "local", path="tiny.gguf"))
    (places / "secret.gguf").write_bytes(source.read_bytes())
    source.unlink()
    source.symlink_to(places / "secret.gguf")
    run(str(model.pk))
    model.refresh_from_db()
    assert why(model).code == "path_outside_root"


def test_a_file_that_stops_being_gguf_and_is_retried(editor_actor: Actor, places: Path) -> None:
    source = write_gguf(places / "models" / "tiny.gguf")
    good = source.read_bytes()
    model = services.import_model(editor_actor, ImportSpec("m", "llama-cpp", "local", path="tiny.gguf"))
    source.write_bytes(b"<html>not any more</html>")
    run(str(model.pk))
    model.refresh_from_db()
    told = why(model)
    assert told.code == "not_gguf"
    assert "a web page" in told.message
    source.write_bytes(good)
    services.retry_import(editor_actor, model)
    run(str(model.pk))
    model.refresh_from_db()
    assert (model.status, model.reason_code) == (ModelStatus.READY, "")


def test_a_triton_repository(editor_actor: Actor, places: Path) -> None:
    version = places / "models" / "repo" / "vision" / "1"
    version.mkdir(parents=True)
    (version / "model.onnx").write_bytes(b"x")
    model = imported(editor_actor, path="repo", framework="triton")
    assert (model.status, model.task) == (ModelStatus.READY, "other")
    assert (Path(model.weights_path) / "vision" / "1" / "model.onnx").read_bytes() == b"x"


def test_a_custom_image_is_ready_at_once_and_its_secrets_are_ciphertext(owner_actor: Actor) -> None:
    model = imported(
        owner_actor,
        framework="custom",
        source="image",
        image="registry.example/team/server:1.0",
        port=9000,
        health_path="/ready",
        command=("--a", "b c"),
        environment={"KEY": "s3cret-value"},
        registry_username="bot",
        registry_password="pull-password",
    )
    assert (model.status, model.task, model.weights_path) == (ModelStatus.READY, "llm", "")
    assert facts_of(model) == ModelFacts(
        name=model.name,
        task="llm",
        image="registry.example/team/server:1.0",
        port=9000,
        health_path="/ready",
        command=("--a", "b c"),
        environment={"KEY": "s3cret-value"},
        known={"format": "image"},
    )
    auth = pull_auth(model)
    assert auth is not None
    assert (auth.username, auth.password) == ("bot", "pull-password")
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("SELECT environment, registry_password FROM registry_registeredmodel")
        stored = str(cursor.fetchall())
    assert "s3cret-value" not in stored
    assert "pull-password" not in stored


def test_a_custom_image_with_model_files_gets_them_mounted(editor_actor: Actor, places: Path) -> None:
    write_gguf(places / "models" / "tiny.gguf")
    model = imported(editor_actor, framework="custom", source="image", image="a/b", port=1, path="tiny.gguf")
    assert model.status == ModelStatus.READY
    assert facts_of(model).weights_path == str(weights_folder(str(model.pk)))
    assert model.facts["architecture"] == "llama"
