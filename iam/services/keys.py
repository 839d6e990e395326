"""API keys: long-lived tokens with which people call endpoints. Each belongs to one person in one project."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from django.core.exceptions import NON_FIELD_ERRORS, PermissionDenied
from django.db import IntegrityError, transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from iam.actors import Actor
from iam.audit import record
from iam.models import MAX_API_KEYS, ApiKey, Membership, Project, User
from iam.oauth import tokens
from iam.roles import Permission, allows
from iam.selectors import counting_keys
from iam.services.cleaning import LIMITS, clean_endpoints, clean_expiry, clean_limits, refuse
from iam.signals import access_changed

logger = logging.getLogger(__name__)

LONGEST = timedelta(days=365)
USUAL = timedelta(days=90)


def create_api_key(
    actor: Actor,
    name: str,
    *,
    expires_at: datetime | None = None,
    endpoint_ids: Iterable[str] | None = None,
    requests_per_minute: int | None = None,
    tokens_per_minute: int | None = None,
    tokens_per_month: int | None = None,
) -> tuple[ApiKey, str]:
    """A new key of the acting person in their project, and its text: the only time it is there.

    expires_at: within a year; None: in 90 days.
    """
    user = _person(actor)
    now = timezone.now()
    limits = {
        "requests_per_minute": requests_per_minute,
        "tokens_per_minute": tokens_per_minute,
        "tokens_per_month": tokens_per_month,
    }
    key = ApiKey(
        project=actor.project,
        user=user,
        name=name.strip(),
        endpoint_ids=clean_endpoints(actor.project.id, endpoint_ids),
        # The token names its last second: the row tells the same one.
        expires_at=_expiry(expires_at, now).replace(microsecond=0),
        **clean_limits(limits),
    )
    with transaction.atomic():
        _lock(user, actor)
        _make_room(user, actor, now)
        text = tokens.issue_key(key)
        key.hint = text[-4:]
        _save(key)
        told = {field: getattr(key, field) for field in ("expires_at", "endpoint_ids", *LIMITS)}
        record(actor, "api_key.create", key, kind="api_key", after=told)
        if any(limits.values()):
            access_changed.send(sender=ApiKey)
    logger.info("%s created API key %s", actor.name, key.id)
    return key, text


def delete_api_key(actor: Actor, key: ApiKey) -> None:
    """The key is refused from now on, for good. One's own, or as an admin of the project anybody's."""
    if key.project_id != actor.project.id:
        raise PermissionDenied(_("This API key belongs to another project."))
    is_own = actor.user is not None and key.user_id == actor.user.pk
    if not is_own and not actor.may(Permission.ADMINISTER):
        raise PermissionDenied(_("This API key belongs to somebody else. A project admin can delete it."))
    key_id = key.id
    with transaction.atomic():
        _delete(actor, key)
    logger.info("%s deleted API key %s", actor.name, key_id)


def _delete(actor: Actor, key: ApiKey) -> None:
    told: dict[str, Any] = {"user": str(key.user), "expires_at": key.expires_at}
    record(actor, "api_key.delete", key, kind="api_key", before=told)
    key.delete()  # its token: iam.followers, which hears of every way to delete one


def _expiry(wanted: datetime | None, now: datetime) -> datetime:
    moment = wanted or now + USUAL
    clean_expiry(moment, now, longest=LONGEST)
    return moment


def _person(actor: Actor) -> User:
    if not actor.may(Permission.INVOKE):
        raise _not_allowed()
    if actor.user is None:
        raise PermissionDenied(
            _("An API key belongs to a person. A service account calls endpoints with its access tokens.")
        )
    return actor.user


def _not_allowed() -> PermissionDenied:
    return PermissionDenied(_("Your role in this project does not allow calling endpoints."))


def _lock(user: User, actor: Actor) -> None:
    """Of two calls at once, in whatever projects, one finds what the other one made; and whoever loses the role or is
    deactivated meanwhile gets none.

    The project comes first, as where members are removed: in another order the two could wait for each other.
    """
    project = Project.objects.select_for_update(no_key=True).filter(pk=actor.project.pk).first()
    person = User.objects.select_for_update(no_key=True).filter(pk=user.pk, is_active=True).first()
    members = Membership.objects.select_for_update(no_key=True).filter(user=person, project=project)
    member = members.first() if person and project else None
    if member is None or not allows((member.role,), Permission.INVOKE):
        raise _not_allowed()


def _make_room(user: User, actor: Actor, now: datetime) -> None:
    """Two keys a person, wherever they are. Those make way by themselves with which nothing can be done: expired ones,
    and those of projects that the person belongs to no more, who could neither see nor delete them."""
    counting = list(counting_keys(user, now))
    for idle in ApiKey.objects.filter(user=user).exclude(pk__in=[key.pk for key in counting]):
        _delete(actor, idle)
    if len(counting) >= MAX_API_KEYS:
        raise refuse(
            NON_FIELD_ERRORS,
            _(
                "You have %(count)s API keys already, as many as a person may have: %(keys)s. Delete one that is no "
                "longer used; where you can't, an admin of its project can."
            )
            % {
                "count": len(counting),
                "keys": ", ".join(f"{key.name} ({key.project.name})" for key in counting),
            },
        )


def _save(key: ApiKey) -> None:
    key.full_clean(exclude=["project", "user", "endpoint_ids"], validate_constraints=False)
    try:
        with transaction.atomic():
            key.save()
    except IntegrityError as error:
        raise refuse("name", _("You have an API key named %(name)s already.") % {"name": key.name}) from error
