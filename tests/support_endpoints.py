"""Rows that endpoint tests start from."""

from __future__ import annotations

from typing import Any

from django.core.management import call_command

from endpoints import services
from endpoints.models import Endpoint
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
