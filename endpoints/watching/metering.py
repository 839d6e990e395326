"""Every five seconds: what the gateways told and what the replicas use → one sample an endpoint → the autoscaler.

The gateways tell when a slot is over, so a round runs a moment later and is about the slot just over. One process
does it at a time, however many watchers there are.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from django.db import DatabaseError, close_old_connections
from redis.exceptions import RedisError

from config.cache import alone
from endpoints import activation
from endpoints.autoscaling import ledger
from endpoints.autoscaling.deciding import Autoscaler
from endpoints.metrics import store, told
from endpoints.metrics.readings import Readings
from endpoints.metrics.sample import FINEST, ReplicaFigures, Sample
from endpoints.models import Endpoint, Replica, ReplicaState
from gateway.figures import EndpointFigures, Told, add
from runtimes.contract import Runtime

log = logging.getLogger(__name__)
AFTER_S = 1.5  # behind the slot's end: the gateways tell within the first second
LIMIT_S = 20  # of one round; a process that was killed in one is waited for as long
# A gateway that told within this time is expected to tell again: without its figures a slot is not complete.
EXPECTED_S = 20.0
PRUNED_EVERY_S = 3600


def slot_of(now: float) -> int:
    """The beginning of the slot that `now` is in, seconds since 1970."""
    return int(now // FINEST) * FINEST


class Metering:
    """What is kept from round to round: cumulative readings, who told lately, the autoscaler's memory."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._readings = Readings()
        self._autoscaler = Autoscaler()
        self._told_at: dict[str, float] = {}
        self._pruned_at = 0.0

    def round(self, now: float) -> list[str]:
        """Measure, store and decide for the slot before the one that `now` is in; answers which endpoints were
        scaled. Raises DatabaseError."""
        at = slot_of(now) - FINEST
        figures, seconds, complete = self._gateways(now)
        held = _held()
        endpoints = list(
            Endpoint.objects.filter(deleting_at=None).select_related("revision__instance_type").iterator(500)
        )
        replicas = list(Replica.objects.filter(state=ReplicaState.READY))
        held_seconds = _claimed()
        measured = self._readings.take(replicas, self._runtime)
        by_endpoint: dict[str, list[Replica]] = defaultdict(list)
        for row in replicas:
            by_endpoint[row.endpoint_id].append(row)
        samples = {
            item.id: sample_of(
                item,
                at,
                by_endpoint[item.id],
                measured,
                _with_held(figures.get(item.id, EndpointFigures()), held.get(item.id, 0)),
                seconds,
                held_seconds.get(item.id, 0) * FINEST,
            )
            for item in endpoints
        }
        store.write(samples)
        store.tidy(datetime.fromtimestamp(now, UTC))
        self._prune(now, samples)
        return self._autoscaler.look(endpoints, samples, complete, held.keys())

    def _gateways(self, now: float) -> tuple[Mapping[str, EndpointFigures], float, bool]:
        """Figures by endpoint over all gateways, how many seconds they cover, and whether all told."""
        try:
            heard = told.drain()
        except RedisError as error:
            log.warning("Redis does not answer (%s): nothing is known of the gateways' traffic", error)
            return {}, 0.0, False
        covered: dict[str, float] = defaultdict(float)
        by_gateway: dict[str, list[Told]] = defaultdict(list)
        for item in heard:
            covered[item.told.gateway_id] += item.told.seconds
            self._told_at[item.told.gateway_id] = now
            by_gateway[item.told.gateway_id].append(item.told)
        self._told_at = {key: at for key, at in self._told_at.items() if 0 <= now - at < EXPECTED_S}
        complete = bool(covered) and set(self._told_at) <= set(covered)
        total: dict[str, list[EndpointFigures]] = defaultdict(list)
        for mine in by_gateway.values():
            for endpoint_id, seen in _together(mine).items():
                total[endpoint_id].append(seen)
        return {key: add(items) for key, items in total.items()}, max(covered.values(), default=0.0), complete

    def _prune(self, now: float, samples: Mapping[str, Sample]) -> None:
        if not 0 <= now - self._pruned_at < PRUNED_EVERY_S:
            self._pruned_at = now
            ledger.prune(datetime.fromtimestamp(now, UTC), samples)


def _together(pushes: Sequence[Told]) -> dict[str, EndpointFigures]:
    """Of one gateway's several pushes, in order: what ended is added up; what is in flight now, the newest says."""
    found: dict[str, EndpointFigures] = {}
    newest, nothing = pushes[-1].endpoints, EndpointFigures()
    for endpoint_id in {name for push in pushes for name in push.endpoints}:
        several = [push.endpoints[endpoint_id] for push in pushes if endpoint_id in push.endpoints]
        now = newest.get(endpoint_id, nothing)
        found[endpoint_id] = replace(add(several), in_flight=now.in_flight, waiting=now.waiting)
    return found


def _held() -> Mapping[str, int]:
    """Requests at activators, by endpoint."""
    try:
        return activation.waiting()
    except RedisError as error:
        log.warning("Redis does not answer (%s): nothing is known of waiting requests", error)
        return {}


def _claimed() -> dict[str, int]:
    """How many replicas of each endpoint hold their resources."""
    counts: dict[str, int] = defaultdict(int)
    for endpoint_id in Replica.objects.filter(claimed=True).values_list("endpoint_id", flat=True):
        counts[endpoint_id] += 1
    return counts


def _with_held(figures: EndpointFigures, held: int) -> EndpointFigures:
    """Gateways count what replicas got from them; what an activator has in hand, waiting or passed on, it tells."""
    return replace(figures, in_flight=figures.in_flight + held)


def sample_of(
    endpoint: Endpoint,
    at: int,
    ready: Sequence[Replica],
    measured: Mapping[str, ReplicaFigures],
    figures: EndpointFigures,
    seconds: float,
    replica_seconds: float,
) -> Sample:
    """All that is known of one endpoint's slot."""
    return Sample(
        at=at,
        seconds=seconds,
        answered=figures.answered,
        duration=figures.duration,
        first_byte=figures.first_byte,
        waiting=figures.waiting,
        in_flight=float(figures.in_flight),
        in_flight_max=figures.in_flight,
        wanted=endpoint.wanted_replicas,
        ready=float(len(ready)),
        low=endpoint.min_replicas,
        high=endpoint.max_replicas,
        replica_seconds=replica_seconds,
        replicas={row.name: found for row in ready if (found := measured.get(row.name)) is not None},
    )


# ---- the thread


def watch_metrics(runtime: Runtime) -> None:
    """Start the rounds in a thread of their own."""
    threading.Thread(target=_run, args=(runtime,), name="metering", daemon=True).start()


def _run(runtime: Runtime, clock: Callable[[], float] = time.time) -> None:
    metering = Metering(runtime)
    while True:
        now = clock()
        # Never longer than a slot, whatever the clock does meanwhile.
        time.sleep(FINEST - (now - AFTER_S) % FINEST)
        try:
            with alone("metering", LIMIT_S) as mine:
                if mine:
                    metering.round(clock())
        except DatabaseError as error:
            log.warning("the database does not answer (%s): nothing is measured or decided for now", error)
        except Exception:  # nobody would start this thread again
            log.exception("a round of measuring broke off")
        finally:
            close_old_connections()
