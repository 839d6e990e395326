"""IAM's tables."""

from iam.models.accounts import (
    MAX_API_KEYS,
    MAX_SECRETS,
    ApiKey,
    Limited,
    Revocation,
    ServiceAccount,
    ServiceAccountSecret,
    new_client_id,
    new_key_id,
)
from iam.models.audit import AuditEvent
from iam.models.people import Invitation, Membership, Project, User, UserManager

__all__ = [
    "MAX_API_KEYS",
    "MAX_SECRETS",
    "ApiKey",
    "AuditEvent",
    "Invitation",
    "Limited",
    "Membership",
    "Project",
    "Revocation",
    "ServiceAccount",
    "ServiceAccountSecret",
    "User",
    "UserManager",
    "new_client_id",
    "new_key_id",
]
