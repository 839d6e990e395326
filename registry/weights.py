"""Where the files of imported models are kept."""

from __future__ import annotations

from pathlib import Path

from django.conf import settings


def weights_folder(model_id: str) -> Path:
    """The folder of one model's files."""
    return Path(settings.BERTH_WEIGHTS_DIR) / str(model_id)
