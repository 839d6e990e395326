"""What the import tests share: doing an import as the console and the worker do it, and reading its outcome."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest

from iam.actors import Actor
from registry import services
from registry.errors import Reason, reason_of
from registry.frameworks import load
from registry.importing import hub as hub_module
from registry.importing.run import run
from registry.models import ModelStatus, RegisteredModel
from registry.services import ImportSpec
from tests.support_model_files import write_gguf


def prepare(settings: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installation below `folder`: models root `models`, weights `weights`, frameworks loaded, short waits."""
    settings.BERTH_MODELS_ROOT = folder / "models"
    settings.BERTH_WEIGHTS_DIR = folder / "weights"
    settings.BERTH_MODELS_ROOT.mkdir()
    settings.BERTH_HOME = folder
    monkeypatch.setattr(hub_module, "RETRY_WAITS_S", (0.01, 0.01, 0.01))
    load()
    return folder


def gguf_bytes(folder: Path, rows: int = 64) -> bytes:
    return write_gguf(folder / "made.gguf", rows=rows).read_bytes()


def imported(actor: Actor, **values: Any) -> RegisteredModel:
    """Import as the console does, with the worker's part done at once."""
    spec = ImportSpec(
        **{"name": f"m-{uuid.uuid4().hex[:8]}", "framework": "llama-cpp", "source": "local", **values}
    )
    model = services.import_model(actor, spec)
    run(str(model.pk))
    model.refresh_from_db()
    return model


def why(model: RegisteredModel) -> Reason:
    assert model.status == ModelStatus.FAILED
    told = reason_of(model)
    assert told is not None
    assert told.message
    assert told.action
    assert "%" not in told.message + told.action
    return told
