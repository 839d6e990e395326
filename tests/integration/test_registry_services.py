"""Asking for imports, changing and deleting models: who may, and what bad input says."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from django.core.exceptions import PermissionDenied, ValidationError
from kombu.exceptions import OperationalError

from config.errors import Conflict
from endpoints.models import Endpoint, InstanceType, Region, Revision
from iam.actors import Actor
from registry import live, services
from registry.frameworks import load
from registry.importing.run import run
from registry.models import Framework, ModelStatus, RegisteredModel
from registry.services import ImportSpec
from registry.weights import weights_folder
from tests.support_model_files import write_folder, write_gguf

pytestmark = pytest.mark.django_db
LOCAL = ImportSpec(name="m", framework="llama-cpp", source="local", path="tiny.gguf")
HUB: dict[str, Any] = {"name": "m", "framework": "vllm", "source": "huggingface", "repo_id": "org/model"}
IMAGE: dict[str, Any] = {"name": "m", "framework": "custom", "source": "image", "image": "a/b:1", "port": 80}


@pytest.fixture(autouse=True)
def places(settings: Any, tmp_path: Path, db: None) -> Path:
    settings.BERTH_MODELS_ROOT = tmp_path / "models"
    settings.BERTH_WEIGHTS_DIR = tmp_path / "weights"
    settings.BERTH_HOME = tmp_path
    write_gguf(tmp_path / "models" / "tiny.gguf")
    (tmp_path / "models" / "page.gguf").write_text("<html>sign in</html>")
    (tmp_path / "outside.gguf").write_bytes(b"GGUF")
    (tmp_path / "models" / "out.gguf").symlink_to(tmp_path / "outside.gguf")
    load()
    return tmp_path


def errors_of(actor: Actor, **values: Any) -> dict[str, list[str]]:
    with pytest.raises(ValidationError) as caught:
        services.import_model(actor, ImportSpec(**values))
    assert not RegisteredModel.objects.exists()
    return caught.value.message_dict


@pytest.mark.parametrize(
    ("values", "field", "words"),
    [
        ({"name": ""}, "name", "Enter a name"),
        ({"name": "x" * 81}, "name", "1 to 80"),
        ({"name": "<script>alert(1)</script>"}, "name", "letters"),
        ({"name": "--model"}, "name", "begin with"),
        ({"name": "two words"}, "name", "without spaces"),
        ({"framework": "nonsense"}, "framework", "Choose one"),
        ({"source": "ftp"}, "source", "Choose one"),
        ({"source": "image"}, "framework", "Custom container"),
        ({"framework": "custom"}, "framework", "needs a container image"),
        ({"task": "poetry"}, "task", "Choose one"),
        ({"task": "other"}, "task", "does not serve"),
        ({"path": ""}, "path", "under"),
        ({"path": "../outside.gguf"}, "path", "outside the models root"),
        ({"path": "/etc/passwd"}, "path", "outside the models root"),
        ({"path": "out.gguf"}, "path", "outside the models root"),
        ({"path": "no-such.gguf"}, "path", "no file or folder"),
        ({"path": "page.gguf"}, "path", "a web page"),
        ({"settings": {"max_sequences": "many"}}, "settings.max_sequences", "whole number"),
        ({"settings": {"colour": "red"}}, "settings.colour", "no setting"),
    ],
)
def test_bad_input_for_a_local_import(
    editor_actor: Actor, values: dict[str, Any], field: str, words: str
) -> None:
    base = {"name": "m", "framework": "llama-cpp", "source": "local", "path": "tiny.gguf"}
    errors = errors_of(editor_actor, **{**base, **values})
    assert list(errors) == [field]
    assert words in errors[field][0]


def test_the_root_is_named_when_a_path_leads_out(editor_actor: Actor, places: Path) -> None:
    base = {"name": "m", "framework": "llama-cpp", "source": "local"}
    assert str(places / "models") in errors_of(editor_actor, **base, path="../x")["path"][0]


def test_a_single_file_is_no_folder(editor_actor: Actor) -> None:
    values = {"name": "m", "framework": "vllm", "source": "local", "path": "tiny.gguf"}
    assert "whole folder" in errors_of(editor_actor, **values)["path"][0]


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"repo_id": ""}, "repo_id"),
        ({"repo_id": "a/b/c"}, "repo_id"),
        ({"repo_id": "../../etc"}, "repo_id"),
        ({"repo_id": "a/b?x=1"}, "repo_id"),
        ({"repo_id": "http://169.254.169.254/latest"}, "repo_id"),
        ({"repo_id": "-a/b"}, "repo_id"),
        ({"repo_id": "a/" + "b" * 97}, "repo_id"),
        ({"revision": "a b"}, "revision"),
        ({"revision": "../x"}, "revision"),
        ({"files": ("../*",)}, "files"),
    ],
)
def test_bad_input_for_a_hub_import(editor_actor: Actor, values: dict[str, Any], field: str) -> None:
    assert list(errors_of(editor_actor, **{**HUB, **values})) == [field]


@pytest.mark.parametrize(
    ("text", "repo_id"),
    [
        ("Qwen/Qwen2.5-0.5B-Instruct", "Qwen/Qwen2.5-0.5B-Instruct"),
        (" gpt2 ", "gpt2"),
        ("https://huggingface.co/BAAI/bge-m3", "BAAI/bge-m3"),
        ("https://huggingface.co/BAAI/bge-m3/tree/main", "BAAI/bge-m3"),
    ],
)
def test_repositories_as_people_write_them(editor_actor: Actor, text: str, repo_id: str) -> None:
    assert (
        services.import_model(editor_actor, ImportSpec(**{**HUB, "repo_id": text})).source_ref["repo_id"]
        == repo_id
    )


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"image": ""}, "image"),
        ({"image": "team/UPPER"}, "image"),
        ({"image": "a b"}, "image"),
        ({"image": "a/b:"}, "image"),
        ({"image": "--privileged"}, "image"),
        ({"image": "a" * 501}, "image"),
        ({"port": 0}, "port"),
        ({"port": 65536}, "port"),
        ({"port": "http"}, "port"),
        ({"port": True}, "port"),
        ({"port": ""}, "port"),
        ({"health_path": "health"}, "health_path"),
        ({"health_path": "/a b"}, "health_path"),
        ({"environment": {"1A": "x"}}, "environment"),
        ({"environment": {"A=B": "x"}}, "environment"),
        ({"environment": {"A": 1}}, "environment"),
        ({"environment": {"A": "nul\0"}}, "environment"),
        ({"environment": {f"A{n}": "x" for n in range(201)}}, "environment"),
        ({"command": ("x\0",)}, "command"),
        ({"registry_username": "bot"}, "registry_password"),
        ({"registry_password": "secret"}, "registry_username"),
        ({"path": "../outside.gguf"}, "path"),
    ],
)
def test_bad_input_for_an_image(owner_actor: Actor, values: dict[str, Any], field: str) -> None:
    assert list(errors_of(owner_actor, **{**IMAGE, **values})) == [field]


@pytest.mark.parametrize(
    "image",
    [
        "nginx",
        "team/server",
        "localhost:5000/team/server:1.0",
        "[::1]:5000/a",
        "registry.example.com/a/b__c/d-e:v1.0_x",
        "a@sha256:" + "0" * 64,
        "a:1@sha256:" + "0" * 64,
    ],
)
def test_images_as_people_write_them(editor_actor: Actor, image: str, settings: Any) -> None:
    settings.BERTH_IMAGE_REGISTRIES = ["*"]
    assert (
        services.import_model(editor_actor, ImportSpec(**{**IMAGE, "image": image})).source_ref["image"]
        == image
    )


def test_every_fields_error_comes_at_once(editor_actor: Actor) -> None:
    values = {**IMAGE, "name": "", "image": "", "port": "", "settings": {"a": 1}, "environment": {"": "x"}}
    assert set(errors_of(editor_actor, **values)) == {"name", "image", "port", "settings.a", "environment"}


def test_a_duplicate_name_is_refused_in_the_same_project_only(
    editor_actor: Actor, outsider_actor: Actor
) -> None:
    services.import_model(editor_actor, LOCAL)
    with pytest.raises(ValidationError) as caught:
        services.import_model(editor_actor, LOCAL)
    assert "already a model named m" in caught.value.message_dict["name"][0]
    services.import_model(outsider_actor, LOCAL)


def test_two_requests_at_once_with_one_name_leave_one_model(editor_actor: Actor) -> None:
    services.import_model(editor_actor, LOCAL)
    with mock.patch.object(services, "_refuse_duplicate"), pytest.raises(ValidationError) as caught:
        services.import_model(editor_actor, LOCAL)
    assert list(caught.value.message_dict) == ["name"]


def test_a_disabled_framework_takes_no_new_models(editor_actor: Actor) -> None:
    Framework.objects.filter(slug="llama-cpp").update(enabled=False)
    values = {"name": "m", "framework": "llama-cpp", "source": "local", "path": "tiny.gguf"}
    assert list(errors_of(editor_actor, **values)) == ["framework"]


def test_viewers_change_nothing_and_other_projects_are_out_of_reach(
    editor_actor: Actor, viewer_actor: Actor, outsider_actor: Actor
) -> None:
    with pytest.raises(PermissionDenied):
        services.import_model(viewer_actor, LOCAL)
    model = services.import_model(editor_actor, LOCAL)
    for actor in (viewer_actor, outsider_actor):
        for attempt in (
            lambda actor=actor: services.retry_import(actor, model),
            lambda actor=actor: services.update_model(actor, model, {"name": "n"}),
            lambda actor=actor: services.delete_model(actor, model),
        ):
            with pytest.raises(PermissionDenied):
                attempt()


def test_the_import_is_asked_for_after_the_commit_and_pages_are_told(
    editor_actor: Actor, django_capture_on_commit_callbacks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []
    told: list[tuple[str, str]] = []
    monkeypatch.setattr(services, "import_now", sent.append)
    monkeypatch.setattr(live, "_send", lambda project, model: told.append((project, model)))
    with django_capture_on_commit_callbacks(execute=True):
        model = services.import_model(editor_actor, LOCAL)
        assert sent == []
    assert sent == [str(model.pk)]
    assert told == [(editor_actor.project.pk, str(model.pk))]


def test_a_broker_that_is_away_loses_nothing(
    editor_actor: Actor, django_capture_on_commit_callbacks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*args: object, **kwargs: object) -> None:
        raise OperationalError("connection refused")

    monkeypatch.setattr("registry.queue.app.send_task", away)
    with django_capture_on_commit_callbacks(execute=True):
        model = services.import_model(editor_actor, LOCAL)
    model.refresh_from_db()
    assert model.status == ModelStatus.IMPORTING  # the sweep finds it


def test_only_a_failed_import_is_retried(editor_actor: Actor) -> None:
    model = services.import_model(editor_actor, LOCAL)
    with pytest.raises(Conflict):
        services.retry_import(editor_actor, model)
    run(str(model.pk))
    with pytest.raises(Conflict):
        services.retry_import(editor_actor, model)


def test_registry_credentials_are_an_admins_business(editor_actor: Actor, owner_actor: Actor) -> None:
    values = {**IMAGE, "registry_username": "bot", "registry_password": "s3cret"}
    assert "admin" in errors_of(editor_actor, **values)["registry_username"][0]
    model = services.import_model(owner_actor, ImportSpec(**values))
    with pytest.raises(ValidationError):
        services.update_model(editor_actor, model, {"registry_password": "other"})


def test_what_may_be_changed_and_what_not(owner_actor: Actor) -> None:
    model = services.import_model(owner_actor, ImportSpec(**IMAGE))
    changed = services.update_model(
        owner_actor,
        model,
        {
            "name": "n",
            "task": "embedding",
            "environment": {"A": "1"},
            "registry_username": "u",
            "registry_password": "p",
        },
    )
    changed.refresh_from_db()
    assert (changed.name, changed.task, changed.environment) == ("n", "embedding", '{"A": "1"}')
    for change in (
        {"source": "local"},
        {"path": "x"},
        {"task": ""},
        {"registry_username": ""},
        {"name": "a b"},
    ):
        with pytest.raises(ValidationError):
            services.update_model(owner_actor, model, change)


def endpoint_with(model: RegisteredModel, name: str) -> Endpoint:
    from django.utils import timezone

    region, _ = Region.objects.get_or_create(code="HCM", defaults={"name": "Ho Chi Minh City"})
    size, _ = InstanceType.objects.get_or_create(name="test-cpu", defaults={"family": "LOCAL"})
    endpoint = Endpoint.objects.create(
        project=model.project, region=region, name=name, requested_at=timezone.now()
    )
    Revision.objects.create(endpoint=endpoint, number=1, model=model, instance_type=size)
    return endpoint


def test_a_model_in_use_is_not_deleted_and_the_endpoints_are_named(
    editor_actor: Actor, django_capture_on_commit_callbacks: Any
) -> None:
    model = services.import_model(editor_actor, LOCAL)
    run(str(model.pk))
    endpoint = endpoint_with(model, "chat-01")
    with pytest.raises(Conflict, match="chat-01"), django_capture_on_commit_callbacks(execute=True):
        services.delete_model(editor_actor, model)
    assert weights_folder(str(model.pk)).is_dir()
    endpoint.delete()
    with django_capture_on_commit_callbacks(execute=True):
        services.delete_model(editor_actor, model)
    assert not RegisteredModel.objects.exists()
    assert not weights_folder(str(model.pk)).exists()


def test_an_endpoint_made_in_the_last_moment_still_protects_its_model(editor_actor: Actor) -> None:
    model = services.import_model(editor_actor, LOCAL)
    endpoint_with(model, "late")
    with mock.patch.object(services, "endpoints_using", side_effect=[[], ["late"]]), pytest.raises(Conflict):
        services.delete_model(editor_actor, model)


def test_deleting_leaves_the_users_own_file_alone(
    editor_actor: Actor, places: Path, django_capture_on_commit_callbacks: Any
) -> None:
    write_folder(places / "models" / "folder")
    model = services.import_model(editor_actor, LOCAL)
    run(str(model.pk))
    with django_capture_on_commit_callbacks(execute=True):
        services.delete_model(editor_actor, model)
    assert (places / "models" / "tiny.gguf").read_bytes().startswith(b"GGUF")
