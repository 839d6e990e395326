"""The wall clock of all of the platform's processes jumps."""

from __future__ import annotations

from tests.faults.story import Story


def strike(story: Story) -> None:
    """It stays where it has jumped to, until another scenario makes it jump again."""
    story.notes.append(f"jumped by {story.world.clock.jump(story.scenario.jump_s)} s")
