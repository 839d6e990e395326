"""Reading the registry: rows of one project, and a model as the plain data that `registry.spec` works on."""

from __future__ import annotations

import csv
import json
import uuid
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from django.db.models import QuerySet

from iam.models import Project
from registry.frameworks import FrameworkDefinition, Setting, effective_settings
from registry.models import Framework, RegisteredModel, Source
from registry.spec import ModelFacts
from runtimes.contract import RegistryAuth

MODELS_SHOWN = 200


@dataclass(frozen=True, slots=True)
class EndpointUse:
    """An endpoint that uses a model."""

    id: str
    name: str
    status: str


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """A well-known model and how many GPUs of a kind it takes (the reference product's own figures).

    minutes   from the click to ready there, on an RTX 2080
    """

    task: str
    model: str
    cards_rtx2080: int
    cards_rtx4090: int
    cards_a40: int
    limits: str
    minutes: int


def models_of(project: Project) -> QuerySet[RegisteredModel]:
    """The project's models, newest first."""
    return RegisteredModel.objects.filter(project=project).select_related("framework", "created_by")


def model_of(project: Project, model_id: str | uuid.UUID) -> RegisteredModel | None:
    """One of the project's models; None for another project's, a deleted one, or no id at all."""
    try:
        key = uuid.UUID(str(model_id))
    except ValueError:
        return None
    return models_of(project).filter(pk=key).first()


def shown_models(project: Project) -> list[RegisteredModel]:
    """The rows of the list page, which its live updates show too."""
    return list(models_of(project).order_by("-created_at")[:MODELS_SHOWN])


def endpoints_of(model: RegisteredModel) -> list[EndpointUse]:
    """The endpoints with a revision made of the model, by name."""
    rows = model.revisions.values_list("endpoint_id", "endpoint__name", "endpoint__status")
    return sorted((EndpointUse(*row) for row in set(rows)), key=lambda use: use.name)


def settings_of(model: RegisteredModel, definition: FrameworkDefinition) -> list[tuple[Setting, Any, bool]]:
    """(setting, value in force, whether it is the default) for every setting that has a value."""
    values = effective_settings(definition, model.settings, facts=model.facts)
    return [
        (setting, values[setting.key], setting.key not in model.settings)
        for setting in definition.settings
        if values[setting.key] is not None
    ]


def frameworks() -> QuerySet[Framework]:
    """Those that may be chosen for a new import."""
    return Framework.objects.filter(enabled=True)


def facts_of(model: RegisteredModel) -> ModelFacts:
    """The model as `registry.spec.build` wants it."""
    custom = model.source_ref if model.source == Source.IMAGE else {}
    command = custom.get("command")
    return ModelFacts(
        name=model.name,
        task=model.task,
        weights_path=model.weights_path,
        entry_file=model.entry_file,
        image=str(custom.get("image", "")),
        port=int(custom.get("port", 0)),
        health_path=str(custom.get("health_path", "")),
        command=tuple(command) if command else None,
        environment=environment_of(model),
        known=model.facts,
    )


def environment_of(model: RegisteredModel) -> dict[str, str]:
    """The variables that the user gave a custom container."""
    if not model.environment:
        return {}
    return {str(key): str(value) for key, value in json.loads(model.environment).items()}


def pull_auth(model: RegisteredModel) -> RegistryAuth | None:
    """Credentials for the model's own image, None if it has none."""
    if model.source != Source.IMAGE or not model.registry_username:
        return None
    return RegistryAuth(model.registry_username, model.registry_password)


@lru_cache(maxsize=1)
def catalog() -> tuple[CatalogEntry, ...]:
    """Models worth trying first, in the catalog's order."""
    with (Path(__file__).parent / "catalog.csv").open(newline="", encoding="utf-8") as file:
        return tuple(
            CatalogEntry(
                task=row["task"],
                model=row["model"],
                cards_rtx2080=int(row["cards_rtx2080"]),
                cards_rtx4090=int(row["cards_rtx4090"]),
                cards_a40=int(row["cards_a40"]),
                limits=row["limits"],
                minutes=int(row["minutes_to_create_on_rtx2080"]),
            )
            for row in csv.DictReader(file)
        )
