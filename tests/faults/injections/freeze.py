"""A replica that neither answers nor ends: stopped by a signal, or by the kernel's freezer."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress

from tests.faults.engine import EngineAway
from tests.faults.story import Story


def strike(story: Story) -> None:
    """Freeze one of the running containers. Half of the scenarios thaw it after a while; the others never do."""
    found = story.containers()
    if not found:
        story.notes.append("no container to freeze")
        return
    one = found[int(story.scenario.pick * 1000) % len(found)]
    by_signal, thaws = story.scenario.pick < 0.5, int(story.scenario.pick * 100) % 2 == 0
    story.notes.append(
        f"froze {one['Name']} {'by SIGSTOP' if by_signal else 'by the freezer'}, thaws: {thaws}"
    )
    pid = int(one["State"]["Pid"])  # type: ignore[index]
    if by_signal:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    else:
        story.world.engine.api.pause(str(one["Id"]))
    if not thaws:
        return
    time.sleep(story.scenario.down_s)
    if by_signal:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    else:
        with suppress(EngineAway):
            story.world.engine.api.pause(str(one["Id"]), undo=True)
