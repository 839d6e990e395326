"""What the gateways are told, and what they say they have applied."""

from __future__ import annotations

from collections.abc import Iterable

from django.conf import settings
from django.db import transaction
from django.utils.translation import override

from endpoints.errors import describe
from endpoints.gateway_state import cluster
from endpoints.models import Endpoint, Replica, ReplicaState, Status
from gateway.snapshot import Snapshot, build, endpoint_digest
from gateway.targets import EndpointTarget, GatewayTargets, ReplicaTarget, Serving, TokenPolicy
from iam.oauth.keys import public_jwks
from iam.roles import Permission, roles_granting

# Where waiting helps a caller, how long; other statuses need a person.
RETRY_AFTER_S = {Status.PENDING: 10, Status.DEPLOYING: 5, Status.UPDATING: 5, Status.DEGRADED: 5}


def changed() -> None:
    """After the commit, let the next poll build the snapshot anew."""
    transaction.on_commit(cluster().invalidate)


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
        control_plane=("127.0.0.1", settings.BERTH_PORT),
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


def snapshot() -> Snapshot:
    """Build the present snapshot and remember which routes its version carries."""
    built = build(targets())
    cluster().remember(built.version, built.endpoints)
    return built


def route_state(endpoint: Endpoint) -> tuple[int, bool]:
    """How many gateways are alive, and whether all of them (at least one) serve the present route."""
    ready = endpoint.replicas.filter(state=ReplicaState.READY)
    digest = endpoint_digest(_target(endpoint, ready))
    return cluster().route_state(endpoint.id, digest)


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
