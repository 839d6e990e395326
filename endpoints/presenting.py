"""What the live parts of a page are rendered from. Views and sockets use the same, so that both say the same."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.utils import timezone

from endpoints.autoscaling import reading
from endpoints.cause_card import cause
from endpoints.deployment import timeline, told_replica
from endpoints.fixes import offered
from endpoints.history import entries, number_of, page_of, taken_back
from endpoints.models import Endpoint
from endpoints.phase_times import usual_of
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
    """Status, cause, timeline, replicas, facts: three queries, one more while something is under way."""
    replicas = replicas_of(endpoint)
    told = told_replica(replicas)
    phases = phases_of(told) if told else []
    under_way = told is None or any(phase.finished_at is None for phase in phases)
    revision = told.revision if told and told.revision_id != endpoint.revision_id else endpoint.revision
    usual = usual_of(revision) if under_way and revision else {}
    return {
        "endpoint": endpoint,
        "can_edit": can_edit,
        "replicas": replicas,
        "cause": cause(endpoint, replicas),
        "fixes": offered(endpoint) if can_edit else (),
        "update": taken_back(endpoint),
        "timeline": timeline(endpoint, told, phases, usual, timezone.now()),
    }


def revision_list(endpoint: Endpoint, can_edit: bool, before: str = "") -> dict[str, Any]:
    """Its revisions, newest first: five queries, whatever there is. before: only older ones than this number."""
    rows, more = page_of(endpoint, number_of(before))
    return {
        "endpoint": endpoint,
        "can_edit": can_edit,
        "entries": entries(endpoint, rows),
        "older_than": rows[-1].number if rows and more else None,
        "before": before if number_of(before) else "",
        "fixes": offered(endpoint) if can_edit and endpoint.failed_update else (),
        "update": taken_back(endpoint),
    }


def scaling(endpoint: Endpoint, can_edit: bool, before: str = "") -> dict[str, Any]:
    """How it scales and what was decided, newest first: three queries. before: only older ones than this decision."""
    start = number_of(before) or None
    entries, older_than = reading.page_of(endpoint, start)
    return {
        "endpoint": endpoint,
        "can_edit": can_edit,
        "present": reading.present(endpoint, timezone.now()),
        "decisions": entries,
        "older_than": older_than,
        "before": before if start else "",
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
