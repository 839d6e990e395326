"""A framework's definition and a model's facts into the container that serves it. Pure: no database, no clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from registry.frameworks.definition import PLACEHOLDER, FrameworkDefinition
from registry.frameworks.settings import effective_settings
from registry.images import resolve
from runtimes.contract import HOST_PLACEHOLDER, PORT_PLACEHOLDER, ContainerSpec, Mount

GIB = 1024**3
# Settings of a definition that say for one endpoint what its model says for all of them.
CONTAINER_PORT, HEALTH_PATH = "container_port", "health_path"


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What the specification needs of a registered model.

    weights_path   folder on the host, "" if the image carries its model
    entry_file     the file in it that the framework opens, "" for the folder itself
    image, port, health_path, command   a custom container's own, "" / 0 / None otherwise
    environment    a custom container's own; wins over the definition's
    known          what the import read from the files: {"context_length": 512, …}
    """

    name: str
    task: str
    weights_path: str = ""
    entry_file: str = ""
    image: str = ""
    port: int = 0
    health_path: str = ""
    command: tuple[str, ...] | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    known: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class InstanceSize:
    """What one replica gets. 0 vcpu or memory: no limit.

    gpu       the GPU's model as instance types name it ("rtx4090"), "" without
    gpu_ids   the engine's ids of exactly the GPUs that it was given, `gpu_count` of them
    """

    vcpu: float = 0
    memory_gib: float = 0
    gpu: str = ""
    gpu_count: int = 0
    gpu_ids: tuple[str, ...] = ()


def build(
    definition: FrameworkDefinition,
    model: ModelFacts,
    settings: Mapping[str, Any],
    *,
    name: str,
    labels: Mapping[str, str],
    instance: InstanceSize,
    network: str | None,
    node: str = "",
) -> ContainerSpec:
    """The container of one replica. `settings` are validated values (`validate_settings`); defaults are added here.

    Equal arguments give equal specifications. Raises ValueError for a replica that was not given its GPUs: without
    them it would start and fail in a way that blames the model.
    """
    gpu_ids = instance.gpu_ids
    if len(gpu_ids) != instance.gpu_count:
        raise ValueError(f"{name} needs {instance.gpu_count} GPUs and was given {len(gpu_ids)}")
    return ContainerSpec(
        name=name,
        labels=dict(labels),
        image=image_of(definition, model, gpu=instance.gpu, gpu_count=len(gpu_ids)),
        program=definition.program or None,
        entrypoint=definition.entrypoint,
        command=_command(definition, model, settings, len(gpu_ids)),
        env={**definition.env, **model.environment},
        port=port_of(definition, model, settings),
        cpus=instance.vcpu,
        memory_bytes=int(instance.memory_gib * GIB),
        shm_bytes=definition.shm_bytes,
        gpu_ids=gpu_ids,
        node=node,
        mounts=_mounts(definition, model),
        network=network,
        read_only_root=definition.read_only_root,
        tmpfs=dict(definition.tmpfs),
        user=definition.user,
        stop_grace_s=definition.stop_grace_s,
    )


def image_of(definition: FrameworkDefinition, model: ModelFacts, *, gpu: str = "", gpu_count: int = 0) -> str:
    """The image with its tag: the model's own, or the definition's for this GPU."""
    if model.image:
        return model.image
    if gpu_count:
        return resolve(definition.images.get(gpu) or definition.images.get("gpu") or definition.image)
    return resolve(definition.image)


def port_of(
    definition: FrameworkDefinition, model: ModelFacts, settings: Mapping[str, Any] = MappingProxyType({})
) -> int:
    """Where the model server listens inside the container: the endpoint's word wins over the model's."""
    own = settings.get(CONTAINER_PORT) if definition.setting(CONTAINER_PORT) else None
    return int(own or model.port or definition.port)


def health_path_of(
    definition: FrameworkDefinition, model: ModelFacts, settings: Mapping[str, Any] = MappingProxyType({})
) -> str:
    """Answers 2xx when the model can be called; the endpoint's word wins as well."""
    own = settings.get(HEALTH_PATH) if definition.setting(HEALTH_PATH) else None
    return str(own or model.health_path or definition.health_path)


def served_name(definition: FrameworkDefinition, model: ModelFacts, settings: Mapping[str, Any]) -> str:
    """What clients send as `model`: the setting if the framework has it, else the name in the registry."""
    return (
        str(settings.get("served_model_name") or model.name)
        if definition.setting("served_model_name")
        else model.name
    )


def _command(
    definition: FrameworkDefinition, model: ModelFacts, settings: Mapping[str, Any], gpu_count: int
) -> tuple[str, ...] | None:
    if model.command is not None:
        return model.command
    if not definition.arguments:
        return None
    values = effective_settings(definition, settings, facts=model.known)
    if definition.setting("served_model_name"):
        values["served_model_name"] = served_name(definition, model, settings)
    target = definition.weights_target
    values |= {
        "model": f"{target}/{model.entry_file}" if model.entry_file else target,
        "weights": target,
        "name": model.name,
        "host": HOST_PLACEHOLDER,
        "port": PORT_PLACEHOLDER,
        "gpu_count": gpu_count,
    }
    conditions = values | {"embedding": model.task == "embedding", "chat": model.task == "llm"}
    return tuple(
        PLACEHOLDER.sub(lambda match: str(values[match[1]]), word)
        for argument in definition.arguments
        if not argument.when or conditions[argument.when]
        for word in argument.args
    )


def _mounts(definition: FrameworkDefinition, model: ModelFacts) -> tuple[Mount, ...]:
    if not model.weights_path or not definition.weights_target:
        return ()
    return (Mount(source=model.weights_path, target=definition.weights_target, read_only=True),)
