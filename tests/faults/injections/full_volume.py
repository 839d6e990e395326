"""The file system of the models is full."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

from tests.faults.story import Story

_FILLER = ".filler"


def strike(story: Story) -> None:
    """Not a byte is left, in the middle of a download. `after` makes room."""
    with suppress(OSError), _filler(story).open("wb") as file:
        while True:
            file.write(bytes(65536))
            file.flush()
    assert shutil.disk_usage(story.world.volume).free == 0


def after(story: Story) -> None:
    """Room again."""
    _filler(story).unlink()


def _filler(story: Story) -> Path:
    return story.world.volume / _FILLER
