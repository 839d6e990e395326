"""Whether replacing running replicas has to interrupt the service: asked before it is done, never found out after.

A rollout makes one replica more and lets an old one go when the new one serves. Where there is no room for one more,
an old one can go first, for as long as its successor takes to start, and only if the user says so. Where even that
makes no room, the rollout is refused: the endpoint would keep an update that never comes while it holds what others
wait for. Pausing it first gives back everything and needs no question.

The answer holds for the moment it is given. Room that is gone by the time the new replica is placed makes it wait,
with the reason, while the old ones serve.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from config.errors import Conflict
from endpoints.errors import describe
from endpoints.models import Endpoint, InstanceType, Replica, ReplicaState
from endpoints.models.replica import LIVE_STATES
from endpoints.placement import NoRoom, room_for

CODE = "needs-interruption"


class NeedsInterruption(Conflict):
    """There is room for the new replica only if an old one goes first, and nobody has allowed that yet."""

    def __init__(self, missing: NoRoom, *, wanted: int) -> None:
        super().__init__(_question(missing, wanted), CODE, missing.params)


def is_needed(endpoint: Endpoint, size: InstanceType, *, allowed: bool) -> bool:
    """Whether an old replica has to go before its successor of `size` comes.

    Raises NeedsInterruption if so and it is not `allowed`, and Conflict "no-room" if that would not help either.
    Nothing serves, nothing to interrupt: then it is False, and the new one waits for room like any other. Two dry
    runs of placement at most, inside the caller's transaction.
    """
    if endpoint.paused_at:
        return False
    claims = list(
        Replica.objects.filter(endpoint=endpoint, claimed=True, state__in=LIVE_STATES).order_by("slot")
    )
    staying = [
        row for row in claims if row.state == ReplicaState.READY and row.slot <= endpoint.wanted_replicas
    ]
    if not staying:
        return False
    leaving = [row.pk for row in claims if row not in staying]
    region, project = endpoint.region_id, endpoint.project_id
    missing = room_for(size, region, releasing=leaving, project_id=project)
    if missing is None:
        return False
    # The rollout takes the slots in order: it is the first one's room that the first new replica gets.
    refused = room_for(size, region, releasing=[*leaving, staying[0].pk], project_id=project)
    if refused is not None:
        raise Conflict(_refusal(refused), "no-room", refused.params)
    if not allowed:
        raise NeedsInterruption(missing, wanted=endpoint.wanted_replicas)
    return True


def _question(missing: NoRoom, wanted: int) -> str:
    effect = (
        _("its URL answers 503 from when the present replica stops until the new one is ready")
        if wanted == 1
        else _("one replica at a time stops before its successor starts, the others serve")
    )
    return _("%(lack)s Allow a short interruption? Then %(effect)s.") % {
        "lack": _lack(missing.params),
        "effect": effect,
    }


def _lack(params: Mapping[str, Any]) -> str:
    if params["kind"] != "gpus" or params["scattered"]:
        return _("There is no room for one replica more beside those that serve: %(reason)s") % {
            "reason": describe(NoRoom.code, params).message
        }
    more = max(1, int(params["needs"]["gpus"]) - int(params["free"]))
    return ngettext(
        "Beside the replicas that serve it needs %(n)s GPU more (%(gpu)s: %(free)s free of %(of)s in %(region)s).",
        "Beside the replicas that serve it needs %(n)s GPUs more (%(gpu)s: %(free)s free of %(of)s in %(region)s).",
        more,
    ) % {"n": more, "gpu": params["needs"]["gpu"], **{key: params[key] for key in ("free", "of", "region")}}


def _refusal(refused: NoRoom) -> str:
    return _(
        "There is no room for it, not even if one of the present replicas stops first: %(reason)s Choose a smaller "
        "instance type, or pause the endpoint, change it and resume it: it starts when there is room."
    ) % {"reason": describe(NoRoom.code, refused.params).message}
