"""The engine's socket leads nowhere for half a minute, or to somebody who doesn't answer."""

from __future__ import annotations

import time

from tests.faults.story import Story


def strike(story: Story) -> None:
    """The engine itself notices nothing."""
    door, shut = story.world.door, story.scenario.pick < 0.5
    story.notes.append("socket shut" if shut else "socket silent")
    (door.shut if shut else door.freeze)()
    try:
        time.sleep(story.scenario.down_s)
    finally:
        (door.open if shut else door.thaw)()
