"""Fetching a replica's image: minutes, bytes, and a heartbeat that tells a slow pull from a dead worker."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from django.core.cache import cache
from django.db import DatabaseError, connection, transaction
from django.db.models import QuerySet
from django.utils import timezone
from redis.exceptions import RedisError

from endpoints import events
from endpoints.live import endpoint_changed
from endpoints.models import DeployPhase, PhaseName, Replica, ReplicaState
from endpoints.queue import reconcile_soon
from endpoints.specs import image_for, registry_auth
from runtimes.contract import PullProgress, Runtime
from runtimes.errors import RuntimeFailure

log = logging.getLogger(__name__)
REPORT_EVERY_S = 0.5
BEAT_EVERY_S = 5.0
CLAIM_S = 15  # a dead worker's claim ends by then; the planner waits as long (plan.PULL_BEAT_LIMIT)


class NotWanted(Exception):
    """The replica is gone or no longer waits: nobody needs this pull."""


def pull_for(replica_id: str, runtime: Runtime) -> None:
    """Fetch the image of a waiting replica. Failures are written on the replica; the reconciler decides."""
    replica = (
        Replica.objects.select_related("endpoint", "revision__model__framework")
        .filter(pk=replica_id, state=ReplicaState.WAITING)
        .first()
    )
    if replica is None:
        return
    with _claimed(replica) as mine:
        if mine:
            _pull(replica, runtime)


def _pull(replica: Replica, runtime: Runtime) -> None:
    image = image_for(replica.revision)
    try:
        runtime.pull(image, auth=registry_auth(replica.revision), progress=_reporter(replica))
    except NotWanted:
        return
    except RuntimeFailure as failure:
        log.warning("%s: %s (%s)", replica.name, failure.code, failure.evidence)
        _failed(replica, image, failure)
    else:
        _pulled(replica, image)
    _tell(replica)


@contextmanager
def _claimed(replica: Replica) -> Iterator[bool]:
    """Whether this is the only pull for the replica. While the block runs, its heart beats: a registry that sends
    nothing for minutes is not a dead worker."""
    key = f"pulling:{replica.pk}"
    if not cache.add(key, 1, timeout=CLAIM_S):
        yield False
        return
    done = threading.Event()
    heart = threading.Thread(target=_beat, args=(replica, key, done), name="pull-heart", daemon=True)
    heart.start()
    try:
        yield True
    finally:
        done.set()
        heart.join()
        cache.delete(key)


def _beat(replica: Replica, key: str, done: threading.Event) -> None:
    try:
        while not done.wait(BEAT_EVERY_S):
            _waiting(replica).update(pull_beat_at=timezone.now())
            cache.touch(key, CLAIM_S)
    except (DatabaseError, RedisError) as error:
        log.warning("%s: its pull's heart stopped (%s); another one may be started", replica.name, error)
    finally:
        connection.close()


def _pulled(replica: Replica, image: str) -> None:
    with transaction.atomic():
        # A pull takes minutes: meanwhile the replica may have been stopped, and its endpoint be gone.
        if _waiting(replica).select_for_update().first():
            events.record(replica.endpoint, "image.pulled", image=image)


def _failed(replica: Replica, image: str, failure: RuntimeFailure) -> None:
    found = {"error": failure.evidence, "image": image}
    columns: dict[str, object] = {
        "reason_code": failure.code,
        "evidence": found,
        "pull_beat_at": timezone.now(),
    }
    if not failure.transient:
        columns |= {"state": ReplicaState.FAILED, "ended_at": timezone.now()}
    with transaction.atomic():
        waited = _waiting(replica).update(**columns)
        if waited and not failure.transient:
            DeployPhase.objects.filter(replica=replica, finished_at=None).update(finished_at=timezone.now())
            events.record(
                replica.endpoint, "replica.failed", replica=replica.name, reason=failure.code, image=image
            )


def _reporter(replica: Replica) -> Callable[[PullProgress], None]:
    last = 0.0

    def report(progress: PullProgress) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < REPORT_EVERY_S:
            return
        last = now
        if not _waiting(replica).update(pull_beat_at=timezone.now()):
            raise NotWanted
        DeployPhase.objects.filter(replica=replica, name=PhaseName.PULLING).update(
            bytes_done=progress.done, bytes_total=progress.total
        )
        endpoint_changed(replica.endpoint)

    return report


def _waiting(replica: Replica) -> QuerySet[Replica]:
    """Its row, while it still waits."""
    return Replica.objects.filter(pk=replica.pk, state=ReplicaState.WAITING)


def _tell(replica: Replica) -> None:
    endpoint_changed(replica.endpoint)
    reconcile_soon(replica.endpoint_id)
