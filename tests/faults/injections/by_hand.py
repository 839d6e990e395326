"""Somebody removes a container with the engine's own command."""

from __future__ import annotations

from tests.faults.story import Story


def strike(story: Story) -> None:
    """docker rm --force."""
    found = story.containers()
    if not found:
        story.notes.append("no container to remove")
        return
    one = found[int(story.scenario.pick * 1000) % len(found)]
    story.notes.append(f"removed {one['Name']}")
    story.world.engine.api.remove(str(one["Id"]))
