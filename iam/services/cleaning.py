"""What IAM takes for a name, roles, endpoints, limits and dates. Raises ValidationError({field: [...]})."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from django.core.exceptions import ValidationError
from django.utils.translation import gettext as _

from iam.actors import Actor
from iam.directory import directory
from iam.roles import GRANTS, Role

# Each of them stands in every token of the caller: twenty ids are under a kilobyte.
MAX_ENDPOINTS = 20
LIMITS = ("requests_per_minute", "tokens_per_minute", "tokens_per_month")
# What the columns hold; a limit that high limits nothing.
HIGHEST = {
    "requests_per_minute": 2**31 - 1,
    "tokens_per_minute": 2**31 - 1,
    "tokens_per_month": 2**63 - 1,
}


def refuse(field: str, sentence: str) -> ValidationError:
    """The error of one field."""
    return ValidationError({field: [sentence]})


def clean_roles(actor: Actor, roles: Iterable[str]) -> list[str]:
    """The roles, each once and in order of strength. Nobody may grant what they don't have."""
    wanted = set(roles)
    unknown = sorted(wanted - set(Role.values))
    if unknown:
        raise refuse("roles", _("There is no role %(role)s.") % {"role": ", ".join(unknown)})
    if not wanted:
        raise refuse("roles", _("Choose at least one role."))
    for role in wanted:
        if not all(actor.may(permission) for permission in GRANTS[Role(role)]):
            raise refuse(
                "roles", _("You can't grant %(role)s: it allows more than your own role.") % {"role": role}
            )
    return [role for role in Role.values if role in wanted]


def clean_endpoints(
    project_id: str, ids: Iterable[str] | None, *, present: Iterable[str] = ()
) -> list[str] | None:
    """The ids, each once and in order; None for all of the project.

    `present` are those that it is narrowed to now: they may stay although their endpoints are gone. An id of another
    project and one that does not exist are told alike.
    """
    if ids is None:
        return None
    wanted = sorted(set(ids))
    if not wanted:
        raise refuse("endpoints", _("Choose at least one endpoint, or all of the project."))
    if len(wanted) > MAX_ENDPOINTS:
        raise refuse("endpoints", _("Choose at most %(count)s endpoints.") % {"count": MAX_ENDPOINTS})
    known = {*directory().find(project_id, wanted), *present}
    unknown = [item for item in wanted if item not in known]
    if unknown:
        raise refuse(
            "endpoints", _("This project has no endpoint %(id)s.") % {"id": ", ".join(unknown)[:200]}
        )
    return wanted


def clean_limits(limits: Mapping[str, int | None]) -> dict[str, int | None]:
    """Those that are given; None is no limit."""
    found: dict[str, int | None] = {}
    for name, value in limits.items():
        if value is not None and value < 1:
            raise refuse(name, _("A limit is 1 or more. Leave it empty for no limit."))
        if value is not None and value > HIGHEST[name]:
            raise refuse(
                name,
                _("A limit is at most %(highest)s. Leave it empty for no limit.")
                % {"highest": HIGHEST[name]},
            )
        found[name] = value
    return found


def clean_expiry(
    moment: datetime | None, now: datetime, *, field: str = "expires_at", longest: timedelta | None = None
) -> datetime | None:
    """A moment to come, None for never."""
    if moment is None:
        return None
    if moment <= now:
        raise refuse(field, _("Choose a moment in the future."))
    if longest is not None and moment > now + longest:
        raise refuse(field, _("At most %(days)s days from now.") % {"days": longest.days})
    return moment
