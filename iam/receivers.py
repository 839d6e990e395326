"""What must happen however an identity goes: by our services, by Django's admin, with its person or its project."""

from __future__ import annotations

from typing import Any

from django.db.models.signals import pre_delete

from iam import grants
from iam.models import ApiKey, ServiceAccount


def _account_goes(instance: ServiceAccount, **_signal: Any) -> None:
    grants.revoke_tokens(instance)


def _key_goes(instance: ApiKey, **_signal: Any) -> None:
    grants.revoke_key(instance)


def connect() -> None:
    """Listen. Called once, when the app is ready."""
    pre_delete.connect(_account_goes, sender=ServiceAccount, dispatch_uid="revoke-account")
    pre_delete.connect(_key_goes, sender=ApiKey, dispatch_uid="revoke-key")
