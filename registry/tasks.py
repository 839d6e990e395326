"""Celery's entry points of the registry. The work is in registry.importing."""

from __future__ import annotations

import logging
import shutil
import uuid
from pathlib import Path

from celery import shared_task
from django.conf import settings
from django.utils import timezone

from registry.importing.lease import release_dead, unclaimed
from registry.models import RegisteredModel
from registry.queue import import_now

log = logging.getLogger(__name__)

# An import that waits behind others in the queue is asked for again; the older message then finds it taken.
RESEND_EXPIRES_S = 30


@shared_task(name="registry.tasks.import_model")
def import_model(model_id: str) -> None:
    """Bring a model's files here and read what they are."""
    # Not at the top: the hub's client and the GGUF tables are 40 MB, which only a process that imports should hold.
    from registry.importing.run import run

    run(model_id)


@shared_task(name="registry.tasks.sweep_imports")
def sweep_imports() -> None:
    """Ask again for imports that nobody works on, and remove what deleted models left behind."""
    release_dead()
    for model_id in unclaimed(timezone.now()).values_list("pk", flat=True):
        import_now(str(model_id), expires_s=RESEND_EXPIRES_S)
    remove_orphans(Path(settings.BERTH_WEIGHTS_DIR))


def remove_orphans(weights: Path) -> None:
    """Remove the folders of models that are gone. A folder is made only after its row, so none is too young."""
    folders = (
        {path.name: path for path in weights.glob("*-*-*-*-*") if path.is_dir()} if weights.exists() else {}
    )
    named = {name: path for name, path in folders.items() if _is_uuid(name)}
    if not named:
        return
    alive = {str(pk) for pk in RegisteredModel.objects.filter(pk__in=named).values_list("pk", flat=True)}
    for name in named.keys() - alive:
        log.info("Removing the weights of the deleted model %s", name)
        shutil.rmtree(named[name], ignore_errors=True)


def _is_uuid(name: str) -> bool:
    try:
        return str(uuid.UUID(name)) == name
    except ValueError:
        return False
