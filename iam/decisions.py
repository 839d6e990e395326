"""Can this caller call this endpoint? The gateway's rules in the gateway's order, with the one that decides in words.

The gateway decides by tokens and its snapshot (gateway.filters, gateway.routes); this decides by the rows that both
are made of. A test compares the two, case by case.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from django.utils.translation import gettext as _

from iam.directory import EndpointFacts
from iam.models import ApiKey, ServiceAccount
from iam.roles import Permission, Role, allows, roles_granting


class Rule(StrEnum):
    """What decided. Stable codes."""

    UNKNOWN_ENDPOINT = "unknown_endpoint"
    PUBLIC_ENDPOINT = "public_endpoint"
    DELETED = "deleted"
    DISABLED = "disabled"
    EXPIRED = "expired"
    BLOCKED = "blocked"
    OTHER_PROJECT = "other_project"
    ROLE_MISSING = "role_missing"
    NARROWED = "narrowed"
    NAMED = "named"
    ROLE = "role"


# What the gateway answers with; 200 stands for whatever the model server answers.
STATUS = {
    Rule.UNKNOWN_ENDPOINT: 404,
    Rule.PUBLIC_ENDPOINT: 200,
    Rule.DELETED: 401,
    Rule.DISABLED: 401,
    Rule.EXPIRED: 401,
    Rule.BLOCKED: 401,
    Rule.OTHER_PROJECT: 404,
    Rule.ROLE_MISSING: 403,
    Rule.NARROWED: 403,
    Rule.NAMED: 200,
    Rule.ROLE: 200,
}


@dataclass(frozen=True, slots=True)
class Caller:
    """A service account or an API key, as far as its rights go.

    roles         of the account; a key's are those of its person
    endpoint_ids  the only ones it may call, None for all of its project
    blocked       a key whose person may not call endpoints at the moment
    limited       it has limits of its own
    """

    project_id: str
    roles: tuple[str, ...]
    endpoint_ids: tuple[str, ...] | None = None
    disabled: bool = False
    expires_at: datetime | None = None
    blocked: bool = False
    limited: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether the call passes, the rule that decides, and the same in a sentence or two.

    status  what the gateway answers with; 200 where the model server answers
    limits  sentences on the limits that may still refuse a call with 429
    """

    allowed: bool
    rule: Rule
    sentence: str
    limits: tuple[str, ...] = field(default=())

    @property
    def status(self) -> int:
        """The gateway's HTTP status."""
        return STATUS[self.rule]


def of_account(account: ServiceAccount) -> Caller:
    """What is asked about a service account."""
    return Caller(
        project_id=account.project_id,
        roles=tuple(account.roles),
        endpoint_ids=_ids(account.endpoint_ids),
        disabled=account.disabled_at is not None,
        expires_at=account.expires_at,
        limited=_limited(account),
    )


def of_key(key: ApiKey, roles: Iterable[str]) -> Caller:
    """What is asked about an API key. roles: its person's in the key's project."""
    return Caller(
        project_id=key.project_id,
        roles=tuple(roles),
        endpoint_ids=_ids(key.endpoint_ids),
        expires_at=key.expires_at,
        blocked=key.blocked,
        limited=_limited(key),
    )


def decide(caller: Caller | None, endpoint: EndpointFacts | None, now: datetime) -> Decision:
    """The first rule that applies.

    caller: None for one that was deleted; endpoint: None for an id that the caller's project does not have.
    """
    if endpoint is not None and not endpoint.private:
        return _yes(
            Rule.PUBLIC_ENDPOINT,
            _("Private access of %(endpoint)s is off: it needs no token, and anybody may call it."),
            caller,
            endpoint,
        )
    return _by_token(caller, endpoint, now)


def _by_token(caller: Caller | None, endpoint: EndpointFacts | None, now: datetime) -> Decision:
    if caller is None:
        return _no(Rule.DELETED, _("It was deleted: what it signed in with is refused."))
    if caller.disabled:
        return _no(Rule.DISABLED, _("It is disabled: it gets no tokens, and those it had are refused."))
    if caller.expires_at is not None and caller.expires_at <= now:
        when = {"date": f"{caller.expires_at:%Y-%m-%d %H:%M} UTC"}
        return _no(Rule.EXPIRED, _("It expired on %(date)s: what it signed in with is refused.") % when)
    if caller.blocked:
        return _no(
            Rule.BLOCKED,
            _(
                "The person it belongs to may not call endpoints of this project now, and so their keys may not."
            ),
        )
    if endpoint is None:
        return _no(
            Rule.UNKNOWN_ENDPOINT,
            _(
                "This project has no such endpoint. Every call to it is answered like one to another project's: 404."
            ),
        )
    if caller.project_id != endpoint.project_id:
        return _no(
            Rule.OTHER_PROJECT,
            _("The endpoint belongs to another project: for this caller it does not exist, 404."),
        )
    return _by_right(caller, endpoint)


def _by_right(caller: Caller, endpoint: EndpointFacts) -> Decision:
    if not allows(caller.roles, Permission.INVOKE):
        needed = ", ".join(str(Role(role).label) for role in roles_granting(Permission.INVOKE))
        words = {"roles": _labels(caller.roles) or _("no role"), "needed": needed}
        return _no(
            Rule.ROLE_MISSING,
            _("%(roles)s does not allow calling private endpoints. It takes one of: %(needed)s.") % words,
        )
    if caller.endpoint_ids is not None and endpoint.id not in caller.endpoint_ids:
        return _no(
            Rule.NARROWED,
            _("It is narrowed to named endpoints, and %(endpoint)s is not one of them.")
            % {"endpoint": endpoint.name},
        )
    if caller.endpoint_ids is not None:
        return _yes(
            Rule.NAMED,
            _("It is narrowed to named endpoints, and %(endpoint)s is one of them."),
            caller,
            endpoint,
        )
    allowing = [role for role in caller.roles if allows((role,), Permission.INVOKE)]
    sentence = _("Its role %(role)s allows calling every endpoint of the project.")
    return _yes(Rule.ROLE, sentence, caller, endpoint, role=_labels(allowing))


def _yes(rule: Rule, sentence: str, caller: Caller | None, endpoint: EndpointFacts, **words: str) -> Decision:
    limits = []
    if caller is not None and caller.limited and rule is not Rule.PUBLIC_ENDPOINT:
        limits.append(_("Its own limits apply: above them a call is answered with 429."))
    if endpoint.limited:
        limits.append(_("The limits of %(endpoint)s apply to all its callers together: above them, 429."))
    words = {"endpoint": endpoint.name, **words}
    return Decision(True, rule, sentence % words, tuple(text % words for text in limits))


def _no(rule: Rule, sentence: str) -> Decision:
    return Decision(False, rule, sentence)


def _labels(roles: Iterable[str]) -> str:
    return ", ".join(str(Role(role).label) for role in roles if role in Role.values)


def _ids(stored: list[str] | None) -> tuple[str, ...] | None:
    return None if stored is None else tuple(stored)


def _limited(holder: ServiceAccount | ApiKey) -> bool:
    limits = (holder.requests_per_minute, holder.tokens_per_minute, holder.tokens_per_month)
    return any(limit is not None for limit in limits)
