"""What the console says of the gateways: whether each serves the newest configuration, what it refuses, what to do."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _
from redis.exceptions import RedisError

from endpoints import gateway_feed
from gateway import names, rejections
from gateway.cluster import Building, Unbuilt
from gateway.leaving import GatewayReport

log = logging.getLogger(__name__)
LATE_S = 10.0  # Envoy takes milliseconds; a busy machine with thousands of endpoints a second or two

_Words = str | Promise


@dataclass(frozen=True, slots=True)
class Refused:
    """A part of its configuration that a gateway is without. effect: what that means for callers."""

    what: _Words
    effect: _Words
    evidence: str
    action: _Words


@dataclass(frozen=True, slots=True)
class Row:
    """One gateway.

    state     current, last (no newer one can be built), catching-up, behind, nothing, silent, stopped or unknown
    version   of the newest snapshot whose routes it serves, as far as it told
    unheard_s since a silent or stopped one was heard of; None: unknown, or a moment
    behind_s  since a newer one was built
    """

    gateway_id: str
    state: str
    version: str
    unheard_s: float | None
    behind_s: float
    refused: Sequence[Refused]


@dataclass(frozen=True, slots=True)
class Overview:
    """known: False while Redis, which knows the gateways, does not answer. failing_s: since the first try that failed
    to build a newer snapshot."""

    rows: Sequence[Row] = ()
    unbuilt: Unbuilt | None = None
    failing_s: float = 0.0
    known: bool = True


def overview(now: float) -> Overview:
    """All gateways that were heard of lately, with as many questions to Redis for many as for one. now: seconds since
    1970."""
    try:
        cluster = gateway_feed.asked()
        building, gateways, ages = cluster.building(), cluster.gateways(), cluster.ages()
    except RedisError as error:
        log.warning("Redis does not answer (%s): nothing is known of the gateways", error)
        return Overview(known=False)
    unbuilt = building.unbuilt
    failing_s = max(0.0, now - unbuilt.since) if unbuilt else 0.0
    return Overview(rows(gateways, ages, building, now), unbuilt, failing_s)


def rows(
    gateways: Sequence[GatewayReport], ages: Mapping[str, float], building: Building, now: float
) -> list[Row]:
    """Pure."""
    behind = max(0.0, now - building.since)
    return [
        Row(
            one.gateway_id,
            _state(one, building, behind),
            one.applied,
            None if one.live else ages.get(one.gateway_id),
            behind,
            [_refused(item) for item in rejections.read(one.rejected)],
        )
        for one in gateways
    ]


def _state(one: GatewayReport, building: Building, behind_s: float) -> str:
    if one.gone:
        return "stopped"
    if not one.live:
        return "silent"
    if not one.applied:
        return "nothing"
    if not building.version:
        return "unknown"  # a Redis that was emptied
    if one.applied == building.version:
        return "last" if building.unbuilt else "current"
    return "behind" if behind_s >= LATE_S else "catching-up"


def _refused(item: rejections.Rejection) -> Refused:
    what, effect, action = _OF_FILES.get(item.file, _ANY)
    return Refused(what, effect, item.evidence, action)


_UPDATE = _(
    "Gateway and control plane may be of different versions: update the control plane first, then the gateway, "
    "and restart the gateway's agent."
)
_ROUTING = (
    _(
        "It keeps the routes it had: endpoints and replicas that are new or changed since then are not reached "
        "through it."
    ),
    _(
        "If the evidence names an endpoint (its id begins with me-), undo the endpoint's last change or pause it. "
        "If it names none, gateway and control plane may be of different versions: update the control plane first, "
        "then the gateway, and restart the gateway's agent."
    ),
)
# What it is, what its absence means, what to do.
_OF_FILES: dict[str, tuple[_Words, _Words, _Words]] = {
    names.ROUTES: (_("Routes to endpoints"), *_ROUTING),
    names.CLUSTERS: (_("Endpoints behind the routes"), *_ROUTING),
    names.ASSIGNMENTS: (_("Addresses of replicas"), *_ROUTING),
    names.AT_ONCE: (_("Limits of requests at once"), *_ROUTING),
    names.TOKENS: (
        _("Keys that tokens are checked with"),
        _("It keeps the keys it had: tokens that were signed with a newer one are refused."),
        _UPDATE,
    ),
    names.ACCESS: (
        _("Revocations, and callers' requests a minute"),
        _("It keeps those it had: tokens that were revoked since then still pass."),
        _(
            "If somebody must be kept out now, stop this gateway; the others go on. Gateway and control plane may be "
            "of different versions: update the control plane first, then the gateway."
        ),
    ),
    names.BODY_LIMIT: (_("Limit of a request's size"), _("It keeps the limit it had."), _UPDATE),
    names.LIMITS: (_("Token limits"), _("It keeps the limits it had."), _UPDATE),
    names.DENIALS: (
        _("Who has used up a token limit"),
        _("It keeps those it had: who has reached a limit since then is still served."),
        _UPDATE,
    ),
}
_ANY = (_("A part of its configuration"), _("It goes on with what it had."), _UPDATE)
