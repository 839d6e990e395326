"""Fetching a replica's image: minutes, bytes, and a heartbeat that tells a slow pull from a dead worker.

One pull at a time reports for a replica: whoever holds the row's `pull_token`, taken by a conditional UPDATE and kept
alive by the heartbeat. Every write is guarded by it, so that a worker that was frozen, or whose claim ran out, changes
nothing any more and gives up at its next word. Redis takes no part: flushing it starts no second pull.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from django.db import DatabaseError, connection, transaction
from django.db.models import F, Q, QuerySet
from django.utils import timezone

from endpoints import events, placement
from endpoints.live import endpoint_changed
from endpoints.models import DeployPhase, PhaseName, Replica, ReplicaState
from endpoints.queue import reconcile_soon
from endpoints.reconciler.evidence import cause_of
from endpoints.specs import image_for, registry_auth
from registry import registries
from registry.models import Source
from runtimes.contract import PullProgress, Runtime
from runtimes.errors import RegistryForbidden, RuntimeFailure

log = logging.getLogger(__name__)
REPORT_EVERY_S = 0.5
BEAT_EVERY_S = 5.0
CLAIM = timedelta(
    seconds=15
)  # a dead worker's claim ends by then; the planner waits as long (PULL_BEAT_LIMIT)
PACE_WINDOW_S = 10.0


class NotWanted(Exception):
    """The replica is gone or no longer waits, or another worker pulls for it: nobody needs this pull."""


def pull_for(replica_id: str, runtime: Runtime) -> None:
    """Fetch the image of a waiting replica. Failures are written on the replica; the reconciler decides."""
    replica = (
        Replica.objects.select_related("endpoint", "revision__model__framework", "revision__instance_type")
        .filter(pk=replica_id, state=ReplicaState.WAITING)
        .first()
    )
    if replica is None:
        return
    with _claimed(replica) as mine:
        if mine is not None:
            _pull(replica, runtime, mine)


def _pull(replica: Replica, runtime: Runtime, mine: Claim) -> None:
    image = image_for(replica.revision)
    try:
        if refused := _refusal(replica, image):
            raise RegistryForbidden(refused)
        runtime.pull(image, auth=registry_auth(replica.revision), progress=_reporter(replica, mine, image))
    except NotWanted:
        return
    except RuntimeFailure as failure:
        log.warning("%s: %s (%s)", replica.name, failure.code, failure.evidence)
        _failed(replica, mine, image, failure)
    else:
        _pulled(replica, mine, image)
    _tell(replica)


def _refusal(replica: Replica, image: str) -> str:
    """Of an image that somebody named; a framework's own was chosen by who runs the platform."""
    if replica.revision.model.source != Source.IMAGE:
        return ""
    return registries.refusal(image, look_up=True)


class Claim:
    """The right to pull for one replica, as long as the heart beats and the replica waits."""

    def __init__(self, replica: Replica) -> None:
        self._replica, self._token = replica, secrets.token_hex(16)

    def take(self) -> bool:
        """False: somebody else has it."""
        now = timezone.now()
        held = {"pull_token": self._token, "pull_until": now + CLAIM, "pull_beat_at": now}
        waits = Replica.objects.filter(pk=self._replica.pk, state=ReplicaState.WAITING)
        if waits.filter(pull_token="").update(**held):
            return True
        # One that ends later than any claim can was made before the clock was set back.
        over = Q(pull_until__lt=now) | Q(pull_until__gt=now + 3 * CLAIM)
        taken_over = bool(waits.filter(over).update(**held))
        if taken_over:
            self.phase().update(tries=F("tries") + 1)
        return taken_over

    def beat(self) -> bool:
        """False: it was lost, or the replica waits no more."""
        now = timezone.now()
        return bool(self.row().update(pull_until=now + CLAIM, pull_beat_at=now))

    def row(self) -> QuerySet[Replica]:
        """The replica's row, while this claim holds. Whoever died meanwhile, the next one's token is another."""
        return Replica.objects.filter(pk=self._replica.pk, state=ReplicaState.WAITING, pull_token=self._token)

    def phase(self) -> QuerySet[DeployPhase]:
        """The row of its pull on the timeline, while this claim holds."""
        return DeployPhase.objects.filter(
            replica=self._replica,
            name=PhaseName.PULLING,
            replica__state=ReplicaState.WAITING,
            replica__pull_token=self._token,
        )

    def give_back(self) -> None:
        """The next pull needs not wait."""
        Replica.objects.filter(pk=self._replica.pk, pull_token=self._token).update(
            pull_token="", pull_until=None
        )


