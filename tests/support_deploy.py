"""Driving a deployment in a test without a broker: reconcile as often as the reconciler itself asks for."""

from __future__ import annotations

import time
from collections.abc import Callable

import redis
from django.conf import settings

from endpoints import gateway_feed
from endpoints.images import pull_for
from endpoints.models import Endpoint, ReplicaState
from endpoints.reconciler.run import reconcile
from gateway.control import Report
from runtimes.contract import Runtime


class Driver:
    """Plays worker and gateway: pulls what waits, reconciles, and applies each snapshot at its next poll."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self._applied = ""
        # As with a Redis that has been up for a while: all gateways have been heard of.
        redis.Redis.from_url(settings.REDIS_URL).set("berth:gateway:counting", "1", ex=10**9 - 60)

    def until(self, endpoint: Endpoint, done: Callable[[Endpoint], bool], timeout_s: float = 40) -> Endpoint:
        """Go on until `done`; fails with what was found last. An endpoint that is gone is done."""
        deadline = time.monotonic() + timeout_s
        while True:
            delay = self.step(endpoint)
            present = Endpoint.objects.filter(pk=endpoint.pk).first()
            if present is None or done(present):
                return present or endpoint
            assert time.monotonic() < deadline, (present.status, present.reason_code, present.reason_params)
            time.sleep(min(delay or 0.1, 0.2))

    def step(self, endpoint: Endpoint) -> float | None:
        """One look."""
        for replica in endpoint.replicas.filter(state=ReplicaState.WAITING).exclude(pull_beat_at=None):
            pull_for(str(replica.pk), self.runtime)
        delay = reconcile(endpoint.pk, self.runtime)
        report = Report(etag=self._applied, applied=self._applied, counted=True, streams={})
        given = gateway_feed.poll("test-gateway", report)
        self._applied = given.version if given else self._applied
        return delay

    def to(self, endpoint: Endpoint, *statuses: str, timeout_s: float = 40) -> Endpoint:
        """Until it has one of `statuses`."""
        return self.until(endpoint, lambda item: item.status in statuses, timeout_s)

    def gone(self, endpoint: Endpoint) -> None:
        """Until its row is gone."""
        self.until(endpoint, lambda _item: False)
        assert not Endpoint.objects.filter(pk=endpoint.pk).exists()
