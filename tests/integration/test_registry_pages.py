"""The registry in the console: what each person sees and may do, and that nothing typed is lost."""

from __future__ import annotations

import re
import uuid
from pathlib import Path
from typing import Any

import pytest
from django.template.loader import render_to_string
from django.test import Client
from django.urls import reverse

from iam.actors import Actor
from registry import services
from registry.importing.run import run
from registry.models import ModelStatus, RegisteredModel
from registry.services import ImportSpec
from tests.support_endpoints import load_data, new_endpoint, ready_model
from tests.support_model_files import write_gguf

pytestmark = pytest.mark.django_db
LIST, IMPORT = "/registry/", "/registry/import/"


@pytest.fixture(autouse=True)
def places(settings: Any, tmp_path: Path, db: None) -> Path:
    settings.BERTH_MODELS_ROOT = tmp_path / "models"
    settings.BERTH_WEIGHTS_DIR = tmp_path / "weights"
    write_gguf(tmp_path / "models" / "sub" / "tiny.gguf")
    load_data()
    return tmp_path


@pytest.fixture
def model(editor_actor: Actor) -> RegisteredModel:
    return ready_model(editor_actor.project, "tiny")


def page_of(client: Client, url: str) -> str:
    answer = client.get(url)
    assert answer.status_code == 200, answer.content
    return answer.content.decode()


def local(**values: str) -> dict[str, str]:
    return {"name": "m", "source": "local", "framework": "llama-cpp", "path": "sub/tiny.gguf", **values}


@pytest.mark.parametrize("path", [LIST, IMPORT, "/registry/{id}/", "/registry/{id}/state/"])
def test_anonymous_people_are_sent_to_sign_in(model: RegisteredModel, path: str) -> None:
    answer = Client().get(path.format(id=model.pk))
    assert answer.status_code == 302
    assert "/accounts/login/" in answer["Location"]


def test_who_may_open_what(
    model: RegisteredModel,
    owner_client: Client,
    editor_client: Client,
    viewer_client: Client,
    outsider_client: Client,
) -> None:
    detail = reverse("registry:detail", args=[model.pk])
    allowed = {
        path: [
            client.get(path).status_code
            for client in (owner_client, editor_client, viewer_client, outsider_client)
        ]
        for path in (LIST, IMPORT, detail, f"{detail}state/")
    }
    assert allowed == {
        LIST: [200, 200, 200, 200],
        IMPORT: [200, 200, 403, 200],
        detail: [200, 200, 200, 404],
        f"{detail}state/": [200, 200, 200, 404],
    }
    assert "tiny" in page_of(viewer_client, LIST)
    assert str(model.pk) not in page_of(outsider_client, LIST)


def test_who_may_change_what(
    model: RegisteredModel, viewer_client: Client, outsider_client: Client, editor_client: Client
) -> None:
    for verb in ("retry", "delete"):
        url = reverse(f"registry:{verb}", args=[model.pk])
        assert viewer_client.post(url).status_code == 403
        assert outsider_client.post(url).status_code == 404
        assert Client().post(url).status_code == 302
        assert editor_client.get(url).status_code == 405
    assert viewer_client.post(IMPORT, local()).status_code == 403
    assert RegisteredModel.objects.count() == 1


def test_a_viewer_is_offered_no_buttons(model: RegisteredModel, viewer_client: Client) -> None:
    for path in (LIST, reverse("registry:detail", args=[model.pk])):
        html = page_of(viewer_client, path)
        assert "formaction" not in html
        assert IMPORT not in html


def test_the_first_page_leads_to_the_first_import(editor_client: Client, viewer_client: Client) -> None:
    assert IMPORT in page_of(editor_client, LIST)
    assert "No model yet" in page_of(viewer_client, LIST)


def test_files_under_the_models_root_are_offered(editor_client: Client, places: Path) -> None:
    html = page_of(editor_client, IMPORT)
    assert '<option value="sub/tiny.gguf">' in html
    assert str(places / "models") in html
    assert "Qwen/Qwen2.5-0.5B-Instruct" in html  # the catalog


def test_an_import_from_the_form_to_ready(editor_client: Client, editor_actor: Actor) -> None:
    sent = local(**{"setting.llama-cpp.max_sequences": "2", "setting.vllm.max_sequences": "nonsense"})
    answer = editor_client.post(IMPORT, sent)
    model = RegisteredModel.objects.get()
    assert answer.status_code == 302
    assert answer["Location"] == reverse("registry:detail", args=[model.pk])
    assert (model.project, model.created_by, model.settings) == (
        editor_actor.project,
        editor_actor.user,
        {"max_sequences": 2},
    )
    html = page_of(editor_client, answer["Location"])
    assert 'hx-trigger="every 1s"' in html
    run(str(model.pk))
    html = page_of(editor_client, answer["Location"])
    assert "hx-trigger" not in html
    assert "2048" in html
    assert f"?model={model.pk}" in html


