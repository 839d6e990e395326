"""One import from claim to outcome."""

from __future__ import annotations

import errno
import logging
import shutil
from typing import Any

from django.conf import settings

from registry.errors import ImportFailure
from registry.frameworks import FrameworkDefinition, definition_of
from registry.importing.hub import HubSource, import_hub, resolve
from registry.importing.lease import Lease, LeaseLost, claim
from registry.importing.local import import_local
from registry.importing.progress import Progress
from registry.importing.result import Inspected, size_of
from registry.models import ModelStatus, ModelTask, RegisteredModel, Source
from registry.weights import weights_folder

log = logging.getLogger(__name__)

_FULL = (errno.ENOSPC, errno.EDQUOT)


def run(model_id: str) -> None:
    """Do the import, if nobody else does. Its outcome is in the model's row: READY, or FAILED with a reason."""
    lease = claim(model_id)
    if lease is None:
        return
    try:
        _run(lease)
    except LeaseLost:
        log.info("Import %s: deleted, or taken over by another worker", model_id)
        remove_if_orphan(model_id)


def remove_if_orphan(model_id: str) -> None:
    """Remove the weights folder of a model that is gone."""
    if not RegisteredModel.objects.filter(pk=model_id).exists():
        shutil.rmtree(weights_folder(model_id), ignore_errors=True)


def _run(lease: Lease) -> None:
    model = RegisteredModel.objects.select_related("framework").get(pk=lease.model_id)
    try:
        inspected = _import(model, lease)
    except ImportFailure as failure:
        _fail(lease, failure.code, failure.params)
    except OSError as error:
        _fail(lease, *_disk_reason(error))
    except LeaseLost:
        raise
    except Exception as error:
        # A defect of ours or of a library: said in the row instead of being tried for ever.
        log.exception("Import %s crashed", lease.model_id)
        _fail(lease, "import_crashed", {"error": type(error).__name__})
    else:
        _finish(lease, model, inspected)


def _import(model: RegisteredModel, lease: Lease) -> Inspected:
    definition = definition_of(model.framework)
    target = weights_folder(lease.model_id)
    progress = Progress(lease)
    if model.source == Source.LOCAL or (model.source == Source.IMAGE and model.source_ref.get("path")):
        return import_local(
            settings.BERTH_MODELS_ROOT, model.source_ref["path"], target, definition, progress
        )
    if model.source == Source.HUGGING_FACE:
        return import_hub(_pinned(model, lease), target, definition, progress)
    return _image_only(definition)


def _image_only(definition: FrameworkDefinition) -> Inspected:
    """Nothing to bring: the engine fetches the image when an endpoint is deployed."""
    return Inspected(facts={"format": "image"} if "image" in definition.accepts else {})


def _pinned(model: RegisteredModel, lease: Lease) -> HubSource:
    """The repository at one commit: the first try's, so that a resumed download is of the same files."""
    asked = model.source_ref
    source = HubSource(
        endpoint=settings.HF_ENDPOINT.rstrip("/"),
        repo_id=asked["repo_id"],
        revision=asked.get("revision") or "main",
        commit=asked.get("commit", ""),
        files=tuple(asked.get("files", ())),
        token=model.hub_token,
    )
    if source.commit:
        return source
    commit = resolve(source)
    lease.write(source_ref={**asked, "commit": commit})
    return HubSource(source.endpoint, source.repo_id, source.revision, commit, source.files, source.token)


def _finish(lease: Lease, model: RegisteredModel, inspected: Inspected) -> None:
    folder = weights_folder(lease.model_id)
    size = size_of(folder) if folder.exists() else 0
    lease.end(
        status=ModelStatus.READY,
        reason_code="",
        reason_params={},
        task=model.task or inspected.task or ModelTask.OTHER,
        facts=dict(inspected.facts),
        entry_file=inspected.entry_file,
        weights_path=str(folder) if folder.exists() else "",
        size_bytes=size,
        bytes_done=size,
        bytes_total=size,
    )


def _fail(lease: Lease, code: str, params: dict[str, Any]) -> None:
    log.info("Import %s failed: %s %s", lease.model_id, code, params)
    lease.end(status=ModelStatus.FAILED, reason_code=code, reason_params=params)


def _disk_reason(error: OSError) -> tuple[str, dict[str, Any]]:
    if error.errno in _FULL:
        free = shutil.disk_usage(settings.BERTH_WEIGHTS_DIR).free
        return "no_space", {"needed": "?", "free": free}
    return "storage_error", {"error": error.strerror or str(error)}
