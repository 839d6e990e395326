"""The sweep: what lost tasks, lost messages and killed workers leave behind is found and put right here."""

from __future__ import annotations

import logging
from collections.abc import Callable

from django.db import DatabaseError
from django.utils import timezone
from redis.exceptions import RedisError

from endpoints import addresses, changes, placement, queue
from endpoints.models import Endpoint
from endpoints.reconciler import lease, survey
from endpoints.usage import replica_time
from runtimes.contract import LABEL_ENDPOINT, Runtime
from runtimes.errors import RuntimeFailure

log = logging.getLogger(__name__)


def sweep(runtime: Runtime) -> None:
    """One look at everything. What fails does not keep the rest, and is tried again by the next one."""
    _try("leases of dead workers", lease.release_dead)
    _try("nodes and GPUs", lambda: placement.refresh(runtime))
    _try("claims of dead replicas", placement.release_dead)
    _try("endpoints", lambda: _hint(runtime))
    _try("containers without an endpoint", lambda: remove_strangers(runtime))
    _try("networks without an endpoint", lambda: remove_networks(runtime))
    _try("held addresses", addresses.release_left)
    _try("old changes", lambda: changes.prune(timezone.now()))
    _try("the time of replicas", lambda: replica_time.count(timezone.now()))


def _try(what: str, step: Callable[[], object]) -> None:
    try:
        step()
    except RuntimeFailure as failure:
        log.warning("%s were not looked at: %s (%s)", what, failure.code, failure.evidence)
    except (RedisError, DatabaseError, OSError) as error:
        log.warning("%s were not looked at: %s", what, error)


def _hint(runtime: Runtime) -> None:
    for endpoint_id in survey.unsettled(runtime):
        queue.reconcile_in(endpoint_id, 0)


def remove_strangers(runtime: Runtime) -> list[str]:
    """Remove every container of this installation that belongs to no endpoint; answers who is gone."""
    found = runtime.list()
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


def remove_networks(runtime: Runtime) -> list[str]:
    """Remove this installation's networks of projects that have no endpoint; answers whose are gone."""
    networks = runtime.networks()
    if not networks:
        return []
    used = set(Endpoint.objects.values_list("project_id", flat=True).distinct())
    unused = [key for key in networks if key not in {str(project) for project in used}]
    for key in unused:
        log.info("removing the network of %s: no endpoint is left there", key)
        runtime.remove_network(key)
    return unused
