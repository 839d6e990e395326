"""Somebody deletes it while it is still being made or changed; at the step create.pulling, while its image comes."""

from __future__ import annotations

from tests.faults.story import Story


def strike(story: Story) -> None:
    """DELETE."""
    story.delete()
