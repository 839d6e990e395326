"""Rows that endpoint tests start from."""

from __future__ import annotations

from typing import Any

from django.core.management import call_command

from endpoints import services
from endpoints.models import Endpoint, Gpu, Node, Region, Replica, ReplicaState
from iam.actors import Actor
from iam.models import Project
from registry.models import Framework, ModelStatus, ModelTask, RegisteredModel, Source


def load_data() -> None:
    """Regions, instance types and frameworks as a new installation has them."""
    call_command("load_places", verbosity=0)
    call_command("load_frameworks", verbosity=0)


def ready_model(
    project: Project, name: str = "tiny", framework: str = "llama-cpp", **fields: Any
) -> RegisteredModel:
    """An imported model whose files are said to be in /nowhere."""
    defaults: dict[str, Any] = {
        "source": Source.LOCAL,
        "source_ref": {"path": f"{name}.gguf"},
        "task": ModelTask.CHAT,
        "status": ModelStatus.READY,
        "weights_path": f"/nowhere/{name}",
        "entry_file": f"{name}.gguf",
        "size_bytes": 470_000,
    }
    return RegisteredModel.objects.create(
        project=project, name=name, framework=Framework.objects.get(slug=framework), **{**defaults, **fields}
    )


def spec_for(model: RegisteredModel, **changes: Any) -> services.EndpointSpec:
    """What the create page would send for `model`, with changes."""
    values: dict[str, Any] = {
        "name": "embed-01",
        "region": "HCM",
        "model_id": str(model.id),
        "instance_type": "local-cpu",
    }
    return services.EndpointSpec(**{**values, **changes})


def new_endpoint(actor: Actor, model: RegisteredModel | None = None, **changes: Any) -> Endpoint:
    """An endpoint as `create_endpoint` makes it."""
    model = model or ready_model(actor.project)
    return services.create_endpoint(actor=actor, spec=spec_for(model, **changes))


def crowded_endpoint(actor: Actor) -> Endpoint:
    """Revision 2 of it serves on the only GPU that there is: one replica more has no room."""
    node = Node.objects.create(
        name="alone", region=Region.objects.get(code="HCM"), cpus=64, memory_bytes=2**38
    )
    model = ready_model(actor.project, framework="vllm")
    made = new_endpoint(actor, model, name="crowded", instance_type="g1-standard-4x16-1rtx2080ti")
    services.update_endpoint(actor=actor, endpoint=made, changes={"settings": {"max_context": 512}})
    made = Endpoint.objects.get(pk=made.pk)
    assert made.revision is not None
    replica = Replica.objects.create(
        endpoint=made,
        revision=made.revision,
        slot=1,
        name="r1",
        state=ReplicaState.READY,
        node=node,
        claimed=True,
        gpu_ids=["GPU-0"],
    )
    Gpu.objects.create(uuid="GPU-0", node=node, model="rtx2080ti", replica=replica)
    return made


def filled(model_id: object, **changes: Any) -> dict[str, str]:
    """What the create page submits."""
    values = {
        "name": "embed-01",
        "region": "HCM",
        "model_id": str(model_id),
        "instance_type": "local-cpu",
        "min_replicas": "1",
        "max_replicas": "2",
        "private": "on",
    }
    return {key: value for key, value in {**values, **changes}.items() if value is not None}
