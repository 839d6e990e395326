"""Revisions, roll-backs and restarts as services: what they write, and when they write nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import connection

from config.errors import Conflict
from endpoints import environment, events, history, services
from endpoints.models import Endpoint, Event, Gpu, Node, Region, Replica, ReplicaState
from endpoints.revisions import Change
from endpoints.specs import blocked_reason, container_spec
from iam.actors import Actor, actor_for_account
from iam.models import Project
from iam.roles import Role
from iam.services import create_service_account
from tests.support_endpoints import load_data, new_endpoint, ready_model

pytestmark = pytest.mark.django_db
SECRET = "hunter2-very-secret"
GPU_TYPE = "g1-standard-4x16-1rtx2080ti"


@pytest.fixture(autouse=True)
def _data(db: None) -> None:
    load_data()


def change(actor: Actor, endpoint: Endpoint, allow: bool = False, **changes: Any) -> Endpoint:
    return services.update_endpoint(actor=actor, endpoint=endpoint, changes=changes, allow_interruption=allow)


def kinds(endpoint: Endpoint) -> list[str]:
    return list(Event.objects.filter(target=endpoint.id).order_by("id").values_list("kind", flat=True))


def numbers(endpoint: Endpoint) -> list[int]:
    return list(endpoint.revisions.order_by("number").values_list("number", flat=True))


def entries(endpoint: Endpoint) -> dict[int, history.Entry]:
    found = history.entries(Endpoint.objects.get(pk=endpoint.pk), list(history.rows_of(endpoint)))
    return {entry.revision.number: entry for entry in found}


# -- who and what --------------------------------------------------------------------------------------------------


def test_a_revision_names_its_author_also_when_a_program_made_it(
    editor_actor: Actor, owner_actor: Actor
) -> None:
    endpoint = new_endpoint(editor_actor)
    account, _secret = create_service_account(owner_actor, "ci-deployer", [Role.EDITOR])
    change(actor_for_account(account), endpoint, instance_type="a1-standard-2x8")
    authors = {number: entry.author for number, entry in entries(endpoint).items()}
    assert authors == {1: "editor@example.org", 2: "ci-deployer"}
    account.delete()
    assert editor_actor.user is not None
    editor_actor.user.delete()
    authors = {number: entry.author for number, entry in entries(endpoint).items()}
    assert authors == {1: "editor@example.org", 2: "ci-deployer"}


def test_each_revision_tells_what_it_changed_and_never_a_value_of_a_variable(editor_actor: Actor) -> None:
    endpoint = new_endpoint(
        editor_actor, settings={"max_context": 512}, environment={"TOKEN": SECRET, "OLD": "1"}
    )
    other = ready_model(editor_actor.project, "other")
    first = endpoint.revision
    assert first is not None
    change(
        editor_actor,
        endpoint,
        model_id=str(other.pk),
        instance_type="a1-standard-2x8",
        settings={"max_sequences": 8},
        environment={"TOKEN": f"{SECRET}-2", "OLD": None, "NEW": ""},
    )
    found = entries(endpoint)
    assert found[1].diff == []
    told = {change.field: (change.kind, change.before, change.after, change.said) for change in found[2].diff}
    assert told == {
        "model": ("changed", str(first.model_id), str(other.pk), "tiny → other"),
        "instance_type": ("changed", "local-cpu", "a1-standard-2x8", "local-cpu → a1-standard-2x8"),
        "settings.max_context": ("removed", 512, None, "512 → default"),
        "settings.max_sequences": ("added", None, 8, "default → 8"),
        "environment.NEW": ("added", None, None, "added"),
        "environment.OLD": ("removed", None, None, "removed"),
        "environment.TOKEN": ("changed", None, None, "another value"),
    }
    event = Event.objects.get(kind="endpoint.revised")
    assert events.sentence(event).startswith(
        "Asked for revision 2: model, instance_type, settings.max_context"
    )
    everything = json.dumps(list(Event.objects.values_list("params", flat=True)))
    assert SECRET not in everything + repr(found)


def test_variables_are_encrypted_at_rest(editor_actor: Actor) -> None:
    endpoint = new_endpoint(editor_actor, environment={"TOKEN": SECRET})
    with connection.cursor() as cursor:
        cursor.execute("SELECT environment FROM endpoints_revision")
        stored = cursor.fetchone()[0]
    assert stored
    assert SECRET not in stored
    assert "TOKEN" not in stored
    revision = Endpoint.objects.get(pk=endpoint.pk).revision
    assert revision is not None
    assert revision.environment == {"TOKEN": SECRET}


def test_the_containers_get_the_variables_and_the_revision_wins_over_the_model(editor_actor: Actor) -> None:
    model = ready_model(
        editor_actor.project,
        "own",
        framework="custom",
        source="image",
        source_ref={"image": "registry.example.com/own:1", "port": 9000},
        environment=json.dumps({"A": "model", "B": "model"}),
    )
    endpoint = new_endpoint(editor_actor, model, environment={"B": "revision", "C": "x=y"})
    replica = Replica(endpoint=endpoint, revision=endpoint.revision, slot=1, name="r")
    spec = container_spec(replica, endpoint)
    assert {"A": "model", "B": "revision", "C": "x=y"}.items() <= dict(spec.env).items()
    assert "x=y" not in repr(spec), "a line of a log must not tell a variable's value"


def test_a_process_of_the_platforms_own_user_gets_no_variables(editor_actor: Actor) -> None:
    endpoint = new_endpoint(editor_actor, environment={"PYTHONPATH": "/nowhere/tiny"})
    assert endpoint.revision is not None
    code, params = blocked_reason(endpoint.revision, "process")
    assert (code, params) == ("variables_need_containers", {"names": "PYTHONPATH"})
    assert blocked_reason(endpoint.revision, "docker") == ("", {})


BAD_VARIABLES = [
    ({"1A": "x"}, "no variable name"),
    ({"A-B": "x"}, "no variable name"),
    ({"": "x"}, "no variable name"),
    ({"A\n": "x"}, "no variable name"),
    ({"NVIDIA_VISIBLE_DEVICES": "all"}, "set by the platform"),
    ({"nvidia_visible_devices": "all"}, "set by the platform"),
    ({"CUDA_VISIBLE_DEVICES": "0"}, "set by the platform"),
    ({"PATH": "/x"}, "set by the platform"),
    ({"LD_PRELOAD": "/x"}, "set by the platform"),
    ({"A": 1}, "must be a text"),
    ({"A": "nul\0"}, "NUL"),
    ({"A": "\ud800"}, "no valid text"),
    ({"A": "é" * 2049}, "longer than 4096 bytes"),
    ({f"A{n}": "" for n in range(65)}, "at most 64"),
    ("A=1", "names and values"),
]


@pytest.mark.parametrize(("variables", "message"), BAD_VARIABLES, ids=lambda v: str(v)[:30])
def test_variables_that_are_refused(editor_actor: Actor, variables: Any, message: str) -> None:
    endpoint = new_endpoint(editor_actor)
    with pytest.raises(ValidationError) as caught:
        change(editor_actor, endpoint, environment=variables)
    assert set(caught.value.message_dict) == {"environment"}
    assert message in caught.value.message_dict["environment"][0]
    assert numbers(endpoint) == [1]


def test_a_change_of_variables_names_only_what_changes() -> None:
    present = {"A": "1", "B": "2"}
    assert environment.merge(present, {"C": "3", "A": None}) == {"B": "2", "C": "3"}
    assert environment.merge(present, {}) == present
    assert environment.merge(present, {"Z": None}) == present
    assert len(environment.merge({f"A{n}": "" for n in range(64)}, {"A1": None, "B": "x" * 4096})) == 64


def test_what_comes_to_the_present_configuration_is_no_revision(editor_actor: Actor) -> None:
    endpoint = new_endpoint(editor_actor, settings={"max_context": 512}, environment={"A": "1"})
    same = {"settings": {"max_context": "512"}, "environment": {"A": "1", "GONE": None}}
    change(editor_actor, endpoint, instance_type="local-cpu", **same)
    endpoint.refresh_from_db()
    assert (endpoint.generation, numbers(endpoint), kinds(endpoint)) == (1, [1], ["endpoint.created"])


def test_names_counts_thresholds_and_access_make_no_revision(editor_actor: Actor) -> None:
    endpoint = new_endpoint(editor_actor)
    change(editor_actor, endpoint, name="n", private=False, min_replicas=2, max_replicas=3, cpu_percent=70)
    assert numbers(endpoint) == [1]
    # Together with a revision they are told of in its one event.
    change(editor_actor, endpoint, name="m", instance_type="a1-standard-2x8")
    assert Event.objects.get(kind="endpoint.revised").params == {
        "number": 2,
        "fields": "instance_type, name",
    }


# -- roll back -----------------------------------------------------------------------------------------------------


@pytest.fixture
def revised(editor_actor: Actor) -> Endpoint:
    """Three revisions: local-cpu with a variable; a1-standard-2x8; a1-standard-4x16 without the variable."""
    endpoint = new_endpoint(editor_actor, environment={"TOKEN": SECRET})
    change(editor_actor, endpoint, instance_type="a1-standard-2x8")
    change(editor_actor, endpoint, instance_type="a1-standard-4x16", environment={"TOKEN": None})
    return Endpoint.objects.get(pk=endpoint.pk)


def test_a_rollback_is_a_new_revision_with_the_old_configuration(
    editor_actor: Actor, revised: Endpoint
) -> None:
    change(editor_actor, revised, name="renamed", max_replicas=4)
    before = Endpoint.objects.get(pk=revised.pk).generation
    back = services.rollback_endpoint(actor=editor_actor, endpoint=revised, number=1)
    assert back.revision is not None
    assert back.revision.restores is not None
    assert (back.revision.number, back.revision.restores.number) == (4, 1)
    assert (back.revision.instance_type_id, back.revision.environment) == ("local-cpu", {"TOKEN": SECRET})
    assert (back.name, back.max_replicas, back.generation) == ("renamed", 4, before + 1)
    event = Event.objects.get(kind="endpoint.rolled_back")
    assert events.sentence(event) == "Rolled back to revision 1, as revision 4"
    assert entries(revised)[4].restores == 1


def test_rolling_back_to_what_is_there_already_changes_nothing(
    editor_actor: Actor, revised: Endpoint
) -> None:
    services.rollback_endpoint(actor=editor_actor, endpoint=revised, number=3)
    for _again in range(2):
        services.rollback_endpoint(actor=editor_actor, endpoint=revised, number=1)
    assert numbers(revised) == [1, 2, 3, 4]
    assert kinds(revised).count("endpoint.rolled_back") == 1


def test_there_must_be_such_a_revision(editor_actor: Actor, revised: Endpoint, outsider_actor: Actor) -> None:
    with pytest.raises(ValidationError) as caught:
        services.rollback_endpoint(actor=editor_actor, endpoint=revised, number=9)
    assert caught.value.message_dict == {"revision": ["There is no revision 9."]}
    foreign = new_endpoint(outsider_actor)
    with pytest.raises(ValidationError):
        services.rollback_endpoint(actor=outsider_actor, endpoint=foreign, number=2)


def test_a_rollback_to_what_cannot_run_any_more_says_so(editor_actor: Actor, revised: Endpoint) -> None:
    first = revised.revisions.get(number=1)
    first.model.status = "FAILED"
    first.model.save()
    with pytest.raises(ValidationError) as caught:
        services.rollback_endpoint(actor=editor_actor, endpoint=revised, number=1)
    assert "model_id" in caught.value.message_dict
    assert numbers(revised) == [1, 2, 3]


def test_a_rollback_to_a_type_without_gpus_drops_the_gpu_threshold(editor_actor: Actor) -> None:
    image = {"source": "image", "source_ref": {"image": "registry.example.com/own:1"}}
    model = ready_model(editor_actor.project, "both", framework="custom", **image)
    endpoint = new_endpoint(editor_actor, model)
    change(editor_actor, endpoint, instance_type=GPU_TYPE, gpu_percent=70)
    back = services.rollback_endpoint(actor=editor_actor, endpoint=endpoint, number=1)
    assert back.gpu_percent is None


# -- restart, retry, keep ------------------------------------------------------------------------------------------


def test_a_restart_counts_and_makes_no_revision(editor_actor: Actor) -> None:
    endpoint = new_endpoint(editor_actor)
    services.restart_endpoint(actor=editor_actor, endpoint=endpoint)
    endpoint.refresh_from_db()
    assert (endpoint.epoch, endpoint.generation, numbers(endpoint)) == (1, 2, [1])
    assert kinds(endpoint)[-1] == "endpoint.restarted"
    services.retry_endpoint(actor=editor_actor, endpoint=endpoint)
    endpoint.refresh_from_db()
    assert (endpoint.epoch, endpoint.generation) == (1, 3)


@pytest.mark.parametrize("service", [services.restart_endpoint, services.retry_endpoint])
def test_what_is_paused_is_resumed_not_restarted(editor_actor: Actor, service: Any) -> None:
    endpoint = services.pause_endpoint(actor=editor_actor, endpoint=new_endpoint(editor_actor))
    with pytest.raises(Conflict) as caught:
        service(actor=editor_actor, endpoint=endpoint)
    assert caught.value.code == "paused"
    endpoint.refresh_from_db()
    assert (endpoint.epoch, endpoint.generation) == (0, 2)


FAILED = {"revision": 2, "code": "out_of_memory", "params": {"memory": "8 GiB"}, "at": "2026-01-01T00:00:00"}
ACTS = {
    "revise": (lambda actor, item: change(actor, item, instance_type="a1-standard-2x8"), True),
    "roll back": (
        lambda actor, item: services.rollback_endpoint(actor=actor, endpoint=item, number=2),
        True,
    ),
    "restart": (lambda actor, item: services.restart_endpoint(actor=actor, endpoint=item), True),
    "retry": (lambda actor, item: services.retry_endpoint(actor=actor, endpoint=item), True),
    "keep": (lambda actor, item: services.keep_revision(actor=actor, endpoint=item), True),
    "pause": (lambda actor, item: services.pause_endpoint(actor=actor, endpoint=item), False),
    "rename": (lambda actor, item: change(actor, item, name="other"), False),
}


@pytest.mark.parametrize("act", ACTS)
def test_a_failed_update_is_forgotten_once_somebody_decided(editor_actor: Actor, act: str) -> None:
    endpoint = new_endpoint(editor_actor)
    change(editor_actor, endpoint, instance_type="a1-standard-4x16")
    first = endpoint.revisions.get(number=1)
    Endpoint.objects.filter(pk=endpoint.pk).update(failed_update=FAILED, revision=first)
    does, forgets = ACTS[act]
    does(editor_actor, Endpoint.objects.get(pk=endpoint.pk))
    assert Endpoint.objects.get(pk=endpoint.pk).failed_update == ({} if forgets else FAILED)


def test_keeping_a_revision_that_nothing_threatens_changes_nothing(editor_actor: Actor) -> None:
    endpoint = new_endpoint(editor_actor)
    services.keep_revision(actor=editor_actor, endpoint=endpoint)
    assert kinds(endpoint) == ["endpoint.created"]


# -- the history ---------------------------------------------------------------------------------------------------


def test_each_revision_has_its_state(editor_actor: Actor, revised: Endpoint) -> None:
    by_number = {revision.number: revision for revision in revised.revisions.all()}
    by_number[2].failed_code = "out_of_memory"
    by_number[2].failed_params = {"memory": "8 GiB", "logs": "line\n" * 9}
    by_number[2].save()
    for number, (revision, state) in enumerate(
        [(1, ReplicaState.READY), (1, ReplicaState.DRAINING), (3, ReplicaState.STARTING)]
    ):
        Replica.objects.create(
            endpoint=revised,
            revision=by_number[revision],
            slot=1,
            attempt=number + 1,
            name=f"r{number}",
            state=state,
        )
    found = entries(revised)
    assert {number: entry.state for number, entry in found.items()} == {
        1: "serving",
        2: "failed",
        3: "current",
    }
    assert found[1].replicas == {"ready": 1, "draining": 1}
    assert found[2].failed is not None
    assert "8 GiB" in found[2].failed.message
    assert "logs" not in found[2].failed.params
    assert [change.field for change in found[1].back] == ["instance_type", "environment.TOKEN"]
    assert found[3].back == []


def test_a_page_of_revisions_costs_the_same_at_any_length(
    editor_actor: Actor, django_assert_num_queries: Any
) -> None:
    endpoint = new_endpoint(editor_actor)
    for number in range(12):
        change(editor_actor, endpoint, settings={"max_context": 512 + number})
    endpoint.refresh_from_db()
    for length in (2, 12):
        with django_assert_num_queries(3):
            page = list(history.rows_of(endpoint)[:length])
            found = history.entries(endpoint, page)
        assert all(len(entry.diff) == 1 for entry in found)
        assert isinstance(found[0].diff[0], Change)


# -- interruption --------------------------------------------------------------------------------------------------


@pytest.fixture
def two_gpus(project: Project) -> Iterator[Node]:
    """A node with two GPUs of one model and nothing else."""
    node = Node.objects.create(
        name="alone", region=Region.objects.get(code="HCM"), cpus=64, memory_bytes=2**38
    )
    for index in range(2):
        Gpu.objects.create(uuid=f"GPU-{index}", node=node, index=index, model="rtx2080ti")
    return node


def serving(endpoint: Endpoint, node: Node, *gpus: str, slot: int = 1) -> Replica:
    """A ready replica that holds these GPUs."""
    replica = Replica.objects.create(
        endpoint=endpoint,
        revision=endpoint.revision,
        slot=slot,
        name=f"{endpoint.name}-{slot}",
        state=ReplicaState.READY,
        node=node,
        claimed=True,
        cpus=4,
        memory_bytes=2**34,
        gpu_ids=list(gpus),
    )
    assert Gpu.objects.filter(uuid__in=gpus, replica=None).update(replica=replica) == len(gpus)
    return replica


def on_gpus(actor: Actor, name: str = "chat", **changes: Any) -> Endpoint:
    model = ready_model(actor.project, f"model-of-{name}", framework="vllm")
    return new_endpoint(actor, model, name=name, instance_type=GPU_TYPE, **changes)


def test_with_room_beside_nobody_is_asked_and_nothing_is_interrupted(
    editor_actor: Actor, two_gpus: Node
) -> None:
    endpoint = on_gpus(editor_actor)
    serving(endpoint, two_gpus, "GPU-0")
    changed = change(editor_actor, endpoint, allow=True, settings={"max_context": 2048})
    assert changed.revision is not None
    assert changed.revision.allow_interruption is False


def test_without_room_beside_the_user_is_asked_first(editor_actor: Actor, two_gpus: Node) -> None:
    endpoint = on_gpus(editor_actor)
    serving(endpoint, two_gpus, "GPU-0")
    other = on_gpus(editor_actor, "other")
    serving(other, two_gpus, "GPU-1")
    generation = Endpoint.objects.get(pk=endpoint.pk).generation
    with pytest.raises(Conflict) as caught:
        change(editor_actor, endpoint, settings={"max_context": 2048})
    assert caught.value.code == "needs-interruption"
    assert "needs 1 GPU more (rtx2080ti: 0 free of 2 in HCM)" in caught.value.message
    assert "Allow a short interruption?" in caught.value.message
    assert (caught.value.params["free"], caught.value.params["of"]) == (0, 2)
    endpoint.refresh_from_db()
    assert (endpoint.generation, numbers(endpoint)) == (generation, [1])
    changed = change(editor_actor, endpoint, allow=True, settings={"max_context": 2048})
    assert changed.revision is not None
    assert changed.revision.allow_interruption is True


def test_a_restart_and_a_rollback_ask_as_well(editor_actor: Actor, two_gpus: Node) -> None:
    endpoint = on_gpus(editor_actor)
    change(editor_actor, endpoint, settings={"max_context": 2048})
    endpoint = Endpoint.objects.get(pk=endpoint.pk)
    serving(endpoint, two_gpus, "GPU-0", "GPU-1")
    with pytest.raises(Conflict, match="short interruption"):
        services.restart_endpoint(actor=editor_actor, endpoint=endpoint)
    with pytest.raises(Conflict, match="short interruption"):
        services.rollback_endpoint(actor=editor_actor, endpoint=endpoint, number=1)
    restarted = services.restart_endpoint(actor=editor_actor, endpoint=endpoint, allow_interruption=True)
    assert restarted.revision is not None
    assert restarted.revision.allow_interruption is True
    Gpu.objects.filter(uuid="GPU-1").update(replica=None)
    restarted = services.restart_endpoint(actor=editor_actor, endpoint=endpoint, allow_interruption=True)
    assert restarted.revision is not None
    assert restarted.revision.allow_interruption is False


def test_what_would_not_fit_even_then_is_refused_with_the_reason(editor_actor: Actor, two_gpus: Node) -> None:
    endpoint = on_gpus(editor_actor)
    serving(endpoint, two_gpus, "GPU-0")
    for allow in (False, True):
        with pytest.raises(Conflict) as caught:
            change(editor_actor, endpoint, allow=allow, instance_type="g1-standard-32x128-8rtx2080ti")
        assert caught.value.code == "no-room"
        assert "not even if one of the present replicas stops first" in caught.value.message
    assert numbers(endpoint) == [1]


@pytest.mark.parametrize("why", ["paused", "nothing serves"])
def test_nothing_to_interrupt_nobody_to_ask(editor_actor: Actor, two_gpus: Node, why: str) -> None:
    endpoint = on_gpus(editor_actor)
    replica = serving(endpoint, two_gpus, "GPU-0", "GPU-1")
    if why == "paused":
        services.pause_endpoint(actor=editor_actor, endpoint=endpoint)
    else:
        Replica.objects.filter(pk=replica.pk).update(state=ReplicaState.STARTING)
    changed = change(editor_actor, endpoint, settings={"max_context": 2048})
    assert changed.revision is not None
    assert (changed.revision.number, changed.revision.allow_interruption) == (2, False)


def test_replicas_that_leave_anyway_make_room(editor_actor: Actor, two_gpus: Node) -> None:
    endpoint = on_gpus(editor_actor, min_replicas=1, max_replicas=2)
    serving(endpoint, two_gpus, "GPU-0")
    leaving = serving(endpoint, two_gpus, "GPU-1", slot=2)  # slot 2 of 1 wanted
    changed = change(editor_actor, endpoint, settings={"max_context": 2048})
    assert changed.revision is not None
    assert changed.revision.allow_interruption is False
    Replica.objects.filter(pk=leaving.pk).update(slot=1, attempt=2, state=ReplicaState.STARTING)
    change(editor_actor, endpoint, settings={"max_context": 1024})
    assert numbers(endpoint) == [1, 2, 3]
