"""Imports from the request to the outcome, with real files, a real hub server and real failures."""

from __future__ import annotations

import errno
import os
import subprocess
import uuid
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from iam.actors import Actor
from registry import services
from registry.errors import Reason, reason_of
from registry.frameworks import load
from registry.importing import hub as hub_module
from registry.importing import lease as lease_module
from registry.importing import local as local_module
from registry.importing.lease import LeaseLost, claim
from registry.importing.progress import Progress
from registry.importing.run import run
from registry.models import ModelStatus, RegisteredModel
from registry.selectors import facts_of, pull_auth
from registry.services import ImportSpec
from registry.spec import ModelFacts
from registry.tasks import sweep_imports
from registry.weights import weights_folder
from tests.support_hub import COMMIT, Hub, Repo, running_hub
from tests.support_model_files import folder_files, write_folder, write_gguf

pytestmark = pytest.mark.django_db
TOKEN = "hf_good"


@pytest.fixture(autouse=True)
def places(settings: Any, tmp_path: Path, db: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    settings.BERTH_MODELS_ROOT = tmp_path / "models"
    settings.BERTH_WEIGHTS_DIR = tmp_path / "weights"
    settings.BERTH_MODELS_ROOT.mkdir()
    settings.BERTH_HOME = tmp_path
    monkeypatch.setattr(hub_module, "RETRY_WAITS_S", (0.01, 0.01, 0.01))
    load()
    return tmp_path


@pytest.fixture
def hub(settings: Any) -> Iterator[Hub]:
    with running_hub() as running:
        settings.HF_ENDPOINT = running.endpoint
        yield running


def gguf_bytes(folder: Path, rows: int = 64) -> bytes:
    return write_gguf(folder / "made.gguf", rows=rows).read_bytes()


def imported(actor: Actor, **values: Any) -> RegisteredModel:
    """Import as the console does, with the worker's part done at once."""
    spec = ImportSpec(
        **{"name": f"m-{uuid.uuid4().hex[:8]}", "framework": "llama-cpp", "source": "local", **values}
    )
    model = services.import_model(actor, spec)
    run(str(model.pk))
    model.refresh_from_db()
    return model


def why(model: RegisteredModel) -> Reason:
    assert model.status == ModelStatus.FAILED
    told = reason_of(model)
    assert told is not None
    assert told.message
    assert told.action
    assert "%" not in told.message + told.action
    return told


# --- local ---------------------------------------------------------------------------------------------------


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


# --- Hugging Face --------------------------------------------------------------------------------------------


def test_a_repository_is_downloaded_at_a_pinned_commit(editor_actor: Actor, hub: Hub) -> None:
    files = folder_files() | {
        "onnx/model.onnx": b"x" * 500,
        "README.md": b"# hi",
        ".gitattributes": b"",
        "1_Pooling/config.json": b"{}",
    }
    hub.repos["org/model"] = Repo(files)
    model = imported(
        editor_actor, source="huggingface", repo_id=f"{hub.endpoint}/org/model/tree/main", framework="vllm"
    )
    assert model.status == ModelStatus.READY, model.reason_params
    assert model.source_ref == {"repo_id": "org/model", "revision": "main", "files": [], "commit": COMMIT}
    folder = Path(model.weights_path)
    brought = {
        str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }
    assert brought == {name: files[name] for name in (*folder_files(), "1_Pooling/config.json")}
    assert model.bytes_done == model.bytes_total == sum(map(len, brought.values()))
    assert all(COMMIT in request.path for request in hub.requests if "/resolve/" in request.path)
    assert not any("Authorization" in request.headers for request in hub.requests)


def test_one_gguf_of_several_is_chosen_by_a_pattern(editor_actor: Actor, hub: Hub, tmp_path: Path) -> None:
    content = gguf_bytes(tmp_path)
    hub.repos["org/gguf"] = Repo({"m-Q4_K_M.gguf": content, "m-Q8_0.gguf": content, "mmproj-m.gguf": content})
    told = why(imported(editor_actor, source="huggingface", repo_id="org/gguf"))
    assert told.code == "gguf_several"
    assert "m-Q4_K_M.gguf, m-Q8_0.gguf" in told.message
    model = imported(
        editor_actor, source="huggingface", repo_id="org/gguf", files=("*q4_k_m.gguf", "*Q4_K_M.gguf")
    )
    assert (model.status, model.entry_file) == (ModelStatus.READY, "m-Q4_K_M.gguf")
    assert [path.name for path in Path(model.weights_path).iterdir()] == ["m-Q4_K_M.gguf"]


def test_a_gguf_in_a_subfolder_is_opened_there(editor_actor: Actor, hub: Hub, tmp_path: Path) -> None:
    hub.repos["org/gguf"] = Repo({"q4/m.gguf": gguf_bytes(tmp_path)})
    model = imported(editor_actor, source="huggingface", repo_id="org/gguf")
    assert model.status == ModelStatus.READY, (model.reason_code, model.reason_params)
    assert (Path(model.weights_path) / model.entry_file).is_file()


@pytest.mark.parametrize(
    ("repo", "values", "code", "fix"),
    [
        (None, {}, "hub_repo_not_found", "token"),
        (Repo({}, private=True), {}, "hub_repo_not_found", "token"),
        (Repo({}, private=True), {"hub_token": "hf_wrong"}, "hub_repo_not_found", "token"),
        (Repo({}, private=True), {"hub_token": "garbage"}, "hub_token_refused", "token"),
        (Repo({}, gated=True), {}, "hub_gated", "token"),
        (Repo({}, gated=True), {"hub_token": "hf_wrong"}, "hub_gated", "token"),
        (Repo({"a.gguf": b""}), {"revision": "v9"}, "hub_revision_not_found", "again"),
        (Repo({"readme.txt": b""}), {}, "gguf_none", "again"),
        (Repo({"readme.txt": b""}), {"framework": "vllm"}, "weights_none", "again"),
        (Repo({"a.gguf": b""}), {"files": ("b.gguf",)}, "hub_files_none", "again"),
        (Repo({"a.gguf": b"<html>"}), {}, "not_gguf", "again"),
        (Repo({"a-00001-of-00002.gguf": b""}), {}, "gguf_shard_missing", "again"),
        (
            Repo({"model.safetensors": b"x", "a/../../../config.json": b"{}"}),
            {"framework": "vllm"},
            "weights_broken",
            "again",
        ),
    ],
)
def test_what_can_be_wrong_with_a_repository_is_told_apart(
    editor_actor: Actor,
    hub: Hub,
    places: Path,
    repo: Repo | None,
    values: dict[str, Any],
    code: str,
    fix: str,
) -> None:
    if repo is not None:
        hub.repos["org/model"] = repo
    told = why(imported(editor_actor, source="huggingface", repo_id="org/model", **values))
    assert (told.code, told.fix) == (code, fix)
    assert not (places / "config.json").exists()


@pytest.mark.parametrize("how", ["private", "gated"])
def test_a_token_opens_private_and_gated_repositories_on_retry(
    editor_actor: Actor, hub: Hub, tmp_path: Path, how: str
) -> None:
    hub.repos["org/model"] = Repo({"a.gguf": gguf_bytes(tmp_path)}, **{how: True})
    model = imported(editor_actor, source="huggingface", repo_id="org/model")
    assert why(model).fix == "token"
    services.retry_import(editor_actor, model, hub_token=TOKEN)
    run(str(model.pk))
    model.refresh_from_db()
    assert model.status == ModelStatus.READY
    assert model.hub_token == TOKEN
    # The CDN never sees it: tests/support_hub.py refuses such a request.
    assert hub.downloads()


def test_the_workers_own_token_is_never_used(
    editor_actor: Actor, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.repos["org/model"] = Repo({"a.gguf": gguf_bytes(tmp_path)}, private=True)
    assert why(imported(editor_actor, source="huggingface", repo_id="org/model")).code == "hub_repo_not_found"


def test_a_cut_connection_is_resumed_within_the_import(editor_actor: Actor, hub: Hub, tmp_path: Path) -> None:
    content = gguf_bytes(tmp_path, rows=4096)
    hub.repos["org/model"] = Repo({"a.gguf": content})
    hub.cut_after, hub.cuts = {"a.gguf": 100_000}, 2
    model = imported(editor_actor, source="huggingface", repo_id="org/model")
    assert model.status == ModelStatus.READY
    assert (Path(model.weights_path) / "a.gguf").read_bytes() == content
    assert [request.headers.get("Range") for request in hub.downloads()] == [
        None,
        "bytes=100000-",
        "bytes=200000-",
    ]


def test_a_line_that_stays_cut_fails_and_a_later_retry_goes_on_where_it_stopped(
    editor_actor: Actor, hub: Hub, tmp_path: Path
) -> None:
    content = gguf_bytes(tmp_path, rows=4096)
    hub.repos["org/model"] = Repo({"a.gguf": content})
    hub.cut_after = {"a.gguf": 0}
    model = imported(editor_actor, source="huggingface", repo_id="org/model")
    assert why(model).code == "hub_connection_lost"
    assert why(model).fix == "resume"
    assert len(hub.downloads()) == 1 + len(hub_module.RETRY_WAITS_S)
    hub.cut_after, hub.cuts = {"a.gguf": 150_000}, 1
    hub.status = {"a.gguf": 503}
    services.retry_import(editor_actor, model)
    run(str(model.pk))
    model.refresh_from_db()
    assert why(model).code == "hub_error"
    hub.status = {}
    services.retry_import(editor_actor, model)
    run(str(model.pk))
    model.refresh_from_db()
    assert model.status == ModelStatus.READY
    assert (Path(model.weights_path) / "a.gguf").read_bytes() == content
    assert hub.downloads()[-1].headers["Range"] == "bytes=150000-"
    assert sum("/revision/" in request.path for request in hub.requests) == 1  # the commit stayed pinned


def test_a_server_that_ignores_ranges_costs_time_not_correctness(
    editor_actor: Actor, hub: Hub, tmp_path: Path
) -> None:
    content = gguf_bytes(tmp_path, rows=4096)
    hub.repos["org/model"] = Repo({"a.gguf": content})
    hub.cut_after, hub.cuts, hub.ignore_range = {"a.gguf": 100_000}, 1, True
    model = imported(editor_actor, source="huggingface", repo_id="org/model")
    assert (Path(model.weights_path) / "a.gguf").read_bytes() == content
    assert model.bytes_done == model.bytes_total == len(content)


@pytest.mark.parametrize("size", [50, 5000])
def test_wrong_content_is_fetched_once_more_and_then_refused(
    editor_actor: Actor, hub: Hub, size: int
) -> None:
    hub.repos["org/model"] = Repo({"a.gguf": b"GGUF" + b"x" * size})
    hub.corrupt = {"a.gguf"}
    model = imported(editor_actor, source="huggingface", repo_id="org/model")
    assert why(model).code == "checksum_mismatch"
    assert len(hub.downloads()) == 2
    assert not list(weights_folder(str(model.pk)).rglob("a.gguf"))


def test_a_hub_that_is_not_there(editor_actor: Actor, settings: Any) -> None:
    settings.HF_ENDPOINT = "http://127.0.0.1:1"
    told = why(imported(editor_actor, source="huggingface", repo_id="org/model"))
    assert (told.code, told.fix) == ("hub_unreachable", "resume")
    assert "http://127.0.0.1:1" in told.message


def test_no_room_is_seen_before_the_first_byte(
    editor_actor: Actor, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = gguf_bytes(tmp_path)
    hub.repos["org/model"] = Repo({"a.gguf": content})
    usage = local_module.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(local_module.shutil, "disk_usage", lambda path: usage._replace(free=len(content) - 1))
    told = why(imported(editor_actor, source="huggingface", repo_id="org/model"))
    assert told.code == "no_space"
    assert str(len(content)) in told.message
    assert not hub.downloads()


@pytest.fixture
def small_disk(places: Path, settings: Any) -> Iterator[Path]:
    """A weights folder on a disk of 256 KB: a real one where we may mount, else none is yielded."""
    folder = places / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a tmpfs needs root; the injected error covers the rest")
    settings.BERTH_WEIGHTS_DIR = folder
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_up_meanwhile_and_is_resumed_when_there_is_room(
    editor_actor: Actor, hub: Hub, tmp_path: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = gguf_bytes(tmp_path, rows=8192)
    hub.repos["org/model"] = Repo({"a.gguf": content})
    # The room is there when it is asked for; someone else takes it later.
    monkeypatch.setattr(hub_module, "needs_room", lambda target, count: None)
    model = imported(editor_actor, source="huggingface", repo_id="org/model")
    told = why(model)
    assert (told.code, told.fix) == ("no_space", "resume")
    kept = sum(path.stat().st_size for path in small_disk.rglob("*.part"))
    assert 100_000 < kept <= 256 * 1024
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    services.retry_import(editor_actor, model)
    run(str(model.pk))
    model.refresh_from_db()
    assert model.status == ModelStatus.READY
    assert hub.downloads()[-1].headers["Range"] == f"bytes={kept}-"
    assert (Path(model.weights_path) / "a.gguf").read_bytes() == content


def test_a_full_disk_while_copying(
    editor_actor: Actor, places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_gguf(places / "models" / "tiny.gguf")

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(local_module, "bring", full)
    assert why(imported(editor_actor, path="tiny.gguf")).code == "no_space"


def test_a_weights_folder_that_may_not_be_written(editor_actor: Actor, places: Path) -> None:
    write_gguf(places / "models" / "tiny.gguf")
    (places / "weights").write_text("a file is in the way")
    assert why(imported(editor_actor, path="tiny.gguf")).code == "storage_error"


def test_a_defect_of_ours_ends_in_a_reason_and_not_in_a_loop(
    editor_actor: Actor, places: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write_gguf(places / "models" / "tiny.gguf")
    monkeypatch.setattr("registry.importing.run.import_local", lambda *args: 1 / 0)
    told = why(imported(editor_actor, path="tiny.gguf"))
    assert told.code == "import_crashed"
    assert "ZeroDivisionError" in told.message
    assert "Traceback" in caplog.text


# --- leases --------------------------------------------------------------------------------------------------


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
