"""An account's secrets. Two at most, so that one is replaced without a gap: add, move the programs over, delete."""

from __future__ import annotations

import logging
from datetime import datetime

from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from iam.actors import Actor
from iam.audit import record
from iam.models import MAX_SECRETS, ServiceAccount, ServiceAccountSecret
from iam.oauth.hashers import SecretHasher, new_secret
from iam.services.authorising import authorise
from iam.services.cleaning import clean_expiry, clean_roles, refuse

logger = logging.getLogger(__name__)


def add_secret(
    actor: Actor, account: ServiceAccount, expires_at: datetime | None = None
) -> tuple[ServiceAccountSecret, str]:
    """One more secret, valid beside the present one, and its text: the only time it is there.

    expires_at: from then on it gets no more tokens; None: it works until it is deleted.
    """
    authorise(actor, account)
    clean_roles(actor, account.roles)
    clean_expiry(expires_at, timezone.now())
    with transaction.atomic():
        # Locked, so that two calls at once don't both find room.
        locked = ServiceAccount.objects.select_for_update().get(id=account.id)
        if locked.secrets.count() >= MAX_SECRETS:
            raise refuse(
                "secret",
                _("An account has at most %(count)s secrets. Delete the one that is no longer used.")
                % {"count": MAX_SECRETS},
            )
        secret, plain = new_row(locked, expires_at)
        record(
            actor,
            "secret.create",
            secret,
            kind="secret",
            name=f"{account.name} …{secret.hint}",
            project_id=account.project_id,
            after={"service_account": account.id, "expires_at": expires_at},
        )
    logger.info("%s added a secret to service account %s", actor.name, account.id)
    return secret, plain


def delete_secret(actor: Actor, secret: ServiceAccountSecret) -> None:
    """The secret gets no more tokens from now on. Those that it got go on until they expire: they are the account's."""
    account = secret.account
    authorise(actor, account)
    with transaction.atomic():
        record(
            actor,
            "secret.delete",
            secret,
            kind="secret",
            name=f"{account.name} …{secret.hint}",
            project_id=account.project_id,
            before={"service_account": account.id, "last_used_at": secret.last_used_at},
        )
        secret.delete()
    logger.info("%s deleted a secret of service account %s", actor.name, account.id)


def new_row(account: ServiceAccount, expires_at: datetime | None = None) -> tuple[ServiceAccountSecret, str]:
    """A stored secret and its text."""
    plain = new_secret()
    hasher = SecretHasher()
    secret = ServiceAccountSecret.objects.create(
        account=account,
        digest=hasher.encode(plain, hasher.salt()),
        hint=plain[-4:],
        expires_at=expires_at,
    )
    return secret, plain
