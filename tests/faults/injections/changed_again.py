"""Somebody changes their mind while the last change is still being carried out."""

from __future__ import annotations

from tests.faults.story import Story


def strike(story: Story) -> None:
    """Another change of the same kind."""
    request = story.scenario.request
    if request == "pause":
        story.resume()
    elif request == "restart":
        story.restart()
    elif request.startswith("scale"):
        story.scale(3 - story.wanted.replicas)
    else:
        story.update()
