"""Models, frameworks and the catalog in the management API."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from iam.actors import Actor
from registry.importing.run import run
from registry.models import ModelStatus, RegisteredModel
from tests.support_endpoints import load_data, new_endpoint, ready_model
from tests.support_model_files import write_gguf

pytestmark = pytest.mark.django_db
URL = "/api/v1/models/"
JSON = "application/json"


@pytest.fixture(autouse=True)
def places(settings: Any, tmp_path: Path, db: None) -> Path:
    settings.BERTH_MODELS_ROOT = tmp_path / "models"
    settings.BERTH_WEIGHTS_DIR = tmp_path / "weights"
    write_gguf(tmp_path / "models" / "tiny.gguf")
    load_data()
    return tmp_path


def local(**values: Any) -> dict[str, Any]:
    return {"name": "m", "framework": "llama-cpp", "source": "local", "path": "tiny.gguf", **values}


def test_import_read_change_delete(editor_client: Client, editor_actor: Actor) -> None:
    answer = editor_client.post(URL, local(settings={"max_sequences": 2}), content_type=JSON)
    assert answer.status_code == 201, answer.content
    got = answer.json()
    assert (got["status"], got["status_reason"], got["task"]) == ("IMPORTING", None, "")
    assert got["progress"] == {"bytes_done": 0, "bytes_total": 0}
    assert got["source_ref"] == {"path": "tiny.gguf"}
    assert got["settings"] == {"max_sequences": 2}
    assert got["created_by"] == editor_actor.name
    run(got["id"])
    got = editor_client.get(f"{URL}{got['id']}/").json()
    assert (got["status"], got["task"], got["facts"]["architecture"]) == ("READY", "llm", "llama")
    assert got["size_bytes"] == got["progress"]["bytes_done"] > 0
    changed = editor_client.patch(f"{URL}{got['id']}/", {"name": "n"}, content_type=JSON)
    assert (changed.status_code, changed.json()["name"]) == (200, "n")
    page = editor_client.get(f"{URL}?status=READY&search=n").json()
    assert [item["id"] for item in page["results"]] == [got["id"]]
    assert page["next"] is None
    assert editor_client.delete(f"{URL}{got['id']}/").status_code == 204
    assert editor_client.get(f"{URL}{got['id']}/").status_code == 404


def test_secrets_go_in_and_never_come_out(owner_client: Client) -> None:
    sent = {
        "name": "m",
        "framework": "custom",
        "source": "image",
        "image": "a/b",
        "port": 8000,
        "environment": {"KEY": "SECRET-1"},
        "registry_username": "bot",
        "registry_password": "SECRET-2",
    }
    answer = owner_client.post(URL, sent, content_type=JSON)
    assert answer.status_code == 201, answer.content
    got = answer.json()
    assert got["environment_names"] == ["KEY"]
    assert got["has_registry_credentials"] is True
    patched = owner_client.patch(f"{URL}{got['id']}/", {"hub_token": "SECRET-3"}, content_type=JSON)
    assert patched.json()["has_hub_token"] is True
    for text in (answer, patched, owner_client.get(URL), owner_client.get(f"{URL}{got['id']}/")):
        assert b"SECRET" not in text.content
    assert RegisteredModel.objects.get().hub_token == "SECRET-3"


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, {"name", "framework", "source"}),
        (
            local(name="", path="../x", settings={"max_sequences": 0}),
            {"name", "path", "settings.max_sequences"},
        ),
        (local(source="image", framework="custom"), {"image", "port"}),
        (local(settings=[1]), {"settings"}),
        (local(source="image", framework="custom", image="a", port="x"), {"port"}),
        (local(files="x"), {"files"}),
        (local(environment={"A": {}}), {"environment.A"}),
        ([1], {"non_field_errors"}),
    ],
)
def test_bad_input_is_a_problem_with_every_field_named(
    editor_client: Client, body: Any, fields: set[str]
) -> None:
    answer = editor_client.post(URL, body, content_type=JSON)
    assert answer.status_code == 400, answer.content
    assert answer["Content-Type"] == "application/problem+json"
    assert set(answer.json()["errors"]) == fields


def test_what_can_not_be_changed_is_an_error_and_not_ignored(
    editor_client: Client, editor_actor: Actor
) -> None:
    model = ready_model(editor_actor.project)
    answer = editor_client.patch(f"{URL}{model.pk}/", {"path": "other.gguf", "name": "n"}, content_type=JSON)
    assert answer.status_code == 400
    assert set(answer.json()["errors"]) == {"path"}
    model.refresh_from_db()
    assert model.name == "tiny"


def test_a_failed_import_has_a_reason_and_is_retried(editor_client: Client, editor_actor: Actor) -> None:
    model = ready_model(
        editor_actor.project,
        status=ModelStatus.FAILED,
        reason_code="no_space",
        reason_params={"needed": 5, "free": 1},
    )
    got = editor_client.get(f"{URL}{model.pk}/").json()
    assert got["status_reason"]["code"] == "no_space"
    assert "5 more bytes" in got["status_reason"]["message"]
    assert got["status_reason"]["action"]
    again = editor_client.post(f"{URL}{model.pk}/retry/", {"hub_token": "t"}, content_type=JSON)
    assert (again.status_code, again.json()["status"]) == (200, "IMPORTING")
    twice = editor_client.post(f"{URL}{model.pk}/retry/", content_type=JSON)
    assert (twice.status_code, twice.json()["type"]) == (409, "urn:berth:problem:not-failed")


def test_a_model_in_use_is_409_and_names_the_endpoint(editor_client: Client, editor_actor: Actor) -> None:
    model = ready_model(editor_actor.project)
    endpoint = new_endpoint(editor_actor, model)
    answer = editor_client.delete(f"{URL}{model.pk}/")
    assert answer.status_code == 409
    assert endpoint.name in answer.json()["detail"]


def test_who_may_do_what(
    owner_client: Client,
    editor_client: Client,
    viewer_client: Client,
    outsider_client: Client,
    editor_actor: Actor,
) -> None:
    model = ready_model(editor_actor.project, status=ModelStatus.FAILED, reason_code="no_space")
    clients = (owner_client, editor_client, viewer_client, outsider_client, Client())
    detail = f"{URL}{model.pk}/"

    def codes(call: Any) -> list[int]:
        return [call(client).status_code for client in clients]

    assert codes(lambda c: c.get(URL)) == [200, 200, 200, 200, 401]
    assert codes(lambda c: c.get(detail)) == [200, 200, 200, 404, 401]
    assert codes(lambda c: c.patch(detail, {}, content_type=JSON)) == [200, 200, 403, 404, 401]
    assert codes(lambda c: c.post(f"{detail}retry/", content_type=JSON)) == [200, 409, 403, 404, 401]
    assert codes(lambda c: c.post(URL, {}, content_type=JSON)) == [400, 400, 403, 400, 401]
    refused = [client.delete(detail).status_code for client in clients[2:]]
    assert refused == [403, 404, 401]
    assert editor_client.delete(detail).status_code == 204
    assert outsider_client.get(URL).json()["results"] == []


@pytest.mark.parametrize("model_id", ["7b0e4b8a-55f5-4f3e-9d39-0d6f6f0a1c11", "x", "1"])
def test_an_id_that_is_none_is_404(editor_client: Client, model_id: str) -> None:
    assert editor_client.get(f"{URL}{model_id}/").status_code == 404


def test_frameworks_come_with_their_settings(viewer_client: Client) -> None:
    got = viewer_client.get("/api/v1/frameworks/").json()
    assert {item["slug"] for item in got["results"]} == {
        "llama-cpp",
        "vllm",
        "triton",
        "text-embeddings-inference",
        "custom",
    }
    vllm = next(item for item in got["results"] if item["slug"] == "vllm")
    setting = next(item for item in vllm["settings"] if item["key"] == "max_sequences")
    assert setting == {
        "key": "max_sequences",
        "label": "Max sequences",
        "type": "int",
        "help": setting["help"],
        "default": 256,
        "min": 1,
        "max": 4096,
        "choices": [],
    }
    assert (vllm["accepts"], vllm["device_kinds"]) == (["folder"], ["gpu"])


def test_the_catalog_is_the_reference_products(viewer_client: Client) -> None:
    entries = viewer_client.get("/api/v1/catalog/").json()["results"]
    assert len(entries) == 24
    assert entries[0] == {
        "task": "llm",
        "model": "google/gemma-2-9b-it",
        "cards": {"rtx2080": 3, "rtx4090": 1, "a40": 1},
        "limits": "with 2080: max context 22624",
        "minutes": 48,
    }


@pytest.mark.parametrize("path", ["frameworks", "catalog"])
def test_lists_need_a_sign_in(path: str) -> None:
    assert Client().get(f"/api/v1/{path}/").status_code == 401


def test_the_schema_describes_all_of_it(viewer_client: Client) -> None:
    schema = viewer_client.get("/api/schema/?format=json").json()
    for path in ("models/", "models/{id}/", "models/{id}/retry/", "frameworks/", "catalog/"):
        assert f"/api/v1/{path}" in schema["paths"]
    answered = schema["components"]["schemas"]["Model"]["properties"]
    for secret in ("hub_token", "environment", "registry_password"):
        assert answered.get(secret, {"writeOnly": True})["writeOnly"] is True
