"""Replicas that were ready and stopped answering: asked every few seconds, noted on their rows.

The note is a hint with a time: what is done about it is the planner's business, which asks once more itself.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from django.db import DatabaseError, close_old_connections, transaction
from django.utils import timezone

from endpoints import gateway_feed
from endpoints.live import endpoint_changed
from endpoints.models import Endpoint, Replica, ReplicaState, Revision
from endpoints.queue import reconcile_in
from endpoints.specs import health_check

log = logging.getLogger(__name__)
ROUND_S = 5.0
AGAIN_S = 1.0  # between a first failure and the second question
LIMIT_S = 2.0  # of one question
AT_ONCE = 100
# A health path comes from the framework, or from the model of a custom image, which may be edited.
PATHS_S = 60.0
_STATUS_BYTES = 12  # "HTTP/1.1 200"


@dataclass(frozen=True, slots=True)
class Target:
    """A replica that is routed to."""

    id: UUID
    name: str
    endpoint_id: str
    project_id: str
    host: str
    port: int
    revision_id: int
    unhealthy_since: datetime | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a round found: rows to write, and endpoints that the reconciler should look at."""

    fallen: tuple[tuple[Target, datetime], ...]
    recovered: tuple[Target, ...]
    troubled: frozenset[str]


@dataclass
class Memory:
    """When each replica failed first of those failures that follow one another without a good answer."""

    failed_at: dict[UUID, datetime] = field(default_factory=dict)

    def judge(self, asked: Collection[Target], good: Collection[UUID], now: datetime) -> Verdict:
        """Two failures in a row make it unhealthy since the first; one good answer ends that."""
        fallen, recovered, troubled = [], [], set()
        for target in asked:
            if target.id in good:
                self.failed_at.pop(target.id, None)
                if target.unhealthy_since:
                    recovered.append(target)
                continue
            first = self.failed_at.get(target.id)
            if target.unhealthy_since:
                troubled.add(target.endpoint_id)
            elif first is None:
                self.failed_at[target.id] = now
            else:
                fallen.append((target, first))
        return Verdict(tuple(fallen), tuple(recovered), frozenset(troubled))

    def forget_others(self, asked: Iterable[Target]) -> None:
        """Drop what is no longer ready."""
        present = {target.id for target in asked}
        self.failed_at = {key: at for key, at in self.failed_at.items() if key in present}


class HealthWatch:
    """One round after the other."""

    def __init__(self) -> None:
        self._memory = Memory()
        self._paths: dict[int, str] = {}
        self._paths_until = 0.0
        self._all_failed = False

    def round(self) -> None:
        """Ask everyone; a moment later, once more those that failed for the first time."""
        targets = list(_targets())
        self._memory.forget_others(targets)
        self._learn_paths(targets)
        failed = self._ask(targets)
        self._tell_of_a_common_cause(targets, failed)
        fresh = [target for target in failed if target.unhealthy_since is None]
        if fresh:
            time.sleep(AGAIN_S)
            self._ask(fresh)

    def _ask(self, targets: list[Target]) -> list[Target]:
        """Ask, write down what changed, and answer who failed."""
        now = timezone.now()
        urls = {target.id: (target.host, target.port, self._paths[target.revision_id]) for target in targets}
        good = asyncio.run(answering(urls)) if urls else frozenset()
        verdict = self._memory.judge(targets, good, now)
        for target, since in verdict.fallen:
            _write(target, since)
        for target in verdict.recovered:
            _write(target, None)
        for endpoint_id in verdict.troubled:
            reconcile_in(endpoint_id, 0)
        return [target for target in targets if target.id not in good]

    def _learn_paths(self, targets: Iterable[Target]) -> None:
        if time.monotonic() > self._paths_until:
            self._paths, self._paths_until = {}, time.monotonic() + PATHS_S
        missing = {target.revision_id for target in targets} - self._paths.keys()
        if missing:
            for revision in Revision.objects.filter(pk__in=missing).select_related("model__framework"):
                self._paths[revision.pk] = health_check(revision).path

    def _tell_of_a_common_cause(self, targets: list[Target], failed: list[Target]) -> None:
        endpoints = {target.endpoint_id for target in targets}
        all_failed = len(failed) == len(targets) and len(endpoints) > 1
        if all_failed and not self._all_failed:
            log.error(
                "none of %d ready replicas of %d endpoints answers: the network of this machine, or this process,"
                " is more likely to blame than they are",
                len(targets),
                len(endpoints),
            )
        self._all_failed = all_failed


