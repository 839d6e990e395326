"""What the gateways are told, and what they say they have applied."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

import redis
from django.conf import settings
from django.db import DatabaseError, connection, transaction
from django.utils import timezone
from django.utils.translation import override
from redis.exceptions import RedisError

from config.keyfiles import read_or_create
from endpoints import changes
from endpoints.errors import describe
from endpoints.models import Endpoint, Replica, ReplicaState, Status
from endpoints.queue import reconcile_in
from endpoints.snapshot_here import Here
from endpoints.unbuilt import noted
from gateway.activators import Activators
from gateway.cluster import Cluster, Current
from gateway.control import Report
from gateway.leaving import UNKNOWN, Leaving, Sample
from gateway.secret import activator_secret
from gateway.snapshot import Snapshot, build, endpoint_digest
from gateway.targets import (
    Caller,
    EndpointTarget,
    GatewayTargets,
    Limits,
    ReplicaTarget,
    Serving,
    TokenPolicy,
    address_text,
)
from iam import grants
from iam.models import ApiKey, Limited, ServiceAccount
from iam.oauth.keys import merged_jwks
from iam.roles import Permission, roles_granting

log = logging.getLogger(__name__)
# Where waiting helps a caller, how long; other statuses need a person.
RETRY_AFTER_S = {Status.PENDING: 10, Status.DEPLOYING: 5, Status.UPDATING: 5, Status.DEGRADED: 5}


@lru_cache(maxsize=1)
def cluster() -> Cluster:
    """What Redis knows of the gateways; redis-py keeps a pool of connections behind it."""
    return Cluster(redis.Redis.from_url(settings.REDIS_URL, socket_timeout=2, socket_connect_timeout=2))


@lru_cache(maxsize=1)
def activators() -> Activators:
    """What Redis knows of the activators, likewise."""
    return Activators(redis.Redis.from_url(settings.REDIS_URL, socket_timeout=2, socket_connect_timeout=2))


@lru_cache(maxsize=1)
def asked() -> Cluster:
    """The same for polls, which have a better use for their time than to wait for a Redis that hangs."""
    return Cluster(redis.Redis.from_url(settings.REDIS_URL, socket_timeout=0.5, socket_connect_timeout=0.5))


@lru_cache(maxsize=1)
def here() -> Here:
    """What this process tells gateways while Redis is away."""
    return Here(_built)


def changed() -> None:
    """Let the next poll after the commit build the snapshot anew. In the transaction of the change: its row there
    makes up for a word to Redis that is lost."""
    if not any(entry[1] is _invalidate for entry in connection.run_on_commit):  # once a transaction is enough
        _note()
    transaction.on_commit(_invalidate)


def _note() -> None:
    try:
        changes.note()
    except DatabaseError as error:
        if connection.in_atomic_block:
            raise
        # What has changed is not in the database: a signing key's file.
        log.warning("the database takes no note of a change (%s)", error)


def on_access_changed(**_signal: Any) -> None:
    """Who may call has changed (iam.signals)."""
    changed()


def _invalidate() -> None:
    try:
        cluster().invalidate()
    except RedisError as error:
        log.warning("Redis does not answer (%s): gateways learn it from the database", error)


def targets() -> GatewayTargets:
    """The gateway's whole duty, from the database: a handful of queries at any size. Raises what bad data raises."""
    ready: dict[str, list[Replica]] = {}
    columns = ("id", "endpoint_id", "host", "port", "unhealthy_since")
    for replica in Replica.objects.filter(state=ReplicaState.READY).only(*columns):
        ready.setdefault(replica.endpoint_id, []).append(replica)
    endpoints = Endpoint.objects.only(*_COLUMNS)
    return GatewayTargets(
        endpoints=tuple(_each(endpoints, ready)),
        tokens=TokenPolicy(
            issuer=settings.BERTH_PUBLIC_URL,
            audience=settings.BERTH_TOKEN_AUDIENCE,
            jwks=merged_jwks(),
            invoke_roles=roles_granting(Permission.INVOKE),
        ),
        control_plane=(settings.BERTH_LOCAL_HOST, settings.BERTH_PORT),
        control_plane_tls=bool(settings.BERTH_TLS_CERT),
        console_origin=settings.BERTH_PUBLIC_URL,
        activator=settings.BERTH_ACTIVATOR,
        activator_secret=activator_secret(read_or_create(settings.BERTH_GATEWAY_TOKEN_FILE)),
        revoked=tuple(grants.revoked(timezone.now())),
        callers=tuple(_callers()),
    )


def _each(endpoints: Iterable[Endpoint], ready: Mapping[str, Iterable[Replica]]) -> Iterator[EndpointTarget]:
    for item in endpoints:
        try:
            yield _target(item, ready.get(item.id, ()))
        except Exception as error:
            error.add_note(f"at the endpoint {item.id}")
            raise


def _callers() -> Iterable[Caller]:
    """Of those who may call: the others have no tokens that would pass."""
    unlimited = dict.fromkeys(_LIMITS)
    for row in (
        *ServiceAccount.objects.filter(disabled_at=None).exclude(**unlimited).only("id", *_LIMITS),
        *ApiKey.objects.filter(blocked=False).exclude(**unlimited).only("id", *_LIMITS),
    ):
        yield Caller(str(row.pk), _limits(row))


def _limits(row: Limited) -> Limits:
    return Limits(row.requests_per_minute, row.tokens_per_minute, row.tokens_per_month)


_LIMITS = ("requests_per_minute", "tokens_per_minute", "tokens_per_month")
_COLUMNS = (
    *_LIMITS,
    "max_concurrency",
    "id",
    "project_id",
    "private",
    "status",
    "reason_code",
    "reason_params",
    "paused_at",
    "deleting_at",
    "min_replicas",
    "stable_revision_id",
    "generation",
    "observed_generation",
)


