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
    unknown = "me-00000000-0000-4000-8000-00000000dead"
    for what, owner, of in (
        ("stray", world.owner, endpoint),
        ("orphan", world.owner, unknown),
        (OTHER, OTHER, endpoint),
    ):
        name = f"{story.name}-{what}"
        story.strangers.append(name)
        _run(world, name, {"berth.owner": owner, "berth.endpoint": of, "berth.replica": name})


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
