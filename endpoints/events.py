"""Events: written in the transaction of the change they tell of, in the past tense, with who did it."""

from __future__ import annotations

from typing import Any

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from endpoints.errors import describe
from endpoints.models import Endpoint, Event, Status
from iam.actors import Actor

SENTENCES: dict[str, Promise] = {
    "endpoint.created": _("Created the endpoint"),
    "endpoint.changed": _("Changed %(fields)s"),
    "endpoint.revised": _("Asked for revision %(number)s: %(fields)s"),
    "endpoint.paused": _("Paused the endpoint"),
    "endpoint.resumed": _("Resumed the endpoint"),
    "endpoint.retried": _("Retried the deployment"),
    "endpoint.restarted": _("Restarted the endpoint"),
    "endpoint.rolled_back": _("Rolled back to revision %(restored)s, as revision %(number)s"),
    "endpoint.revision_kept": _("Kept revision %(number)s"),
    "endpoint.delete_requested": _("Asked to delete the endpoint"),
    "endpoint.deleted": _("The endpoint and all that belonged to it was removed"),
    "endpoint.woken": _("A request woke the endpoint"),
    "endpoint.scaled": _("Replicas went from %(before)s to %(after)s"),
    "status.changed": _("Status went from %(before)s to %(after)s"),
    "revision.taken_back": _(
        "Revision %(number)s was taken back, revision %(serving)s serves on: %(reason)s"
    ),
    "replica.started": _("Replica %(replica)s was started"),
    "replica.ready": _("Replica %(replica)s became ready"),
    "replica.failed": _("Replica %(replica)s failed: %(reason)s"),
    "replica.stopped": _("Replica %(replica)s was stopped"),
    "replica.lost": _("Replica %(replica)s was removed by someone else and is being replaced"),
    "image.pulled": _("Image %(image)s was fetched"),
}

# What of a failure's evidence an event repeats: what its sentence needs, never logs.
TOLD = (
    *("exit_code", "memory", "port", "path", "seconds", "image", "listens", "answer", "file", "architecture"),
    *("detail", "asked", "fits"),
)


def record(endpoint: Endpoint, kind: str, actor: Actor | None = None, **params: Any) -> Event:
    """Write one event. `params` must hold nothing secret."""
    return Event.objects.create(
        project_id=endpoint.project_id,
        endpoint=endpoint,
        target=endpoint.id,
        kind=kind,
        actor=actor.user if actor else None,
        actor_name=actor.name if actor else "",
        params=params,
    )


def sentence(event: Event) -> str:
    """The event in words. A kind that has none is shown as itself."""
    words = SENTENCES.get(event.kind)
    if words is None:
        return event.kind
    params = {name: _in_words(name, value, event) for name, value in event.params.items()}
    try:
        return str(str(words) % params)
    except (KeyError, TypeError, ValueError):
        return str(words)


def _in_words(name: str, value: Any, event: Event) -> Any:
    """A code becomes its sentence, a status its word, a replica's long name the part that tells it apart."""
    if name == "reason":
        return describe(str(value), event.params).message
    if name in ("before", "after") and value in Status.values:
        return Status(value).label
    if name == "replica":
        return str(value).removeprefix(f"berth-{event.target}-")
    return value