@contextmanager
def _claimed(replica: Replica) -> Iterator[Claim | None]:
    """The claim, None if somebody else has it. While the block runs, its heart beats: a registry that sends nothing
    for minutes is not a dead worker."""
    claim = Claim(replica)
    if not claim.take():
        yield None
        return
    done = threading.Event()
    heart = threading.Thread(target=_beat, args=(replica, claim, done), name="pull-heart", daemon=True)
    heart.start()
    try:
        yield claim
    finally:
        done.set()
        heart.join()
        claim.give_back()


def _beat(replica: Replica, claim: Claim, done: threading.Event) -> None:
    try:
        while not done.wait(BEAT_EVERY_S):
            try:
                if not claim.beat():
                    return  # the pull itself finds out at its next word
            except DatabaseError as error:
                log.warning("%s: its pull's heart skips a beat (%s)", replica.name, error)
    finally:
        connection.close()


def _pulled(replica: Replica, mine: Claim, image: str) -> None:
    with transaction.atomic():
        # A pull takes minutes: meanwhile the replica may have been stopped, and its endpoint be gone.
        if mine.row().select_for_update().first():
            mine.phase().update(bytes_per_s=0, layers_waiting=0)
            events.record(replica.endpoint, "image.pulled", image=image)


def _failed(replica: Replica, mine: Claim, image: str, failure: RuntimeFailure) -> None:
    now = timezone.now()
    found = {"error": failure.evidence, "image": image}
    columns: dict[str, Any] = {"reason_code": cause_of(failure), "evidence": found, "pull_beat_at": now}
    if not failure.transient:
        columns |= {"state": ReplicaState.FAILED, "ended_at": now}
    with transaction.atomic():
        mine.phase().update(bytes_per_s=0, tries=F("tries") + 1)  # whatever comes, this one is not the usual
        waited = mine.row().update(**columns)
        if waited and not failure.transient:
            DeployPhase.objects.filter(replica=replica, finished_at=None).update(finished_at=now)
            placement.release(replica.pk)
            events.record(
                replica.endpoint,
                "replica.failed",
                replica=replica.name,
                reason=columns["reason_code"],
                image=image,
            )


class Pace:
    """Bytes per second over the last seconds: what a pull does now, not what it did on average."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def note(self, at_s: float, done: int) -> float:
        """The pace, with this look. at_s: any clock's seconds; done: bytes so far. Fewer than before: begun anew."""
        if self._seen and done < self._seen[-1][1]:
            self._seen.clear()
        self._seen.append((at_s, done))
        while len(self._seen) > 2 and at_s - self._seen[0][0] > PACE_WINDOW_S:
            self._seen.popleft()
        begun, first = self._seen[0]
        return (done - first) / (at_s - begun) if at_s > begun else 0.0


def _reporter(replica: Replica, mine: Claim, image: str) -> Callable[[PullProgress], None]:
    last = 0.0
    shown = PullProgress(-1, -1)
    pace = Pace()

    def report(progress: PullProgress) -> None:
        nonlocal last, shown
        now = time.monotonic()
        whole = progress.done == progress.total and not progress.waiting
        if now - last < REPORT_EVERY_S and not whole:
            return
        last = now
        columns = _columns(progress, pace.note(now, progress.done))
        if progress.done != shown.done:
            columns["bytes_moved_at"] = timezone.now()
        shown = progress
        try:
            # What an earlier try ended with is over when bytes come.
            fresh = {"reason_code": "", "evidence": {"image": image}} if progress.done else {}
            if not mine.row().update(pull_beat_at=timezone.now(), **fresh):
                raise NotWanted
            mine.phase().update(**columns)
        except DatabaseError as error:
            # Minutes of transfer are not given up for a database that is away for a moment.
            log.warning("%s: how far its pull is could not be written (%s)", replica.name, error)
        else:
            endpoint_changed(replica.endpoint)

    return report


def _columns(progress: PullProgress, bytes_per_s: float) -> dict[str, Any]:
    return {
        "bytes_done": progress.done,
        "bytes_total": progress.total,
        "layers_waiting": progress.waiting,
        "bytes_per_s": round(bytes_per_s, 1),
    }


def _tell(replica: Replica) -> None:
    endpoint_changed(replica.endpoint)
    reconcile_soon(replica.endpoint_id)
