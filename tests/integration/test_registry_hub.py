"""Downloads from a hub that speaks the real routes, and the ways in which they fail."""

from __future__ import annotations

import errno
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from config.celery import app
from iam.actors import Actor
from registry import services
from registry.importing import hub as hub_module
from registry.importing import local as local_module
from registry.importing.run import run
from registry.models import ModelStatus
from registry.weights import weights_folder
from tests.support_hub import COMMIT, Hub, Repo, running_hub
from tests.support_imports import gguf_bytes, imported, prepare, why
from tests.support_model_files import folder_files, write_gguf

pytestmark = pytest.mark.django_db
TOKEN = "hf_good"


@pytest.fixture(autouse=True)
def places(settings: Any, tmp_path: Path, db: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    return prepare(settings, tmp_path, monkeypatch)


@pytest.fixture
def hub(settings: Any) -> Iterator[Hub]:
    with running_hub() as running:
        settings.HF_ENDPOINT = running.endpoint
        yield running


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


def test_no_call_to_the_hub_waits_for_ever() -> None:
    timeout = hub_module.get_session().timeout
    assert timeout.read == timeout.connect == hub_module.TIMEOUT_S


def test_a_hub_that_accepts_and_never_answers(
    editor_actor: Actor, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings.HF_ENDPOINT = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setattr(hub_module, "TIMEOUT_S", 0.2)
        told = why(imported(editor_actor, source="huggingface", repo_id="org/model"))
    assert told.code == "hub_unreachable"


def test_the_worker_knows_the_tasks_by_the_names_they_are_sent_under(settings: Any) -> None:
    app.loader.import_default_modules()
    assert {"registry.tasks.import_model", "registry.tasks.sweep_imports"} <= set(app.tasks)
    assert app.amqp.router.route({}, "registry.tasks.import_model")["queue"].name == "transfers"


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
