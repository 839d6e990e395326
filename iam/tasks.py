"""Celery's entry points of IAM."""

from __future__ import annotations

from celery import shared_task
from django.utils import timezone

from iam import grants, services


@shared_task(name="iam.tasks.sweep_identities")
def sweep_identities() -> None:
    """Refuse the tokens of accounts whose date has passed, and forget revocations of tokens that are all dead."""
    now = timezone.now()
    services.expire_service_accounts(now)
    grants.prune(now)
