"""What oauthlib asks about clients, answered from service accounts.

allauth knows clients as rows of its `Client` table. None is ever stored here: ServiceAccount is the one source of
truth, and the `Client` that oauthlib and allauth's code work with is made from it for the length of one call. A
stored mirror would have to follow every rename, disable, role change and delete, and where it lagged, a disabled
account would still get tokens.
"""

from __future__ import annotations

import base64
import binascii
import logging
import re
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import unquote_plus

from allauth.idp.oidc.internal.oauthlib.request_validator import OAuthLibRequestValidator
from allauth.idp.oidc.models import Client
from django.db import DatabaseError
from django.db.models import Q
from django.utils import timezone
from oauthlib.common import Request
from oauthlib.oauth2.rfc6749.errors import InvalidClientError, InvalidRequestError

from iam.models import MAX_SECRETS, ServiceAccount, ServiceAccountSecret
from iam.oauth.adapter import SCOPES
from iam.oauth.hashers import SecretHasher, nobodys_digest
from iam.origin import origin

logger = logging.getLogger(__name__)

# "Last used" is told to the minute; writing it for every token would make every token wait for the write lock.
USED_RESOLUTION = timedelta(minutes=1)
_CLIENT_ID = re.compile(r"sa-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_NOBODY = "sa-00000000-0000-0000-0000-000000000000"


def client_for(account: ServiceAccount) -> Client:
    """The account as an OAuth2 client that may do one thing: get tokens for itself. Never saved."""
    client = Client(
        id=account.id,
        name=account.name,
        secret="",
        type=Client.Type.CONFIDENTIAL,
        grant_types=Client.GrantType.CLIENT_CREDENTIALS,
        scopes="\n".join(SCOPES),
    )
    client.account = account
    return client


class Validator(OAuthLibRequestValidator):  # type: ignore[misc]
    """allauth's validator with service accounts for clients and no token rows."""

    def authenticate_client(self, request: Request, *args: Any, **kwargs: Any) -> bool:
        """Whether the request carries the id and a secret of an active account.

        A wrong id, a wrong secret and a disabled account take the same steps: one query and always as many
        digests as an account may have secrets.
        """
        client_id, secret = credentials(request)
        if not client_id or not secret:
            return False
        now = timezone.now()
        known = client_id if _CLIENT_ID.fullmatch(client_id) else _NOBODY
        rows = list(
            ServiceAccountSecret.objects.filter(account_id=known, account__disabled_at=None)
            .filter(Q(expires_at=None) | Q(expires_at__gt=now))
            .filter(Q(account__expires_at=None) | Q(account__expires_at__gt=now))
            .values_list("digest", "id", "last_used_at")[:MAX_SECRETS]
        )
        rows += [(nobodys_digest(), 0, None)] * (MAX_SECRETS - len(rows))
        hasher = SecretHasher()
        matching = [row for row in rows if hasher.verify(secret, row[0])]
        if not matching:
            return False
        account = ServiceAccount.objects.filter(id=known, disabled_at=None).first()
        if account is None:  # deleted or disabled a moment ago
            return False
        self._use_client(request, client_for(account))
        _digest, secret_id, secret_used = matching[0]
        _note_use(account, secret_id, secret_used, now)
        return True

    def save_bearer_token(self, token: dict[str, Any], request: Request, *args: Any, **kwargs: Any) -> None:
        """Store nothing: a token is checked by its signature, and ends by its `exp` or with its account."""


def _note_use(account: ServiceAccount, secret_id: int, secret_used: datetime | None, now: datetime) -> None:
    # Compared here first: in SQLite even an UPDATE that finds no row waits for the write lock.
    limit = now - USED_RESOLUTION
    try:
        if account.last_used_at is None or account.last_used_at <= limit:
            ServiceAccount.objects.filter(id=account.id).update(last_used_at=now)
        if secret_used is None or secret_used <= limit:
            seen = {"last_used_at": now, "last_used_from": origin.get().address[:45]}
            ServiceAccountSecret.objects.filter(id=secret_id).update(**seen)
    except DatabaseError:
        # A busy or read-only database is no reason to refuse a token.
        logger.warning("The use of service account %s was not noted.", account.id, exc_info=True)


def credentials(request: Request) -> tuple[str, str]:
    """client_id and client_secret from the Basic header or from the body (RFC 6749 §2.3.1); "" where absent.

    Raises InvalidRequestError for a header that can't be read and for credentials given in both places, and
    InvalidClientError for another way to authenticate.
    """
    header = request.headers.get("Authorization", "")
    in_body = (request.client_id or "", request.client_secret or "")
    if not header:
        return in_body
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        raise InvalidClientError(
            "Authenticate with HTTP Basic, or with client_id and client_secret in the body."
        )
    client_id, secret = _decode_basic(encoded.strip())
    if in_body[1]:
        raise InvalidRequestError("Send the credentials once: in the Authorization header or in the body.")
    if in_body[0] and in_body[0] != client_id:
        raise InvalidRequestError("The client_id in the body is not the one in the Authorization header.")
    return client_id, secret


def _decode_basic(encoded: str) -> tuple[str, str]:
    try:
        text = base64.b64decode(encoded, validate=True).decode()
    except (binascii.Error, ValueError) as error:
        raise InvalidRequestError(
            "The Authorization header is not valid Base64. It has to be: Basic base64(client_id:client_secret)."
        ) from error
    client_id, colon, secret = text.partition(":")
    if not colon:
        raise InvalidRequestError(
            "The Authorization header has no colon in it. It has to be: Basic base64(client_id:client_secret)."
        )
    return unquote_plus(client_id), unquote_plus(secret)