def test_a_repository_from_the_form(editor_client: Client) -> None:
    sent = {
        "name": "q",
        "source": "huggingface",
        "framework": "llama-cpp",
        "repo_id": "org/gguf",
        "patterns": "*Q4_K_M.gguf, *.json",
        "hub_token": " hf_secret ",
    }
    assert editor_client.post(IMPORT, sent).status_code == 302
    model = RegisteredModel.objects.get()
    assert model.source_ref == {
        "repo_id": "org/gguf",
        "revision": "main",
        "files": ["*Q4_K_M.gguf", "*.json"],
    }
    assert model.hub_token == "hf_secret"
    html = page_of(editor_client, reverse("registry:detail", args=[model.pk]))
    assert "hf_secret" not in html
    assert "stored, encrypted" in html


def test_an_image_from_the_form_needs_no_framework(owner_client: Client) -> None:
    sent = {
        "name": "srv",
        "source": "image",
        "framework": "llama-cpp",  # the hidden select's value
        "task": "embedding",
        "image": "a/b:1",
        "port": "8000",
        "command": "--name 'two words' -v",
        "environment": "A=1\n\n# note\nB=x=y\n",
        "registry_username": "bot",
        "registry_password": "pull-secret",
        "model_files": "sub/tiny.gguf",
    }
    assert owner_client.post(IMPORT, sent).status_code == 302
    model = RegisteredModel.objects.get()
    assert model.framework_id == "custom"
    assert model.source_ref == {
        "image": "a/b:1",
        "port": 8000,
        "health_path": "/health",
        "command": ["--name", "two words", "-v"],
        "path": "sub/tiny.gguf",
    }
    assert model.environment == '{"A": "1", "B": "x=y"}'
    html = page_of(owner_client, reverse("registry:detail", args=[model.pk]))
    assert "pull-secret" not in html
    assert "x=y" not in html


def test_nothing_typed_is_lost_except_secrets(owner_client: Client) -> None:
    sent = {
        "name": "bad name",
        "source": "image",
        "framework": "vllm",
        "task": "embedding",
        "path": "typed/path",
        "repo_id": "typed/repo",
        "revision": "typed-revision",
        "patterns": "typed-pattern",
        "hub_token": "SECRET-1",
        "image": "Typed Image",
        "port": "typed-port",
        "health_path": "typed health",
        "command": "typed 'open quote",
        "environment": "typed-line-without-equals",
        "model_files": "typed-model-files",
        "registry_username": "typed-user",
        "registry_password": "SECRET-2",
        "setting.vllm.max_sequences": "typed-number",
    }
    answer = owner_client.post(IMPORT, sent)
    html = answer.content.decode()
    assert answer.status_code == 422
    for name, value in sent.items():
        if name in ("hub_token", "registry_password"):
            assert value not in html
        elif name not in ("source", "framework", "task"):
            assert value.replace("'", "&#x27;") in html, name
    for value in ("image", "vllm", "embedding"):
        assert re.search(rf'value="{value}"[^>]*(selected|checked)', html), value
    assert not RegisteredModel.objects.exists()


@pytest.mark.parametrize(
    ("values", "field", "words"),
    [
        ({"name": ""}, "name", "Enter a name"),
        ({"name": "<script>alert(1)</script>"}, "name", "Use 1 to 80"),
        ({"path": "../../etc/passwd"}, "path", "outside the models root"),
        ({"framework": "nonsense"}, "framework", "Choose one of the frameworks"),
        ({"task": "nonsense"}, "task", "Choose one of: llm"),
        ({"setting.llama-cpp.max_sequences": "0"}, "setting.llama-cpp.max_sequences", "1 to 256"),
        ({"source": "image"}, "image", "Enter an image"),
        ({"source": "image", "image": "a", "port": "x"}, "port", "1 to 65535"),
        ({"source": "image", "image": "a", "port": "1", "environment": "x"}, "environment", "Line 1"),
        ({"source": "image", "image": "a", "port": "1", "command": "'x"}, "command", "quotation mark"),
        ({"source": "image", "image": "a", "port": "1", "model_files": "../x"}, "model_files", "outside"),
        ({"source": "huggingface", "repo_id": "x y"}, "repo_id", "owner/name"),
        ({"source": "huggingface", "repo_id": "a/b", "patterns": "../x"}, "patterns", "patterns such as"),
    ],
)
def test_errors_stand_at_their_input(
    editor_client: Client, values: dict[str, str], field: str, words: str
) -> None:
    answer = editor_client.post(IMPORT, local(**values))
    assert answer.status_code == 422
    html = answer.content.decode()
    at = html.index(f'data-field="{field}"')
    end = html.find("data-field=", at + 10)
    assert words in html[at:end], html[at:end]
    assert "<script>alert" not in html


def test_an_editor_can_not_smuggle_registry_credentials_in(editor_client: Client) -> None:
    sent = local(source="image", image="a", port="1", registry_username="u", registry_password="p")
    assert editor_client.post(IMPORT, sent).status_code == 422
    assert not RegisteredModel.objects.exists()


