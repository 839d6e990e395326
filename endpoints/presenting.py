"""What the live parts of a page are rendered from. Views and sockets use the same, so that both say the same."""

from __future__ import annotations

from typing import Any

from django.conf import settings

from endpoints.deployment import cause, timeline, told_replica
from endpoints.models import Endpoint
from endpoints.selectors import phases_of, replicas_of
from endpoints.snippets import Target, snippets


def served_name(endpoint: Endpoint) -> str:
    """What clients send as `model`: the endpoint's setting, else the model's, else its name in the registry."""
    revision = endpoint.revision
    if revision is None:
        return ""
    for layer in (revision.settings, revision.model.settings):
        if layer.get("served_model_name"):
            return str(layer["served_model_name"])
    return revision.model.name


def overview(endpoint: Endpoint, can_edit: bool) -> dict[str, Any]:
    """Status, cause, timeline, replicas, facts: three queries."""
    replicas = replicas_of(endpoint)
    told = told_replica(replicas)
    return {
        "endpoint": endpoint,
        "can_edit": can_edit,
        "replicas": replicas,
        "cause": cause(endpoint, replicas),
        "timeline": timeline(endpoint, told, phases_of(told) if told else []),
    }


def use_it(endpoint: Endpoint) -> dict[str, Any]:
    """The snippets with the endpoint's real addresses."""
    target = Target(
        url=endpoint.url,
        token_url=f"{settings.BERTH_PUBLIC_URL}/accounts-api/v2/auth/token",
        model=served_name(endpoint),
        task=endpoint.revision.model.task if endpoint.revision else "other",
        private=endpoint.private,
    )
    return {"target": target, "snippets": snippets(target)}
