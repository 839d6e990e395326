"""What may be done to service accounts.

Whatever takes away something that tokens allow revokes the tokens that are out: gateways refuse them within two
seconds, and programs that get a new one on 401, as OAuth2 clients do, go on with what is left.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, TypedDict, Unpack

from django.conf import settings
from django.db import IntegrityError, transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from iam import grants
from iam.actors import Actor
from iam.audit import record
from iam.models import Revocation, ServiceAccount
from iam.services.authorising import authorise
from iam.services.cleaning import LIMITS, clean_endpoints, clean_expiry, clean_limits, clean_roles, refuse
from iam.services.secrets import new_row
from iam.signals import access_changed

logger = logging.getLogger(__name__)

# What the audit log tells of an account.
_RECORDED = ("name", "description", "roles", "endpoint_ids", "expires_at", *LIMITS)
# What its tokens say: they are worth nothing when it changes.
_IN_TOKENS = frozenset({"roles", "endpoint_ids"})


class AccountChanges(TypedDict, total=False):
    """What of an account may be set. Left out: it stays. None: none, or no limit."""

    name: str
    description: str
    roles: Iterable[str]
    endpoint_ids: Iterable[str] | None
    expires_at: datetime | None
    requests_per_minute: int | None
    tokens_per_minute: int | None
    tokens_per_month: int | None


def create_service_account(
    actor: Actor,
    name: str,
    roles: Iterable[str],
    description: str = "",
    *,
    endpoint_ids: Iterable[str] | None = None,
    expires_at: datetime | None = None,
    requests_per_minute: int | None = None,
    tokens_per_minute: int | None = None,
    tokens_per_month: int | None = None,
) -> tuple[ServiceAccount, str]:
    """A new account in the actor's project, and its first secret in plain text: the only time it is there."""
    authorise(actor)
    account = ServiceAccount(project=actor.project, created_by=actor.user, created_by_name=actor.name)
    _set(
        actor,
        account,
        {
            "name": name,
            "description": description,
            "roles": roles,
            "endpoint_ids": endpoint_ids,
            "expires_at": expires_at,
            "requests_per_minute": requests_per_minute,
            "tokens_per_minute": tokens_per_minute,
            "tokens_per_month": tokens_per_month,
        },
    )
    with transaction.atomic():
        _save(account)
        _secret, plain = new_row(account)
        record(actor, "service_account.create", account, kind="service_account", after=_told(account))
        if _is_limited(account):
            access_changed.send(sender=ServiceAccount)
    logger.info("%s created service account %s", actor.name, account.id)
    return account, plain


def update_service_account(
    actor: Actor, account: ServiceAccount, **changes: Unpack[AccountChanges]
) -> ServiceAccount:
    """Change what is given. Other roles or endpoints revoke the tokens that carry the present ones."""
    authorise(actor, account)
    with transaction.atomic():
        # As it is stored, and locked: what changes is told truly, also where two change it at once.
        stored = ServiceAccount.objects.select_for_update().get(pk=account.pk)
        before = _told(stored)
        _set(actor, stored, changes)
        after = _told(stored)
        changed = [name for name in _RECORDED if before[name] != after[name]]
        if changed:
            _save(stored)
            record(
                actor,
                "service_account.update",
                stored,
                kind="service_account",
                before={name: before[name] for name in changed},
                after={name: after[name] for name in changed},
            )
            if not _IN_TOKENS.isdisjoint(changed):
                grants.revoke_tokens(stored)
            elif not set(LIMITS).isdisjoint(changed):
                access_changed.send(sender=ServiceAccount)
    _copy(stored, account)
    logger.info("%s changed service account %s", actor.name, account.id)
    return account


def disable_service_account(actor: Actor, account: ServiceAccount) -> None:
    """No new tokens, and those that are out are refused. Disabling twice is no error."""
    authorise(actor, account)
    with transaction.atomic():
        stored = ServiceAccount.objects.select_for_update().get(pk=account.pk)
        if stored.disabled_at is None:
            stored.disabled_at = timezone.now()
            stored.save(update_fields=["disabled_at", "updated_at"])
            grants.revoke_tokens(stored)
            record(actor, "service_account.disable", stored, kind="service_account")
    _copy(stored, account)
    logger.info("%s disabled service account %s", actor.name, account.id)