def _targets() -> Iterator[Target]:
    """One query."""
    ready = Replica.objects.filter(state=ReplicaState.READY, port__gt=0).exclude(host="")
    columns = ("id", "name", "endpoint_id", "endpoint__project_id", "host", "port", "revision_id")
    for row in ready.values_list(*columns, "unhealthy_since"):
        yield Target(*row)


def _write(target: Target, since: datetime | None) -> None:
    """Note it if it is still news, and let gateway, pages and reconciler know."""
    unchanged = Replica.objects.filter(
        pk=target.id, state=ReplicaState.READY, unhealthy_since__isnull=since is not None
    )
    with transaction.atomic():
        if not unchanged.update(unhealthy_since=since):
            return
        gateway_feed.changed()
        endpoint_changed(Endpoint(id=target.endpoint_id, project_id=target.project_id))
    log.info("%s %s", target.name, "no longer answers" if since else "answers again")
    reconcile_in(target.endpoint_id, 0)


def watch_health() -> None:
    """Start the watch in a thread of its own."""
    threading.Thread(target=_run, name="health", daemon=True).start()


def _run() -> None:
    watch = HealthWatch()
    while True:
        began = time.monotonic()
        try:
            watch.round()
        except DatabaseError as error:
            log.warning("the database does not answer (%s): replicas' health is not watched for now", error)
        except Exception:  # nobody would start this thread again
            log.exception("a round of health questions broke off")
        finally:
            close_old_connections()
        time.sleep(max(0.1, ROUND_S - (time.monotonic() - began)))


# ---- asking: no HTTP library, which would cost a millisecond a replica


async def answering(urls: Mapping[UUID, tuple[str, int, str]]) -> frozenset[UUID]:
    """Those that answer GET with 2xx within LIMIT_S, at most AT_ONCE asked at a time."""
    waiting = iter(urls.items())
    good: set[UUID] = set()

    async def ask_on() -> None:
        for key, (host, port, path) in waiting:
            if await _answers(host, port, path):
                good.add(key)

    await asyncio.gather(*(ask_on() for _ in range(min(AT_ONCE, len(urls)))))
    return frozenset(good)


async def _answers(host: str, port: int, path: str) -> bool:
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[bytes] = loop.create_future()
    transport = None
    status = b""
    try:
        async with asyncio.timeout(LIMIT_S):
            transport, _ = await loop.create_connection(lambda: _Question(answer), host, port)
            shown = f"[{host}]" if ":" in host else host
            request = (
                f"GET {path} HTTP/1.1\r\nHost: {shown}:{port}\r\nAccept: */*\r\nConnection: close\r\n\r\n"
            )
            transport.write(request.encode())
            status = await answer
    except (OSError, TimeoutError, UnicodeError):
        return False
    finally:
        if transport is not None:
            # A goodbye to one that answered; one that is stuck would keep what it was sent.
            (transport.close if status else transport.abort)()
    return status.startswith(b"HTTP/1.") and status[9:10] == b"2"


class _Question(asyncio.Protocol):
    """Reads as much as tells the status, and no more."""

    def __init__(self, answer: asyncio.Future[bytes]) -> None:
        self._answer = answer
        self._got = b""

    def data_received(self, data: bytes) -> None:
        """The first bytes decide."""
        self._got += data[:_STATUS_BYTES]
        if len(self._got) >= _STATUS_BYTES:
            self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        """It may have said nothing."""
        self._end()

    def _end(self) -> None:
        if not self._answer.done():
            self._answer.set_result(self._got)
