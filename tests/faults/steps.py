"""When a named step is reached: what of the things that are seen it is."""

from __future__ import annotations

from collections.abc import Callable

from tests.faults.story import Story
from tests.faults.watch import Seen

# The part of a step's name after the dot → (source, kind, new value or "" for any).
_SIGNS: dict[str, tuple[str, str, str]] = {
    "placed": ("rows", "replica.inserted", ""),
    "pulling": ("registry", "pulling", ""),
    "made": ("engine", "create", ""),
    "started": ("engine", "start", ""),
    "starting": ("rows", "replica.state", "starting"),
    "ready": ("rows", "replica.state", "ready"),
    "active": ("rows", "endpoint.status", "ACTIVE"),
    "draining": ("rows", "replica.state", "draining"),
    "stopping": ("engine", "kill", ""),
    "removed": ("engine", "destroy", ""),
    "copying": ("hub", "downloading", ""),
}
_ASKED = {
    "create": "endpoint.inserted",
    "update": "endpoint.revision_id",
    "scale up": "endpoint.min_replicas",
    "scale down": "endpoint.min_replicas",
    "delete": "endpoint.deleting_at",
}


def sign_of(story: Story, step: str) -> Callable[[Seen], bool]:
    """Whether what was seen is that step of the scenario's endpoint."""
    request, _, word = step.partition(".")
    source, kind, new = ("rows", _ASKED[request], "") if word == "asked" else _SIGNS[word]
    bystander = story.world.bystander

    def fits(one: Seen) -> bool:
        if (one.source, one.kind) != (source, kind) or (new and one.new != new):
            return False
        if source in ("registry", "hub"):
            return story.name in one.subject
        return one.endpoint not in ("", bystander) and one.endpoint == (story.endpoint or one.endpoint)

    return fits