def poll(gateway_id: str, report: Report) -> Current | None:
    """One gateway's poll: note what it says, and answer with the snapshot it should have, None if it has it.

    While Redis is away nothing is noted, and the answer comes from the database. Raises DatabaseError, CannotBuild.
    """
    if here().asks_redis():
        try:
            return _poll(asked(), gateway_id, report)
        except RedisError as error:
            if here().lost_redis():
                log.warning("Redis does not answer (%s): gateways are answered from the database", error)
    if report.gone:
        return None
    current = here().current()
    return None if current.version == report.etag else current


def _poll(cluster: Cluster, gateway_id: str, report: Report) -> Current | None:
    sample = Sample(report.applied, report.streams) if report.counted else None
    cluster.report(
        gateway_id, report.applied, report.rejected, given=report.etag, sample=sample, gone=report.gone
    )
    _tell_reconciler(gateway_id, report)
    if report.gone:
        return None
    mark = changes.recent_mark()
    version = cluster.current_version(mark)
    if version is None:
        mark = changes.mark()  # what is stored may be newer than this process's last look
        version = cluster.current_version(mark) or _rebuilt(cluster, mark).version
    if version == report.etag:
        return None
    current = cluster.current() or _rebuilt(cluster, changes.mark())
    if current.version == report.etag:
        return None
    cluster.give(gateway_id, current.version)
    return current


def _rebuilt(cluster: Cluster, mark: str) -> Current:
    """From the database, for everybody. mark: read there before."""
    generation = cluster.generation()
    return cluster.store(_built(cluster), generation, mark)


def _built(cluster: Cluster | None = None) -> Snapshot:
    """As the database has it now. cluster: what keeps the evidence if there is none."""
    with noted(cluster):
        return build(targets())


# Each gateway's last two words, in this process: a change is a hint to look at those who wait for it. Two, because a
# count must be heard twice.
_heard: dict[str, tuple[tuple[str, Any], ...]] = {}


def _tell_reconciler(gateway_id: str, report: Report) -> None:
    before = _heard.get(gateway_id, ())
    streams = report.streams if report.counted else before[-1][1] if before else None
    now = (*before, (report.applied, streams))[-2:]
    if now != before:
        _heard[gateway_id] = now
        _hint_waiting()


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


def routes_applied(endpoints: Iterable[tuple[Endpoint, Iterable[Replica]]]) -> set[str]:
    """Ids of those whose present route every live gateway serves; each with its ready replicas. One question for all.
    While Redis is away: none."""
    digests = {item.id: endpoint_digest(_target(item, ready)) for item, ready in endpoints}
    try:
        return cluster().applied_everywhere(digests)
    except RedisError as error:
        log.warning("Redis does not answer (%s): nothing is known of the gateways", error)
        return set()


def leaving(replicas: Iterable[Replica]) -> Mapping[str, Leaving]:
    """By name: whether gateways still send requests to each replica, and how many they hold to it; activators, too.

    A replica may be stopped without cutting anything off when it has `left` and `streams` is 0. One question for all
    of them. While Redis is away nothing is known, and nothing is taken for left.
    """
    addresses = {item.name: address_text(item.host, item.port) for item in replicas}
    try:
        if not addresses:
            return {}
        said = cluster().leaving(addresses)
        return activators().leaving({name: (address, said[name]) for name, address in addresses.items()})
    except RedisError as error:
        log.warning("Redis does not answer (%s): nothing is known of the gateways", error)
        return dict.fromkeys(addresses, UNKNOWN)


def free_addresses(addresses: Iterable[tuple[str, int]]) -> set[tuple[str, int]]:
    """Those (host, port) to which no gateway leads, nor would one that is started again, nor any activator. Raises
    RedisError."""
    written = {address_text(host, port): (host, port) for host, port in addresses}
    return {written[text] for text in activators().free(cluster().free(written.keys()))}


def _target(endpoint: Endpoint, ready: Iterable[Replica]) -> EndpointTarget:
    replicas = list(ready)
    # One that stopped answering its health path is spared while others can serve; with no other it may yet recover.
    healthy = [item for item in replicas if item.unhealthy_since is None]
    running = tuple(ReplicaTarget(str(item.id), item.host, item.port) for item in healthy or replicas)
    # The words of a status do not belong to a route that works: they would change it for nothing.
    target = EndpointTarget(
        endpoint.id,
        endpoint.project_id,
        endpoint.private,
        Serving.READY,
        status="",
        replicas=running,
        limits=_limits(endpoint),
        max_concurrency=endpoint.max_concurrency,
    )
    if running and not endpoint.paused_at and not endpoint.deleting_at:
        return target
    if _may_wake(endpoint):
        return replace(target, serving=Serving.HOLD, replicas=())
    with override("en"):  # an API's errors have one language
        reason = describe(endpoint.reason_code, endpoint.reason_params)
    return replace(
        target,
        serving=Serving.UNAVAILABLE,
        replicas=(),
        status=endpoint.status,
        reason_code=endpoint.reason_code,
        reason=reason.message,
        retry_after_s=RETRY_AFTER_S.get(Status(endpoint.status)),
    )


def _may_wake(endpoint: Endpoint) -> bool:
    """Whether a request to it should wait: it sleeps or wakes, and has shown that it can serve."""
    return bool(
        settings.BERTH_ACTIVATOR
        and endpoint.min_replicas == 0
        and endpoint.stable_revision_id is not None
        and not endpoint.paused_at
        and not endpoint.deleting_at
        and not endpoint.has_failed
    )