def test_a_failed_import_says_why_and_offers_what_helps(editor_client: Client, editor_actor: Actor) -> None:
    spec = ImportSpec("m", "llama-cpp", "huggingface", repo_id="org/private", hub_token="hf_old")
    model = services.import_model(editor_actor, spec)
    RegisteredModel.objects.filter(pk=model.pk).update(
        status=ModelStatus.FAILED, reason_code="hub_repo_not_found", reason_params={"repo": "org/<b>private"}
    )
    url = reverse("registry:detail", args=[model.pk])
    html = page_of(editor_client, url)
    assert "org/&lt;b&gt;private is not there, or it is private" in html
    assert 'name="hub_token"' in html
    assert "hf_old" not in html
    assert f"{IMPORT}?from={model.pk}" in html
    answer = editor_client.post(reverse("registry:retry", args=[model.pk]), {"hub_token": "hf_new"})
    assert answer.status_code == 302
    model.refresh_from_db()
    assert (model.status, model.hub_token, model.reason_code) == (ModelStatus.IMPORTING, "hf_new", "")
    again = editor_client.post(reverse("registry:retry", args=[model.pk]), follow=True)
    assert "Only a failed import" in again.content.decode()


def test_importing_again_starts_from_the_same_values_without_secrets(
    editor_client: Client, outsider_client: Client, editor_actor: Actor
) -> None:
    spec = ImportSpec(
        "m",
        "vllm",
        "huggingface",
        repo_id="org/model",
        revision="v2",
        hub_token="hf_secret",
        settings={"max_context": 1234},
    )
    model = services.import_model(editor_actor, spec)
    html = page_of(editor_client, f"{IMPORT}?from={model.pk}")
    for value in ('value="org/model"', 'value="v2"', 'value="1234"', 'value="m"'):
        assert value in html
    assert "hf_secret" not in html
    assert 'value="org/model"' not in page_of(outsider_client, f"{IMPORT}?from={model.pk}").replace(
        '<option value="org/model">', ""
    )


def test_deleting(editor_client: Client, editor_actor: Actor) -> None:
    used = ready_model(editor_actor.project, "used")
    endpoint = new_endpoint(editor_actor, used)
    url = reverse("registry:detail", args=[used.pk])
    assert endpoint.name in page_of(editor_client, url)
    refused = editor_client.post(reverse("registry:delete", args=[used.pk]), follow=True)
    assert f"These endpoints use the model: {endpoint.name}" in refused.content.decode()
    free = ready_model(editor_actor.project, "free")
    editor_client.post(reverse("registry:delete", args=[free.pk]))
    assert list(RegisteredModel.objects.values_list("name", flat=True)) == ["used"]
    assert editor_client.get(f"/registry/{uuid.uuid4()}/").status_code == 404


@pytest.mark.parametrize("status", ModelStatus.values)
def test_a_row_renders_without_a_request_as_the_live_page_needs_it(editor_actor: Actor, status: str) -> None:
    model = ready_model(
        editor_actor.project, status=status, reason_code="no_space", bytes_done=10, bytes_total=20
    )
    html = render_to_string("registry/_row.html", {"model": model, "can_edit": True})
    assert html.startswith(f'<tr id="model-{model.pk}"')
    assert ("<progress" in html) == (status == ModelStatus.IMPORTING)
    assert ("formaction" in html) == (status == ModelStatus.FAILED)


def test_pages_hold_nothing_that_a_strict_policy_would_block(
    editor_client: Client, model: RegisteredModel
) -> None:
    for path in (LIST, IMPORT, reverse("registry:detail", args=[model.pk])):
        html = page_of(editor_client, path)
        assert not re.search(r"\sstyle=|\son[a-z]+=|javascript:|<style|hx-on", html)
        assert not re.search(r"<script(?![^>]*\ssrc=)", html)


def test_the_admin_shows_no_secret(owner_client: Client, owner_actor: Actor) -> None:
    user = owner_actor.user
    assert user is not None
    user.is_staff = user.is_superuser = True
    user.save()
    spec = ImportSpec(
        "m",
        "custom",
        "image",
        image="a",
        port=1,
        environment={"KEY": "SECRET-1"},
        registry_username="bot",
        registry_password="SECRET-2",
    )
    model = services.import_model(owner_actor, spec)
    RegisteredModel.objects.filter(pk=model.pk).update(hub_token="SECRET-3")
    for path in (
        "/admin/registry/registeredmodel/",
        f"/admin/registry/registeredmodel/{model.pk}/change/",
        "/admin/registry/framework/",
        "/admin/registry/framework/vllm/change/",
    ):
        assert "SECRET" not in page_of(owner_client, path)
    off = {"enabled": "", "confirmed": "yes"}
    assert owner_client.post("/admin/registry/framework/vllm/change/", off).status_code == 302
    model.framework.refresh_from_db()
