"""The wall clock of all of the platform's processes jumps."""

from __future__ import annotations

from tests.faults.injections.foreign import orphan
from tests.faults.story import Story


def strike(story: Story) -> None:
    """It stays where it has jumped to, until another scenario makes it jump again. The sweep must go on, too: it has an
    orphan to find."""
    story.notes.append(f"jumped by {story.world.clock.jump(story.scenario.jump_s)} s")
    orphan(story)
