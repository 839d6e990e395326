"""How many queries many endpoints cost: as many as few ones do."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from endpoints import gateway_feed, sweeping
from endpoints.reconciler.survey import unsettled
from gateway.control import Report
from iam.actors import Actor
from runtimes.fake import FakeRuntime
from tests.support_fleet import GATEWAY, big_engine, polled, serving

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.redis]
MOST_OF_A_LIST, MOST_OF_A_SWEEP, MOST_OF_A_SNAPSHOT = 12, 20, 8


def queries(work: Callable[[], object]) -> int:
    """How many it makes the second time: the first one may fill a cache."""
    work()
    with CaptureQueriesContext(connection) as seen:
        work()
    return len(seen)


@pytest.mark.parametrize("count", [3, 30, 130])
def test_at_any_size(
    count: int, editor_actor: Actor, editor_client: Client, redis_server: redis.Redis
) -> None:
    runtime = FakeRuntime("fleet", big_engine(3 * count))
    assert len(serving(editor_actor, runtime, count)) == count

    def shown(path: str, names: int) -> Callable[[], None]:
        def look() -> None:
            answer = editor_client.get(path)
            assert answer.content.decode().count('"me-' if "api" in path else 'row-id num">me-') == names, (
                path
            )

        return look

    assert queries(shown("/inference/?size=100", min(count, 100))) <= MOST_OF_A_LIST
    assert queries(shown("/inference/?size=100&search=fleet&sort=model", min(count, 100))) <= MOST_OF_A_LIST
    assert queries(shown("/api/v1/endpoints/?page_size=100", min(count, 100))) <= MOST_OF_A_LIST

    assert list(unsettled(runtime)) == []
    assert queries(lambda: sweeping.sweep(runtime)) <= MOST_OF_A_SWEEP

    version = polled()

    def build() -> None:
        gateway_feed.cluster().invalidate()
        gateway_feed.poll(GATEWAY, Report(etag="another", applied=version, counted=True, streams={}))

    assert queries(build) <= MOST_OF_A_SNAPSHOT
