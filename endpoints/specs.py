"""From rows to the exact container of a replica. The framework's definition decides; nothing here knows one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from django.conf import settings

from endpoints.models import Endpoint, Replica, Revision
from registry import spec
from registry.facts import facts_of
from registry.frameworks import definition_of, effective_settings
from registry.models import ModelStatus, Source
from runtimes.contract import (
    LABEL_ENDPOINT,
    LABEL_REPLICA,
    LABEL_REVISION,
    ContainerSpec,
    RegistryAuth,
)


def replica_name(endpoint: Endpoint, revision: Revision, slot: int, attempt: int) -> str:
    """The container's name: the same for the same attempt, so that starting it twice gives one container."""
    return f"berth-{endpoint.id}-v{revision.number}-r{slot}-{attempt}"


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """Where and how long a replica of a revision is asked whether it is healthy."""

    port: int
    path: str
    timeout_s: float


def health_check(revision: Revision) -> HealthCheck:
    """The framework's health check, with what a custom image says of its own."""
    definition, facts = definition_of(revision.model.framework), facts_of(revision.model)
    settings = {**revision.model.settings, **revision.settings}
    return HealthCheck(
        port=spec.port_of(definition, facts, settings),
        path=spec.health_path_of(definition, facts, settings),
        timeout_s=definition.start_timeout_s,
    )


def max_context(revision: Revision) -> int | None:
    """Tokens that one request may use, where the framework has that setting and it is known."""
    definition, facts = definition_of(revision.model.framework), facts_of(revision.model)
    settings = effective_settings(definition, revision.model.settings, revision.settings, facts=facts.known)
    value = settings.get("max_context") or facts.known.get("context_length")
    return value if definition.setting("max_context") and isinstance(value, int) else None


def image_for(revision: Revision) -> str:
    """The image of the revision's replicas."""
    size = revision.instance_type
    return spec.image_of(
        definition_of(revision.model.framework),
        facts_of(revision.model),
        gpu=size.gpu,
        gpu_count=size.gpu_count,
    )


def registry_auth(revision: Revision) -> RegistryAuth | None:
    """Credentials for the pull, if the model has some."""
    model = revision.model
    if not model.registry_username:
        return None
    return RegistryAuth(model.registry_username, model.registry_password)


def blocked_reason(revision: Revision, runtime_kind: str) -> tuple[str, dict[str, Any]]:
    """Why no replica of this revision can be made at all: a code of endpoints.errors and its params, or ("", {}).
    Whether there is room for one is another question: endpoints.placement."""
    model = revision.model
    definition = definition_of(model.framework)
    has_files = model.source != Source.IMAGE or bool(model.source_ref.get("path"))
    if has_files and model.status != ModelStatus.READY:
        return "model_not_ready", {"model": model.name}
    if runtime_kind == "process" and not definition.program:
        return "needs_containers", {"framework": definition.name}
    if runtime_kind == "process" and revision.environment:
        # A process runs as the platform's own user: a variable can make it load what it likes (PYTHONPATH, GCONV_PATH).
        return "variables_need_containers", {"names": ", ".join(revision.environment)}
    return "", {}


def container_spec(replica: Replica, endpoint: Endpoint) -> ContainerSpec:
    """What the driver is asked to start for this replica. The revision's variables win over the model's own."""
    revision = replica.revision
    size = revision.instance_type
    built = spec.build(
        definition_of(revision.model.framework),
        facts_of(revision.model),
        {**revision.model.settings, **revision.settings},
        name=replica.name,
        labels={
            LABEL_ENDPOINT: endpoint.id,
            LABEL_REPLICA: str(replica.id),
            LABEL_REVISION: str(revision.number),
        },
        instance=spec.InstanceSize(
            vcpu=size.vcpu,
            memory_gib=size.memory_gib,
            gpu=size.gpu,
            gpu_count=size.gpu_count,
            gpu_ids=tuple(replica.gpu_ids),
        ),
        network=endpoint.project_id,
        node=replica.node_id or "",
    )
    variables = {**built.env, **revision.environment}
    return replace(built, env=variables, log_bytes=settings.BERTH_REPLICA_LOG_BYTES)
