"""How much may be asked of an endpoint, by all its callers together. The gateways enforce it (gateway.limits)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from django.core.exceptions import PermissionDenied
from django.db.models import Sum
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from endpoints.models import Endpoint, TokenCount
from iam.actors import Actor
from iam.roles import Permission

if TYPE_CHECKING:
    from django_stubs_ext import StrOrPromise

# Column → the most that it may be: beyond it nothing would be limited. None in the column: no limit.
LIMITS = {
    "requests_per_minute": 1_000_000,
    "tokens_per_minute": 1_000_000_000,
    "tokens_per_month": 1_000_000_000_000,
    "max_concurrency": 100_000,
}
LABELS: dict[str, StrOrPromise] = {
    "requests_per_minute": gettext_lazy("Requests a minute"),
    "tokens_per_minute": gettext_lazy("Tokens a minute"),
    "tokens_per_month": gettext_lazy("Tokens a month"),
    "max_concurrency": gettext_lazy("Requests at once"),
}


def require(actor: Actor, changed: Iterable[str]) -> None:
    """Raises PermissionDenied where a limit is among these fields and the actor may set none (contract §7)."""
    if not LIMITS.keys().isdisjoint(changed) and not actor.may(Permission.ADMINISTER):
        raise PermissionDenied(_("Only an admin of the project may set limits."))


@dataclass(frozen=True, slots=True)
class Limit:
    """One of an endpoint's, as a page shows it. value: None for no limit. used: what is gone of it in the present
    month, None where that is not told. any: whether the endpoint has a limit at all."""

    label: str
    value: int | None
    used: int | None
    any: bool


def present(endpoint: Endpoint, now: datetime) -> list[Limit]:
    """All four, with their present values: one query where tokens a month are limited."""
    values = {name: getattr(endpoint, name) for name in LIMITS}
    some = any(value is not None for value in values.values())
    used = _tokens(endpoint.pk, now) if values["tokens_per_month"] is not None else None
    return [
        Limit(str(LABELS[name]), value, used if name == "tokens_per_month" else None, some)
        for name, value in values.items()
    ]


def _tokens(subject: str, now: datetime) -> int:
    """What all gateways together have counted in this month."""
    counts = TokenCount.objects.filter(subject=subject, window=f"{now.astimezone(UTC):%Y-%m}")
    return counts.aggregate(total=Sum("tokens"))["total"] or 0
