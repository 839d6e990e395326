"""Celery's entry points of IAM."""

from __future__ import annotations

from celery import shared_task
from django.utils import timezone

from iam import grants, services
from iam.oauth import key_rotation
from iam.sign_in import sessions


@shared_task(name="iam.tasks.sweep_identities")
def sweep_identities() -> None:
    """Refuse the tokens of accounts whose date has passed, and forget revocations of tokens that are all dead."""
    now = timezone.now()
    services.expire_service_accounts(now)
    grants.prune(now)


@shared_task(name="iam.tasks.clear_sessions")
def clear_sessions() -> None:
    """Sessions whose time is over leave the database; most are of browsers that never signed in."""
    sessions.clear_expired()


@shared_task(name="iam.tasks.turn_signing_keys")
def turn_signing_keys() -> None:
    """New signing keys where the present ones are old enough, and the end of those that no live token needs."""
    key_rotation.turn(timezone.now())
