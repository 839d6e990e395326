"""What the gateways are told, and what they say they have applied."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import lru_cache

import redis
from django.conf import settings
from django.db import transaction
from django.utils.translation import override
from redis.exceptions import RedisError

from endpoints.errors import describe
from endpoints.models import Endpoint, Replica, ReplicaState, Status
from endpoints.queue import reconcile_in
from gateway.cluster import Cluster, Current
from gateway.snapshot import build, endpoint_digest
from gateway.targets import EndpointTarget, GatewayTargets, ReplicaTarget, Serving, TokenPolicy
from iam.oauth.keys import public_jwks
from iam.roles import Permission, roles_granting

log = logging.getLogger(__name__)
# Where waiting helps a caller, how long; other statuses need a person.
RETRY_AFTER_S = {Status.PENDING: 10, Status.DEPLOYING: 5, Status.UPDATING: 5, Status.DEGRADED: 5}


@lru_cache(maxsize=1)
def cluster() -> Cluster:
    """What Redis knows of the gateways; redis-py keeps a pool of connections behind it."""
    return Cluster(redis.Redis.from_url(settings.REDIS_URL, socket_timeout=2, socket_connect_timeout=2))


def changed() -> None:
    """After the commit, let the next poll build the snapshot anew."""
    transaction.on_commit(_invalidate)


def _invalidate() -> None:
    try:
        cluster().invalidate()
    except RedisError as error:
        log.warning("Redis does not answer (%s): gateways follow within seconds of its return", error)


def targets() -> GatewayTargets:
    """The gateway's whole duty, from the database: three queries at any size."""
    ready: dict[str, list[Replica]] = {}
    for replica in Replica.objects.filter(state=ReplicaState.READY).only("id", "endpoint_id", "host", "port"):
        ready.setdefault(replica.endpoint_id, []).append(replica)
    endpoints = Endpoint.objects.only(*_COLUMNS)
    return GatewayTargets(
        endpoints=tuple(_target(item, ready.get(item.id, ())) for item in endpoints),
        tokens=TokenPolicy(
            issuer=settings.BERTH_PUBLIC_URL,
            audience=settings.BERTH_TOKEN_AUDIENCE,
            jwks=public_jwks(),
            invoke_roles=roles_granting(Permission.INVOKE),
        ),
        control_plane=(settings.BERTH_LOCAL_HOST, settings.BERTH_PORT),
        control_plane_tls=bool(settings.BERTH_TLS_CERT),
        console_origin=settings.BERTH_PUBLIC_URL,
    )


_COLUMNS = (
    "id",
    "project_id",
    "private",
    "status",
    "reason_code",
    "reason_params",
    "paused_at",
    "deleting_at",
)


def poll(gateway_id: str, *, applied: str, rejected: str) -> str:
    """One gateway's poll: note what it says, and answer with the version it should be at. Raises RedisError."""
    cluster().report(gateway_id, applied, rejected)
    if _last_applied.get(gateway_id) != applied:
        _last_applied[gateway_id] = applied
        _hint_waiting()
    return cluster().current_version() or _rebuilt().version


def body() -> bytes:
    """The snapshot that is served, gzip-compressed JSON. Raises RedisError."""
    return (cluster().current() or _rebuilt()).body


def _rebuilt() -> Current:
    generation = cluster().generation()
    return cluster().store(build(targets()), generation)


# What each gateway said last, in this process: a change is a hint to look at those who wait for it.
_last_applied: dict[str, str] = {}


def _hint_waiting() -> None:
    unrouted = Replica.objects.filter(state=ReplicaState.READY, routed_at=None)
    draining = Replica.objects.filter(state=ReplicaState.DRAINING)
    for endpoint_id in (unrouted | draining).values_list("endpoint_id", flat=True).distinct():
        reconcile_in(endpoint_id, 0)


def route_state(endpoint: Endpoint) -> tuple[int, bool]:
    """How many gateways are alive, and whether all of them (at least one) serve the present route.

    While Redis is away nothing is known: one gateway is assumed, and nothing is taken for applied.
    """
    ready = endpoint.replicas.filter(state=ReplicaState.READY)
    digest = endpoint_digest(_target(endpoint, ready))
    try:
        return cluster().route_state(endpoint.id, digest)
    except RedisError as error:
        log.warning("Redis does not answer (%s): nothing is known of the gateways", error)
        return 1, False


def _target(endpoint: Endpoint, replicas: Iterable[Replica]) -> EndpointTarget:
    running = tuple(ReplicaTarget(str(item.id), item.host, item.port) for item in replicas)
    serves = bool(running) and not endpoint.paused_at and not endpoint.deleting_at
    if serves:
        # The words of a status do not belong to a route that works: they would change it for nothing.
        return EndpointTarget(
            endpoint.id, endpoint.project_id, endpoint.private, Serving.READY, status="", replicas=running
        )
    with override("en"):  # an API's errors have one language
        reason = describe(endpoint.reason_code, endpoint.reason_params)
    return EndpointTarget(
        endpoint.id,
        endpoint.project_id,
        endpoint.private,
        Serving.UNAVAILABLE,
        status=endpoint.status,
        reason_code=endpoint.reason_code,
        reason=reason.message,
        retry_after_s=RETRY_AFTER_S.get(Status(endpoint.status)),
    )
