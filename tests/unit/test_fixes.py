"""The ways out of a failure: what is offered for which cause, to whom, and what taking one does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.test import Client
from django.urls import reverse

from config.errors import Conflict
from endpoints import fixes, services
from endpoints.models import Endpoint, InstanceType, Node, Region, Status
from endpoints.specs import health_check
from iam.actors import Actor
from registry import services as registry
from registry.models import ModelStatus, RegisteredModel, Source
from registry.weights import weights_folder
from tests.support_endpoints import load_data, new_endpoint, ready_model

pytestmark = pytest.mark.django_db

GIB = 2**30


@pytest.fixture(autouse=True)
def machine(db: None) -> Node:
    """One machine of 4 CPUs and 20 GiB, without GPUs."""
    load_data()
    region = Region.objects.get(code="HCM")
    Node.objects.all().delete()
    return Node.objects.create(name="here", region=region, cpus=4, memory_bytes=20 * GIB)


def failing(endpoint: Endpoint, code: str, **params: Any) -> Endpoint:
    """The endpoint as the reconciler leaves it after that failure."""
    Endpoint.objects.filter(pk=endpoint.pk).update(
        status=Status.FAILED, reason_code=code, reason_params=params
    )
    return Endpoint.objects.select_related("revision__model__framework", "revision__instance_type").get(
        pk=endpoint.pk
    )


def custom(actor: Actor, name: str = "own-server") -> RegisteredModel:
    """A container of the user's own that is said to listen on 8000."""
    return ready_model(
        actor.project,
        name,
        "custom",
        source=Source.IMAGE,
        source_ref={"image": "example/own:1", "port": 8000, "health_path": "/health"},
        weights_path="",
        entry_file="",
        size_bytes=0,
    )


def keys(endpoint: Endpoint) -> list[str]:
    """What is offered."""
    return [item.key for item in fixes.offered(endpoint)]


def test_the_port_it_listens_on_is_offered_and_used_by_this_endpoint_alone(editor_actor: Actor) -> None:
    model = custom(editor_actor)
    mine = failing(
        new_endpoint(editor_actor, model), "wrong_port", ports=[8080, 9090], listens="8080, 9090", port=8000
    )
    other = new_endpoint(editor_actor, model, name="other")
    assert [(item.key, item.label) for item in fixes.offered(mine)] == [
        ("use_port:8080", "Use port 8080"),
        ("use_port:9090", "Use port 9090"),
    ]
    fixed = fixes.apply(actor=editor_actor, endpoint=mine, key="use_port:8080")
    assert fixed.revision is not None
    assert fixed.revision.number == 2
    assert fixed.revision.settings == {"container_port": 8080}
    assert health_check(fixed.revision).port == 8080
    other.refresh_from_db()
    assert other.revision is not None
    assert health_check(other.revision).port == 8000
    services.rollback_endpoint(actor=editor_actor, endpoint=fixed, number=1)
    fixed.refresh_from_db()
    assert fixed.revision is not None
    assert health_check(fixed.revision).port == 8000


def test_a_framework_that_is_told_its_port_is_offered_none(editor_actor: Actor) -> None:
    assert keys(failing(new_endpoint(editor_actor), "wrong_port", ports=[8081], port=8080)) == []


def test_the_next_bigger_type_that_the_machine_has_is_offered(editor_actor: Actor, machine: Node) -> None:
    small = failing(new_endpoint(editor_actor, instance_type="a1-standard-2x8"), "out_of_memory", asked=4096)
    assert keys(small) == ["use_type:a1-standard-4x16", "use_context:2048"]
    fixed = fixes.apply(actor=editor_actor, endpoint=small, key="use_type:a1-standard-4x16")
    assert fixed.revision is not None
    assert fixed.revision.instance_type_id == "a1-standard-4x16"
    biggest = failing(fixed, "out_of_memory", asked=256)
    assert keys(biggest) == []
    Node.objects.filter(pk=machine.pk).update(cpus=64, memory_bytes=200 * GIB)
    assert keys(biggest) == ["use_type:a1-standard-8x32"]
    InstanceType.objects.filter(name="a1-standard-8x32").update(enabled=False)
    assert keys(biggest) == ["use_type:a1-standard-16x64"]


