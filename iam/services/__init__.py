"""What may be done to identities. Every function checks that its actor may do it, and leaves a record in the audit log.

Raises django's PermissionDenied where the role does not allow it and ValidationError({field: [...]}) for input.
"""

from iam.services.accounts import (
    AccountChanges,
    create_service_account,
    delete_service_account,
    disable_service_account,
    enable_service_account,
    expire_service_accounts,
    update_service_account,
)
from iam.services.cleaning import MAX_ENDPOINTS, clean_roles
from iam.services.keys import create_api_key, delete_api_key
from iam.services.secrets import add_secret, delete_secret

__all__ = [
    "MAX_ENDPOINTS",
    "AccountChanges",
    "add_secret",
    "clean_roles",
    "create_api_key",
    "create_service_account",
    "delete_api_key",
    "delete_secret",
    "delete_service_account",
    "disable_service_account",
    "enable_service_account",
    "expire_service_accounts",
    "update_service_account",
]
