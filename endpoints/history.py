"""An endpoint's revisions as pages and the API show them: each with what it changed and what became of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.db.models import Count, Q, QuerySet, TextChoices
from django.utils.translation import gettext_lazy as _

from endpoints import revisions
from endpoints.errors import Reason, describe
from endpoints.models import Endpoint, Replica, ReplicaState, Revision
from endpoints.models.replica import LIVE_STATES
from endpoints.revisions import Change

PAGE = 25


class RevisionState(TextChoices):
    """What became of a revision."""

    CURRENT = "current", _("Current")
    SERVING = "serving", _("Still serving")
    PREVIOUS = "previous", _("Previous")
    FAILED = "failed", _("Taken back")


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a revision was taken back."""

    reason: Reason
    params: Mapping[str, Any]

    @property
    def code(self) -> str:
        """Stable."""
        return self.reason.code

    @property
    def message(self) -> str:
        """For people."""
        return self.reason.message

    @property
    def action(self) -> str:
        """What to do."""
        return self.reason.action


@dataclass(frozen=True, slots=True)
class Entry:
    """One revision.

    diff      to the one before; [] for the first
    back      what a roll-back to it would change now; [] where it would change nothing
    replicas  how many of its replicas are alive, by state
    coming    it is the wanted one, and not all of its replicas serve yet
    """

    revision: Revision
    state: str
    diff: list[Change]
    back: list[Change]
    failed: Failure | None
    replicas: Mapping[str, int]
    coming: bool = False

    @property
    def environment_names(self) -> list[str]:
        """The names of its variables."""
        return sorted(self.revision.environment)

    @property
    def restores(self) -> int | None:
        """The number of the revision that it took up again."""
        return self.revision.restores.number if self.revision.restores else None

    @property
    def author(self) -> str:
        """Who asked for it, also when that account is gone."""
        return self.revision.created_by_name or str(self.revision.created_by or "")


@dataclass(frozen=True, slots=True)
class TakenBack:
    """The last update, which failed and was undone by itself.

    revision   the one that failed; None if it is not known any more
    serving    the number of the one that serves instead
    replica    its replica that failed last, whose log tells more
    told       whether the endpoint's own reason is this very failure
    """

    number: int
    revision: Revision | None
    serving: int
    reason: Reason
    replica: Replica | None
    told: bool


def taken_back(endpoint: Endpoint) -> TakenBack | None:
    """What became of the last update, if it failed: two queries then, none otherwise. While it is paused nothing
    serves, and resuming it forgets the failure."""
    failed = endpoint.failed_update
    if not failed or endpoint.deleting_at or endpoint.paused_at:
        return None
    number, code, params = failed.get("revision", 0), str(failed.get("code", "")), failed.get("params", {})
    revision = Revision.objects.filter(endpoint=endpoint, number=number).select_related("model").first()
    ended = Replica.objects.filter(endpoint=endpoint, revision=revision, state=ReplicaState.FAILED)
    return TakenBack(
        number=number,
        revision=revision,
        serving=endpoint.revision.number if endpoint.revision else 0,
        reason=describe(code, params),
        replica=ended.order_by("-ended_at").first() if revision else None,
        told=endpoint.reason_code == code and endpoint.reason_params.get("revision") == number,
    )


def rows_of(endpoint: Endpoint) -> QuerySet[Revision]:
    """Its revisions with what an entry needs of them, newest first."""
    return (
        Revision.objects.filter(endpoint=endpoint)
        .select_related("model__framework", "instance_type", "restores", "created_by")
        .order_by("-number")
    )


def number_of(typed: str) -> int | None:
    """A revision's number as an address or a form brings it; None for anything else."""
    return int(typed) if typed.isascii() and typed.isdigit() and len(typed) < 10 else None


def page_of(endpoint: Endpoint, before: int | None = None) -> tuple[list[Revision], bool]:
    """The newest revisions, those older than `before` if given, and whether there are still older ones."""
    rows = rows_of(endpoint)
    if before is not None:
        rows = rows.filter(number__lt=before)
    found = list(rows[: PAGE + 1])
    return found[:PAGE], len(found) > PAGE


def entries(endpoint: Endpoint, page: Sequence[Revision]) -> list[Entry]:
    """`page`, newest first and without gaps, as entries: two queries whatever its length."""
    if not page:
        return []
    others = rows_of(endpoint).filter(Q(number=page[-1].number - 1) | Q(pk=endpoint.revision_id))
    near = {revision.number: revision for revision in [*others, *page]}
    present = next((row for row in near.values() if row.pk == endpoint.revision_id), None)
    wanted = revisions.of_revision(present) if present else None
    alive = _alive(endpoint)
    return [
        _entry(endpoint, revision, near.get(revision.number - 1), alive.get(revision.pk, {}), wanted)
        for revision in page
    ]


def _alive(endpoint: Endpoint) -> dict[int, dict[str, int]]:
    rows = (
        Replica.objects.filter(endpoint=endpoint, state__in=LIVE_STATES)
        .values_list("revision_id", "state")
        .annotate(n=Count("id"))
        .order_by("revision_id", "state")
    )
    alive: dict[int, dict[str, int]] = defaultdict(dict)
    for revision_id, state, count in rows:
        alive[revision_id][state] = count
    return alive


def _entry(
    endpoint: Endpoint,
    revision: Revision,
    before: Revision | None,
    alive: Mapping[str, int],
    present: revisions.Configuration | None,
) -> Entry:
    mine = revisions.of_revision(revision)
    return Entry(
        revision=revision,
        state=_state(endpoint, revision, alive),
        diff=revisions.diff(revisions.of_revision(before) if before else None, mine),
        back=revisions.diff(present, mine),
        failed=failure_of(revision),
        replicas=alive,
        coming=revision.pk == endpoint.revision_id != endpoint.stable_revision_id and not endpoint.paused_at,
    )


def _state(endpoint: Endpoint, revision: Revision, alive: Mapping[str, int]) -> str:
    if revision.pk == endpoint.revision_id:
        return RevisionState.CURRENT
    if revision.failed_code:
        return RevisionState.FAILED
    return RevisionState.SERVING if alive.get(ReplicaState.READY) else RevisionState.PREVIOUS


def failure_of(revision: Revision) -> Failure | None:
    """Why it was taken back; None if it was not. The log stays with the replica."""
    if not revision.failed_code:
        return None
    params = {name: value for name, value in revision.failed_params.items() if name != "logs"}
    return Failure(describe(revision.failed_code, params), params)