def test_a_gpu_type_is_followed_by_one_with_more_gpu_memory_where_there_is_one(editor_actor: Actor) -> None:
    model = ready_model(editor_actor.project, "big", "vllm", size_bytes=4 * GIB)
    endpoint = new_endpoint(editor_actor, model, instance_type="g1-standard-4x16-1rtx2080ti")
    assert keys(failing(endpoint, "gpu_out_of_memory")) == []  # no machine has a GPU


@pytest.mark.parametrize(
    ("params", "tokens"),
    [({"asked": 40960, "fits": 32768}, 32768), ({"asked": 40960}, 20480), ({"asked": 300}, None)],
)
def test_a_context_that_fits_is_offered(
    editor_actor: Actor, params: dict[str, int], tokens: int | None
) -> None:
    endpoint = failing(
        new_endpoint(editor_actor, instance_type="a1-standard-4x16"), "context_too_long", **params
    )
    assert keys(endpoint) == ([f"use_context:{tokens}"] if tokens else [])
    if tokens:
        fixed = fixes.apply(actor=editor_actor, endpoint=endpoint, key=f"use_context:{tokens}")
        assert fixed.revision is not None
        assert fixed.revision.settings == {"max_context": tokens}


def test_numbers_of_half_the_width_are_offered_for_old_gpus(editor_actor: Actor) -> None:
    model = ready_model(editor_actor.project, "llm", "vllm")
    endpoint = new_endpoint(editor_actor, model, instance_type="g1-standard-4x16-1rtx2080ti")
    assert keys(failing(endpoint, "dtype_unsupported")) == ["use_half"]


def test_a_missing_file_is_imported_again_and_the_endpoint_goes_on(
    editor_actor: Actor, settings: Any, tmp_path: Path, django_capture_on_commit_callbacks: Any
) -> None:
    settings.BERTH_WEIGHTS_DIR = str(tmp_path)
    endpoint = failing(new_endpoint(editor_actor), "model_file_missing", file="/models/tiny.gguf")
    assert endpoint.revision is not None
    folder = weights_folder(str(endpoint.revision.model_id))
    folder.mkdir()
    (folder / "half.gguf").write_bytes(b"GG")
    generation = endpoint.generation
    with django_capture_on_commit_callbacks(execute=True):
        fixed = fixes.apply(actor=editor_actor, endpoint=endpoint, key="reimport")
    assert fixed.generation == generation + 1
    model = RegisteredModel.objects.get(pk=endpoint.revision.model_id)
    assert model.status == ModelStatus.IMPORTING
    assert not folder.exists()
    assert keys(endpoint) == []  # not twice
    with pytest.raises(Conflict):
        registry.reimport_model(editor_actor, model)


def test_what_is_offered_after_an_update_was_taken_back_mends_that_update(editor_actor: Actor) -> None:
    endpoint = new_endpoint(editor_actor, custom(editor_actor), instance_type="a1-standard-2x8")
    first = endpoint.revision
    services.update_endpoint(
        actor=editor_actor,
        endpoint=endpoint,
        changes={"settings": {"container_port": 7000}, "instance_type": "a1-standard-4x16"},
    )
    told = {"revision": 2, "code": "wrong_port", "params": {"ports": [8080]}, "at": ""}
    Endpoint.objects.filter(pk=endpoint.pk).update(revision=first, stable_revision=first, failed_update=told)
    degraded = failing(endpoint, "wrong_port", ports=[8080])
    fixed = fixes.apply(actor=editor_actor, endpoint=degraded, key="use_port:8080")
    assert fixed.revision is not None
    assert fixed.revision.settings == {"container_port": 8080}
    assert fixed.revision.instance_type_id == "a1-standard-4x16"
    assert fixed.failed_update == {}


