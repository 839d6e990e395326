"""Containers of ours whose endpoint is gone: left by a crash between two steps, removed by the sweep."""

from __future__ import annotations

import logging

from endpoints.models import Endpoint
from runtimes.contract import LABEL_ENDPOINT, Runtime
from runtimes.errors import RuntimeFailure

log = logging.getLogger(__name__)


def remove_strangers(runtime: Runtime) -> list[str]:
    """Remove every container of this installation that belongs to no endpoint; answers who is gone."""
    try:
        found = runtime.list()
    except RuntimeFailure as failure:
        log.warning("the sweep could not list containers: %s (%s)", failure.code, failure.evidence)
        return []
    known = set(Endpoint.objects.values_list("pk", flat=True))
    strangers = [item.name for item in found if item.labels.get(LABEL_ENDPOINT) not in known]
    return [name for name in strangers if _removed(name, runtime)]


def _removed(name: str, runtime: Runtime) -> bool:
    log.info("removing %s: its endpoint is gone", name)
    try:
        runtime.stop(name)
        runtime.remove(name)
    except RuntimeFailure as failure:  # one that can't be removed must not keep the others
        log.warning("%s could not be removed, the next sweep tries again: %s", name, failure.evidence)
        return False
    return True
