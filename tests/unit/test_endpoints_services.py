"""What may be asked for, and what is written when it is."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.exceptions import ValidationError

from config.errors import Conflict
from endpoints import services
from endpoints.models import Endpoint, Event
from iam.actors import Actor
from tests.support_endpoints import load_data, new_endpoint, ready_model, spec_for

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _data(db: None) -> None:
    load_data()


def errors_of(actor: Actor, **changes: Any) -> dict[str, list[str]]:
    model = ready_model(actor.project)
    with pytest.raises(ValidationError) as caught:
        services.create_endpoint(actor=actor, spec=spec_for(model, **changes))
    assert not Endpoint.objects.exists()
    return caught.value.message_dict


@pytest.mark.parametrize("name", ["", "a" * 51, "a/b", "<script>", "a b", "tên", "a\n"])
def test_a_bad_name_is_said_at_its_field(editor_actor: Actor, name: str) -> None:
    assert set(errors_of(editor_actor, name=name)) == {"name"}


@pytest.mark.parametrize("name", ["a", "a" * 50, "Aa0_-"])
def test_names_at_the_limits_are_fine(editor_actor: Actor, name: str) -> None:
    assert new_endpoint(editor_actor, name=name).name == name


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"min_replicas": 3, "max_replicas": 2}, "min_replicas"),
        ({"min_replicas": -1}, "min_replicas"),
        ({"max_replicas": 0}, "max_replicas"),
        ({"max_replicas": 11}, "max_replicas"),
        ({"max_replicas": None}, "max_replicas"),
        ({"min_replicas": 0}, "idle_timeout_s"),
        ({"cpu_percent": 0}, "cpu_percent"),
        ({"memory_percent": 101}, "memory_percent"),
        ({"latency_ms": 600_001}, "latency_ms"),
        ({"gpu_percent": 70}, "gpu_percent"),
        ({"region": "MOON"}, "region"),
        ({"instance_type": "huge"}, "instance_type"),
        ({"model_id": "not-an-id"}, "model_id"),
        ({"settings": {"no_such": 1}}, "settings"),
    ],
)
def test_each_limit_of_the_contract_has_its_field(
    editor_actor: Actor, changes: dict[str, Any], field: str
) -> None:
    assert field in errors_of(editor_actor, **changes)


def test_all_errors_are_told_at_once(editor_actor: Actor) -> None:
    found = errors_of(editor_actor, name="a/b", region="", min_replicas=5, max_replicas=2, cpu_percent=0)
    assert set(found) == {"name", "region", "min_replicas", "cpu_percent"}


def test_a_gpu_threshold_needs_a_gpu_type(editor_actor: Actor) -> None:
    model = ready_model(editor_actor.project, framework="vllm")
    endpoint = new_endpoint(editor_actor, model, gpu_percent=70, instance_type="g1-standard-4x16-1rtx2080ti")
    assert endpoint.gpu_percent == 70


def test_a_duplicate_name_is_told_even_when_two_come_at_once(
    editor_actor: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ready_model(editor_actor.project)
    new_endpoint(editor_actor, model)
    with pytest.raises(ValidationError, match="already an endpoint named embed-01"):
        new_endpoint(editor_actor, model)
    # The check sees nothing when the other one has not committed yet: the database has the last word.
    monkeypatch.setattr("endpoints.validation._check_name", lambda *_: None)
    with pytest.raises(ValidationError, match="already an endpoint named embed-01"):
        new_endpoint(editor_actor, model)


def test_a_model_deleted_before_the_click_is_named(editor_actor: Actor) -> None:
    model = ready_model(editor_actor.project)
    spec = spec_for(model)
    model.delete()
    with pytest.raises(ValidationError) as caught:
        services.create_endpoint(actor=editor_actor, spec=spec)
    assert "not in the registry any more" in caught.value.message_dict["model_id"][0]


def test_a_model_of_another_project_is_not_there(editor_actor: Actor, outsider_actor: Actor) -> None:
    foreign = ready_model(outsider_actor.project)
    with pytest.raises(ValidationError, match="not in the registry"):
        new_endpoint(editor_actor, foreign)


def test_creating_writes_revision_and_event_and_asks_for_a_reconcile(
    editor_actor: Actor, django_capture_on_commit_callbacks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[str, str, float]] = []
    monkeypatch.setattr("endpoints.queue._send", lambda *args: sent.append(args))
    with django_capture_on_commit_callbacks(execute=True):
        endpoint = new_endpoint(editor_actor)
    assert endpoint.revision is not None
    assert endpoint.revision.number == 1
    assert endpoint.url.endswith(f"/v1/{endpoint.id}")
    event = Event.objects.get(endpoint=endpoint)
    assert (event.kind, event.actor_name) == ("endpoint.created", "editor@example.org")
    assert sent == [("endpoints.tasks.reconcile", endpoint.id, 0)]


def test_what_a_replica_is_made_of_makes_a_revision_and_the_rest_does_not(editor_actor: Actor) -> None:
    endpoint = new_endpoint(editor_actor)
    renamed = services.update_endpoint(
        actor=editor_actor, endpoint=endpoint, changes={"name": "other", "private": False, "max_replicas": 4}
    )
    assert (renamed.name, renamed.private, renamed.revisions.count()) == ("other", False, 1)
    bigger = services.update_endpoint(
        actor=editor_actor, endpoint=renamed, changes={"instance_type": "a1-standard-2x8"}
    )
    assert bigger.revision is not None
    assert (bigger.revision.number, bigger.revision.instance_type_id) == (2, "a1-standard-2x8")


def test_a_change_to_the_same_values_changes_nothing(editor_actor: Actor) -> None:
    endpoint = new_endpoint(editor_actor)
    values = services.present_values(endpoint)
    services.update_endpoint(actor=editor_actor, endpoint=endpoint, changes=values)
    endpoint.refresh_from_db()
    assert (endpoint.generation, endpoint.revisions.count()) == (1, 1)


def test_deleting_twice_is_fine_and_nothing_else_is_possible_after(editor_actor: Actor) -> None:
    endpoint = new_endpoint(editor_actor)
    deleting = services.delete_endpoint(actor=editor_actor, endpoint=endpoint)
    services.delete_endpoint(actor=editor_actor, endpoint=deleting)
    assert Event.objects.filter(kind="endpoint.delete_requested").count() == 1
    with pytest.raises(Conflict, match="being deleted"):
        services.pause_endpoint(actor=editor_actor, endpoint=deleting)


def test_two_people_who_change_different_things_keep_both_changes(editor_actor: Actor) -> None:
    seen_by_one = new_endpoint(editor_actor)
    seen_by_other = Endpoint.objects.get(pk=seen_by_one.pk)
    services.update_endpoint(actor=editor_actor, endpoint=seen_by_one, changes={"max_replicas": 4})
    both = services.update_endpoint(actor=editor_actor, endpoint=seen_by_other, changes={"private": False})
    assert (both.max_replicas, both.private) == (4, False)


def test_the_same_settings_in_another_order_or_as_text_are_no_revision(editor_actor: Actor) -> None:
    endpoint = new_endpoint(editor_actor, settings={"max_sequences": 8, "max_context": 512})
    same = {"max_context": "512", "max_sequences": "8"}
    services.update_endpoint(actor=editor_actor, endpoint=endpoint, changes={"settings": same})
    endpoint.refresh_from_db()
    assert (endpoint.generation, endpoint.revisions.count()) == (1, 1)


@pytest.mark.parametrize(
    "service", [services.pause_endpoint, services.retry_endpoint, services.delete_endpoint]
)
def test_what_is_gone_between_the_page_and_the_click_is_said(editor_actor: Actor, service: Any) -> None:
    endpoint = new_endpoint(editor_actor)
    Endpoint.objects.filter(pk=endpoint.pk).delete()
    with pytest.raises(ValidationError, match="has been deleted"):
        service(actor=editor_actor, endpoint=endpoint)
