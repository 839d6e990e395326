"""Two workers reconcile at the same time, and one of them is killed in the middle of it."""

from __future__ import annotations

from tests.faults.story import Story


def before(story: Story) -> None:
    """The second one, well before anything is asked for."""
    story.world.second_worker()


def strike(story: Story) -> None:
    """Either."""
    second = story.world.helpers[-1]
    if story.scenario.pick < 0.5:
        story.notes.append("killed the second worker")
        second.kill()
        second.wait(10)
    else:
        story.notes.append("killed the first worker")
        story.world.process("worker").kill()
