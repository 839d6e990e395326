"""A registered model's row as the plain facts that `registry.spec` works with."""

from __future__ import annotations

import json

from registry.models import RegisteredModel, Source
from registry.spec import ModelFacts


def facts_of(model: RegisteredModel) -> ModelFacts:
    """What a container's specification needs of `model`."""
    environment = json.loads(model.environment) if model.environment else {}
    if model.source != Source.IMAGE:
        return ModelFacts(
            name=model.name,
            task=model.task,
            weights_path=model.weights_path,
            entry_file=model.entry_file,
            environment=environment,
            known=model.facts,
        )
    ref = model.source_ref
    command = ref.get("command")
    return ModelFacts(
        name=model.name,
        task=model.task,
        weights_path=model.weights_path,
        image=ref["image"],
        port=int(ref.get("port") or 0),
        health_path=ref.get("health_path") or "",
        command=tuple(command) if command else None,
        environment=environment,
        known=model.facts,
    )
