"""What may be done to service accounts. Every function checks that its actor may do it.

Raises django's PermissionDenied where the role does not allow it and ValidationError({field: [...]}) for input.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from django.core.exceptions import PermissionDenied, ValidationError
from django.db import IntegrityError, transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from iam.actors import Actor
from iam.models import MAX_SECRETS, ServiceAccount, ServiceAccountSecret
from iam.oauth.hashers import SecretHasher, new_secret
from iam.roles import GRANTS, Permission, Role

logger = logging.getLogger(__name__)


def create_service_account(
    actor: Actor, name: str, roles: Iterable[str], description: str = ""
) -> tuple[ServiceAccount, str]:
    """A new account in the actor's project, and its first secret in plain text: the only time it is there."""
    _authorise(actor)
    account = ServiceAccount(
        project=actor.project,
        name=name.strip(),
        description=description.strip(),
        roles=clean_roles(actor, roles),
        created_by=actor.user,
        created_by_name=actor.name,
    )
    with transaction.atomic():
        _save(account)
        _secret, plain = _new_secret(account)
    logger.info("%s created service account %s", actor.name, account.id)
    return account, plain


def update_service_account(
    actor: Actor,
    account: ServiceAccount,
    *,
    name: str | None = None,
    roles: Iterable[str] | None = None,
    description: str | None = None,
) -> ServiceAccount:
    """Change what is given. Tokens issued before keep their roles until they expire."""
    _authorise(actor, account)
    if name is not None:
        account.name = name.strip()
    if description is not None:
        account.description = description.strip()
    if roles is not None:
        account.roles = clean_roles(actor, roles)
    with transaction.atomic():
        _save(account)
    logger.info("%s changed service account %s", actor.name, account.id)
    return account


def disable_service_account(actor: Actor, account: ServiceAccount) -> None:
    """No new tokens, and none of its old ones works in the management API. Disabling twice is no error."""
    _authorise(actor, account)
    if account.disabled_at is None:
        account.disabled_at = timezone.now()
        account.save(update_fields=["disabled_at", "updated_at"])
        logger.info("%s disabled service account %s", actor.name, account.id)


def enable_service_account(actor: Actor, account: ServiceAccount) -> None:
    """Undo a disable. Whoever enables an account grants its roles."""
    _authorise(actor, account)
    clean_roles(actor, account.roles)
    if account.disabled_at is not None:
        account.disabled_at = None
        account.save(update_fields=["disabled_at", "updated_at"])
        logger.info("%s enabled service account %s", actor.name, account.id)


def delete_service_account(actor: Actor, account: ServiceAccount) -> None:
    """The account and its secrets are gone for good."""
    _authorise(actor, account)
    account_id = account.id
    account.delete()
    logger.info("%s deleted service account %s", actor.name, account_id)


def add_secret(actor: Actor, account: ServiceAccount) -> tuple[ServiceAccountSecret, str]:
    """One more secret, valid beside the present one, so that programs can be moved over without a gap."""
    _authorise(actor, account)
    clean_roles(actor, account.roles)
    with transaction.atomic():
        # Locked, so that two calls at once don't both find room.
        locked = ServiceAccount.objects.select_for_update().get(id=account.id)
        if locked.secrets.count() >= MAX_SECRETS:
            raise ValidationError(
                {
                    "secret": [
                        _("An account has at most %(count)s secrets. Delete the one that is no longer used.")
                        % {"count": MAX_SECRETS}
                    ]
                }
            )
        secret, plain = _new_secret(locked)
    logger.info("%s added a secret to service account %s", actor.name, account.id)
    return secret, plain


def delete_secret(actor: Actor, secret: ServiceAccountSecret) -> None:
    """The secret gets no more tokens from now on."""
    _authorise(actor, secret.account)
    account_id = secret.account_id
    secret.delete()
    logger.info("%s deleted a secret of service account %s", actor.name, account_id)


def clean_roles(actor: Actor, roles: Iterable[str]) -> list[str]:
    """The roles, each once and in order of strength. Nobody may grant what they don't have."""
    wanted = set(roles)
    unknown = sorted(wanted - set(Role.values))
    if unknown:
        raise ValidationError({"roles": [_("There is no role %(role)s.") % {"role": ", ".join(unknown)}]})
    if not wanted:
        raise ValidationError({"roles": [_("Choose at least one role.")]})
    for role in wanted:
        if not all(actor.may(permission) for permission in GRANTS[Role(role)]):
            raise ValidationError(
                {
                    "roles": [
                        _("You can't grant %(role)s: it allows more than your own role.") % {"role": role}
                    ]
                }
            )
    return [role for role in Role.values if role in wanted]


def _authorise(actor: Actor, account: ServiceAccount | None = None) -> None:
    if not actor.may(Permission.ADMINISTER):
        raise PermissionDenied(_("Only a project admin manages service accounts."))
    if account is not None and account.project_id != actor.project.id:
        raise PermissionDenied(_("This service account belongs to another project."))


def _save(account: ServiceAccount) -> None:
    account.full_clean(exclude=["project", "created_by", "roles"], validate_constraints=False)
    try:
        with transaction.atomic():
            account.save()
    except IntegrityError as error:
        raise ValidationError(
            {
                "name": [
                    _("There is already a service account named %(name)s in this project.")
                    % {"name": account.name}
                ]
            }
        ) from error


def _new_secret(account: ServiceAccount) -> tuple[ServiceAccountSecret, str]:
    plain = new_secret()
    hasher = SecretHasher()
    secret = ServiceAccountSecret.objects.create(
        account=account, digest=hasher.encode(plain, hasher.salt()), hint=plain[-4:]
    )
    return secret, plain
