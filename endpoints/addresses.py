"""Addresses that no new replica may get yet.

A gateway that has not applied the newest snapshot sends an endpoint's requests to where its replica was. Until every
gateway has taken that address out of its clusters, whoever got it would answer another project's requests.
"""

from __future__ import annotations

import logging

from django.utils import timezone
from redis.exceptions import RedisError

from endpoints import gateway_feed
from endpoints.models import HeldAddress, Replica
from endpoints.models.replica import LIVE_STATES

log = logging.getLogger(__name__)


def hold(replica: Replica, *, left: bool = False) -> None:
    """Keep its address back. Call in the transaction that ends it, before its container is removed.

    left: the gateways have confirmed already that none of them leads there (`is_free`, asked before the transaction).
    Nothing is held then, nor of a replica that was never ready: it was in no snapshot.
    """
    if left or not replica.host or replica.ready_at is None:
        return
    row = HeldAddress(host=replica.host, port=replica.port, replica=replica.name, since=timezone.now())
    HeldAddress.objects.bulk_create(
        [row],
        update_conflicts=True,
        unique_fields=["host", "port"],
        update_fields=["replica", "since"],
    )


def is_free(replica: Replica) -> bool:
    """Whether another replica may have its address: no gateway leads there, nor would a stopped one when it starts.
    False while Redis is away."""
    try:
        return bool(gateway_feed.free_addresses([(replica.host, replica.port)]))
    except RedisError as error:
        log.warning("Redis does not answer (%s): nothing is known of the gateways", error)
        return False


def held() -> frozenset[tuple[str, int]]:
    """(host, port) of all that a new replica must not get: what is held, and what live replicas have.

    The latter, too, because a container may have ended without our knowledge: the engine thinks its address free.
    """
    kept = HeldAddress.objects.values_list("host", "port")
    lived_in = Replica.objects.filter(state__in=LIVE_STATES).exclude(host="").values_list("host", "port")
    return frozenset(kept) | frozenset(lived_in)


def release_left() -> int:
    """Give back what no gateway sends requests to any more; how many. One query if nothing is held."""
    rows = list(HeldAddress.objects.all())
    if not rows:
        return 0
    try:
        free = gateway_feed.free_addresses((row.host, row.port) for row in rows)
    except RedisError as error:
        log.warning("Redis does not answer (%s): held addresses stay held", error)
        return 0
    # By the moment, too: an address that was held anew since the look above stays held.
    gone = [row for row in rows if (row.host, row.port) in free]
    return sum(HeldAddress.objects.filter(pk=row.pk, since=row.since).delete()[0] for row in gone)