def test_a_model_imported_again_rolls_out_the_update_that_was_taken_back_for_it(
    editor_actor: Actor, settings: Any, tmp_path: Path
) -> None:
    settings.BERTH_WEIGHTS_DIR = str(tmp_path)
    endpoint = new_endpoint(editor_actor)
    first = endpoint.revision
    other = ready_model(editor_actor.project, name="other")
    services.update_endpoint(actor=editor_actor, endpoint=endpoint, changes={"model_id": str(other.pk)})
    told = {"revision": 2, "code": "model_file_corrupt", "params": {}, "at": ""}
    Endpoint.objects.filter(pk=endpoint.pk).update(revision=first, stable_revision=first, failed_update=told)
    fixed = fixes.apply(actor=editor_actor, endpoint=failing(endpoint, "model_file_corrupt"), key="reimport")
    assert fixed.revision is not None
    assert (fixed.revision.number, fixed.revision.model_id) == (3, other.pk)
    assert fixed.failed_update == {}
    assert RegisteredModel.objects.get(pk=other.pk).status == ModelStatus.IMPORTING


def test_only_what_is_offered_now_can_be_taken(editor_actor: Actor) -> None:
    endpoint = failing(new_endpoint(editor_actor, custom(editor_actor)), "wrong_port", ports=[8080])
    for key in ("use_port:22", "reimport", "", "use_port:"):
        with pytest.raises(ValidationError):
            fixes.apply(actor=editor_actor, endpoint=endpoint, key=key)
    Endpoint.objects.filter(pk=endpoint.pk).update(reason_code="")
    endpoint.refresh_from_db()
    with pytest.raises(ValidationError):
        fixes.apply(actor=editor_actor, endpoint=endpoint, key="use_port:8080")


def test_made_up_evidence_makes_no_made_up_port(editor_actor: Actor) -> None:
    endpoint = failing(
        new_endpoint(editor_actor, custom(editor_actor)), "wrong_port", ports=["x", 0, 70000, None]
    )
    assert keys(endpoint) == []


def test_the_page_offers_it_to_those_who_may(
    editor_actor: Actor,
    editor_client: Client,
    viewer_client: Client,
    outsider_client: Client,
    client: Client,
) -> None:
    endpoint = failing(
        new_endpoint(editor_actor, custom(editor_actor)),
        "wrong_port",
        ports=[8080],
        listens="8080",
        port=8000,
    )
    page, do = (reverse(f"endpoints:{name}", args=[endpoint.id]) for name in ("detail", "fix"))
    assert "Use port 8080" in editor_client.get(page).content.decode()
    assert "use_port" not in viewer_client.get(page).content.decode()
    for other, status in ((viewer_client, 403), (outsider_client, 404), (client, 302)):
        assert other.post(do, {"fix": "use_port:8080"}).status_code == status
    assert editor_client.get(do).status_code == 405
    assert endpoint.revisions.count() == 1
    told = editor_client.post(do, {"fix": "use_port:8080"}, follow=True).content.decode()
    assert "is tried again with that" in told
    assert endpoint.revisions.count() == 2
    again = editor_client.post(do, {"fix": "use_port:1"}, follow=True).content.decode()
    assert "not offered any more" in again


def test_the_api_offers_it_and_takes_it(
    editor_actor: Actor, editor_client: Client, viewer_client: Client, outsider_client: Client
) -> None:
    endpoint = failing(
        new_endpoint(editor_actor, custom(editor_actor)),
        "wrong_port",
        ports=[8080],
        listens="8080",
        port=8000,
    )
    address = f"/api/v1/endpoints/{endpoint.id}/"
    reason = editor_client.get(address).json()["status_reason"]
    assert reason["code"] == "wrong_port"
    assert reason["fixes"] == [{"fix": "use_port:8080", "title": "Use port 8080"}]
    assert viewer_client.get(address).json()["status_reason"]["fixes"] == []
    sent = {"data": {"fix": "use_port:8080"}, "content_type": "application/json"}
    assert viewer_client.post(f"{address}fix/", **sent).status_code == 403
    assert outsider_client.post(f"{address}fix/", **sent).status_code == 404
    wrong = {**sent, "data": {"fix": "use_port:1"}}
    assert editor_client.post(f"{address}fix/", **wrong).json()["errors"].keys() == {"fix"}
    assert editor_client.post(f"{address}fix/", **sent).json()["settings"] == {"container_port": 8080}
