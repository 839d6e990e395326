"""The record of what was decided and why. A decision that says the same as the last one is not written again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Count, QuerySet

from endpoints.autoscaling.policy import Blocker, Rule, Verdict
from endpoints.live import endpoint_changed
from endpoints.models import Decision, Endpoint

KEPT = timedelta(days=90)
KEPT_EACH = 2000  # of one endpoint
# A wait of seconds before growth, or for the idle time, is no decision: it is shown while it lasts, and told by the
# decision that ends it.
_NOT_TOLD = (None, Blocker.STABILISING, Blocker.IDLING)
# A load that swings around a threshold begins the same wait again and again.
REPEATED_AFTER = timedelta(minutes=10)


def decisions_of(endpoint: Endpoint) -> QuerySet[Decision]:
    """Newest first."""
    return endpoint.decisions.order_by("-at", "-id")


def is_news(verdict: Verdict, before: int, told: Mapping[str, Any], now: datetime) -> bool:
    """Whether the decision has to be written. told: as `record` answered it the last time."""
    if verdict.wanted != before:
        return True
    return verdict.blocker not in _NOT_TOLD and not _is_recent(told.get(_kind(verdict, before)), now)


def record(
    endpoint: Endpoint,
    verdict: Verdict,
    before: int,
    told: Mapping[str, Any],
    now: datetime,
    more: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write the decision, which is news; answers what was told lately, to be handed in the next time.

    before  wanted replicas as they were
    told    {kind of decision: seconds since 1970}
    more    added to the verdict's params
    """
    Decision.objects.create(
        endpoint=endpoint,
        at=now,
        rule=verdict.rule,
        before=before,
        after=verdict.wanted,
        blocker=verdict.blocker or "",
        inputs={str(name): dict(values) for name, values in verdict.inputs.items()},
        params={**_params(verdict), **(more or {})},
    )
    if verdict.wanted != before:
        return {}  # from here on everything is news again; pages hear of the change itself
    endpoint_changed(endpoint)
    lately = {name: at for name, at in told.items() if _is_recent(at, now)}
    return {**lately, _kind(verdict, before): now.timestamp()}


def _kind(verdict: Verdict, before: int) -> str:
    # All metrics are below their thresholds then: which of them asks for most replicas changes from look to look.
    metric = "" if verdict.blocker is Blocker.COOLING_DOWN else verdict.metric or ""
    return f"{verdict.rule}:{verdict.blocker or ''}:{metric}:{before}:{verdict.wanted}"


def _is_recent(at: Any, now: datetime) -> bool:
    return isinstance(at, int | float) and abs(now.timestamp() - at) < REPEATED_AFTER.total_seconds()


def _params(verdict: Verdict) -> dict[str, Any]:
    metric = {"metric": str(verdict.metric)} if verdict.metric else {}
    return {**metric, **verdict.params}


def finding(
    verdict: Verdict, before: int, told: Mapping[str, Any], more: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What the page shows as the present state: `ScaleState.finding`."""
    return {
        "rule": str(verdict.rule),
        "blocker": str(verdict.blocker or ""),
        "metric": str(verdict.metric or ""),
        "before": before,
        "after": verdict.wanted,
        "inputs": {str(name): dict(values) for name, values in verdict.inputs.items()},
        "params": {**_params(verdict), **(more or {})},
        "told": dict(told),
    }


def woken(endpoint: Endpoint, now: datetime) -> None:
    """A request came while it slept. Inside the transaction that wakes it."""
    Decision.objects.create(endpoint=endpoint, at=now, rule=Rule.WOKEN, before=0, after=1)


def prune(now: datetime, endpoint_ids: Iterable[str]) -> int:
    """Remove what is too old, and of endpoints that decide too often the oldest; how many."""
    removed, _ = Decision.objects.filter(at__lt=now - KEPT).delete()
    counted = Decision.objects.values("endpoint_id").annotate(n=Count("pk")).order_by()
    many = set(counted.filter(n__gt=KEPT_EACH).values_list("endpoint_id", flat=True))
    for endpoint_id in many.intersection(endpoint_ids):
        mine = Decision.objects.filter(endpoint_id=endpoint_id).order_by("-at", "-id")
        last = mine.values_list("at", flat=True)[KEPT_EACH : KEPT_EACH + 1].first()
        if last is not None:
            removed += mine.filter(at__lte=last).delete()[0]
    return removed
