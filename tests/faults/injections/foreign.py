"""Containers that carry our labels and that no row knows.

What has this installation's owner label is ours to remove, whatever else it says. What has another owner's is another
installation's on the same engine: it is left alone, and never served, though it names our endpoint.
"""

from __future__ import annotations

from tests.faults.story import Story
from tests.faults.world import OTHER, PORT, World


def strike(story: Story) -> None:
    """One of each kind."""
    world = story.world
    endpoint = story.endpoint or "me-00000000-0000-4000-8000-000000000000"
    _stranger(story, "stray", world.owner, endpoint)
    orphan(story)
    _stranger(story, OTHER, OTHER, endpoint)


def orphan(story: Story) -> None:
    """A container of an endpoint that does not exist: no event leads there, only the sweep finds it."""
    _stranger(story, "orphan", story.world.owner, "me-00000000-0000-4000-8000-00000000dead")


def _stranger(story: Story, what: str, owner: str, endpoint: str) -> None:
    name = f"{story.name}-{what}"
    story.strangers.append(name)
    _run(story.world, name, {"berth.owner": owner, "berth.endpoint": endpoint, "berth.replica": name})


def _run(world: World, name: str, labels: dict[str, str]) -> None:
    world.engine.api.create(
        name,
        {
            "Image": world.registry.image("base"),
            "Cmd": [str(PORT), name, "0"],
            "Labels": labels,
            "HostConfig": {"NetworkMode": "none"},
        },
    )
    world.engine.api.start(name)