def enable_service_account(actor: Actor, account: ServiceAccount) -> None:
    """Undo a disable. Whoever enables an account grants its roles. Tokens from before stay refused."""
    authorise(actor, account)
    with transaction.atomic():
        stored = ServiceAccount.objects.select_for_update().get(pk=account.pk)
        clean_roles(actor, stored.roles)
        if stored.disabled_at is not None:
            stored.disabled_at = None
            stored.save(update_fields=["disabled_at", "updated_at"])
            record(actor, "service_account.enable", stored, kind="service_account")
            access_changed.send(
                sender=ServiceAccount
            )  # gateways are told of limits of those who may call alone
    _copy(stored, account)
    logger.info("%s enabled service account %s", actor.name, account.id)


def delete_service_account(actor: Actor, account: ServiceAccount) -> None:
    """The account, its secrets and its tokens are gone for good."""
    authorise(actor, account)
    account_id = account.id
    with transaction.atomic():
        record(actor, "service_account.delete", account, kind="service_account", before=_told(account))
        account.delete()  # its tokens: iam.followers, which hears of every way to delete one
    logger.info("%s deleted service account %s", actor.name, account_id)


def expire_service_accounts(now: datetime) -> int:
    """Revoke the tokens of accounts whose date has passed; how many. Doing it again does nothing.

    The token call refuses an expired account by itself. An account that expired longer ago than a token lives has
    none left.
    """
    since = now - timedelta(seconds=settings.BERTH_TOKEN_LIFETIME_S)
    expired = ServiceAccount.objects.filter(expires_at__gt=since, expires_at__lte=now)
    count = 0
    for account_id in expired.values_list("id", flat=True):
        count += _expire(account_id, now)
    return count


def _expire(account_id: str, now: datetime) -> bool:
    with transaction.atomic():
        account = (
            ServiceAccount.objects.select_for_update().filter(id=account_id, expires_at__lte=now).first()
        )
        if account is None or account.expires_at is None:  # deleted or prolonged a moment ago
            return False
        last = f"{account.id}:{account.grant - 1}"
        if Revocation.objects.filter(grant=last, created_at__gte=account.expires_at).exists():
            return False
        grants.revoke_tokens(account)
        record(
            None,
            "service_account.expire",
            account,
            kind="service_account",
            after={"expires_at": account.expires_at},
        )
    logger.info("service account %s has expired", account_id)
    return True


def _set(actor: Actor, account: ServiceAccount, changes: AccountChanges) -> None:
    """What is given, cleaned."""
    now = timezone.now()
    if "name" in changes:
        account.name = changes["name"].strip()
    if "description" in changes:
        account.description = changes["description"].strip()
    if "roles" in changes:
        account.roles = clean_roles(actor, changes["roles"])
    if "endpoint_ids" in changes:
        account.endpoint_ids = clean_endpoints(
            account.project_id, changes["endpoint_ids"], present=account.endpoint_ids or ()
        )
    # A date that has passed may stay as it is: an expired account can still be renamed.
    if "expires_at" in changes and changes["expires_at"] != account.expires_at:
        account.expires_at = clean_expiry(changes["expires_at"], now)
    given: dict[str, Any] = {name: value for name, value in changes.items() if name in LIMITS}
    for name, value in clean_limits(given).items():
        setattr(account, name, value)


def _told(account: ServiceAccount) -> dict[str, Any]:
    return {name: getattr(account, name) for name in _RECORDED}


def _copy(stored: ServiceAccount, account: ServiceAccount) -> None:
    """The caller's object says what is stored now."""
    for field in ServiceAccount._meta.concrete_fields:
        setattr(account, field.attname, getattr(stored, field.attname))


def _is_limited(account: ServiceAccount) -> bool:
    return any(getattr(account, name) is not None for name in LIMITS)


def _save(account: ServiceAccount) -> None:
    account.full_clean(exclude=["project", "created_by", "roles", "endpoint_ids"], validate_constraints=False)
    try:
        with transaction.atomic():
            account.save()
    except IntegrityError as error:
        raise refuse(
            "name",
            _("There is already a service account named %(name)s in this project.") % {"name": account.name},
        ) from error
