"""kill -9 of one process. Whoever watches over it starts it again; the engine's watcher is us."""

from __future__ import annotations

import time
from contextlib import suppress

import psutil

from tests.faults.story import Story


def strike(story: Story, name: str) -> None:
    """The engine stays away for a moment, as it does on a machine where systemd starts it again."""
    if name == "dockerd":
        story.world.engine.kill()
        time.sleep(min(story.scenario.down_s, 3))
        story.world.engine.start()
        return
    with suppress(psutil.NoSuchProcess):
        found = story.world.process(name)
        story.notes.append(f"killed {name} {found.pid}")
        found.kill()
