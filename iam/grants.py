"""Taking back what tokens allow before they expire. The gateways follow within two seconds.

A token names its grant: the identity and how often that one's tokens were revoked before. Revoking puts the present
grant on the list that gateways refuse, until the last token with it has expired, and new tokens get the next one.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from iam.models import ApiKey, Membership, Revocation, ServiceAccount
from iam.roles import Permission, allows
from iam.signals import access_changed

# A token that is signed while its grant is revoked may be that much younger; clocks of gateways may differ.
_MARGIN = timedelta(seconds=60)


def revoke_tokens(account: ServiceAccount) -> None:
    """Every token that `account` has is refused from now on; its next ones are good. In the caller's transaction."""
    with transaction.atomic():
        # Locked: of two changes at once each has to put its own grant on the list.
        present = ServiceAccount.objects.select_for_update().values_list("grant", flat=True)
        number = present.get(pk=account.pk)
        _revoke(f"{account.id}:{number}", timezone.now() + _token_lifetime())
        ServiceAccount.objects.filter(pk=account.pk).update(grant=number + 1)
    account.grant = number + 1


def revoke_key(key: ApiKey) -> None:
    """The key is refused from now on, for good."""
    _revoke(key.token_grant, key.expires_at + _MARGIN)


def revoked(now: datetime) -> list[str]:
    """The grants that gateways refuse: those revoked, and those of keys whose people may not call endpoints now."""
    listed = Revocation.objects.filter(expires_at__gt=now).values_list("grant", flat=True)
    blocked = ApiKey.objects.filter(blocked=True, expires_at__gt=now)
    return sorted({*listed, *(key.token_grant for key in blocked)})


def follow_people(user_ids: list[int]) -> None:
    """Block the API keys of these people where they may not call endpoints any more, and unblock where they may."""
    members = Membership.objects.filter(user_id__in=user_ids, user__is_active=True)
    roles = members.values_list("user_id", "project_id", "role")
    may_call = {(user, project) for user, project, role in roles if allows((role,), Permission.INVOKE)}
    changed = []
    for key in ApiKey.objects.filter(user_id__in=user_ids):
        blocked = (key.user_id, key.project_id) not in may_call
        if blocked != key.blocked:
            key.blocked = blocked
            changed.append(key)
    if changed:
        ApiKey.objects.bulk_update(changed, ["blocked"])
        access_changed.send(sender=ApiKey)


def prune(now: datetime) -> int:
    """Forget the revocations whose tokens have all expired by themselves. How many."""
    return Revocation.objects.filter(expires_at__lte=now).delete()[0]


def _revoke(grant: str, until: datetime) -> None:
    Revocation.objects.update_or_create(grant=grant, defaults={"expires_at": until})
    access_changed.send(sender=Revocation)


def _token_lifetime() -> timedelta:
    return timedelta(seconds=settings.BERTH_TOKEN_LIFETIME_S) + _MARGIN
