"""The identities of programs: service accounts with their secrets, and people's API keys.

`grant` counts the times that an identity's tokens were revoked. A token carries "<id>:<grant>" as its claim `grant`;
the gateways refuse the grants of iam.models.Revocation, so that a change is exact and no clock matters.
"""

from __future__ import annotations

import uuid

from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from iam.models.people import Project, User


class Limited(models.Model):
    """How much may be asked for. None: as much as wanted.

    tokens are the model's: prompt and completion together. A minute and a month are UTC's.
    """

    requests_per_minute = models.PositiveIntegerField(_("requests a minute"), null=True, blank=True)
    tokens_per_minute = models.PositiveIntegerField(_("tokens a minute"), null=True, blank=True)
    tokens_per_month = models.PositiveBigIntegerField(_("tokens a month"), null=True, blank=True)

    class Meta:
        abstract = True


def new_client_id() -> str:
    """A service account's id, which is also its OAuth2 client_id and its tokens' `sub`."""
    return f"sa-{uuid.uuid4()}"


# Two, so that a secret is replaced without a gap: add one, move the programs over, delete the other.
MAX_SECRETS = 2


class ServiceAccount(Limited):
    """A program's identity. It gets access tokens with its client_id and one of its secrets.

    endpoint_ids  the only endpoints that it may call, None for all of its project
    expires_at    from then on it gets no tokens, and those it has are refused
    """

    id = models.CharField(primary_key=True, max_length=40, default=new_client_id, editable=False)
    project = models.ForeignKey(Project, models.CASCADE, related_name="service_accounts")
    name = models.CharField(_("name"), max_length=80)
    description = models.CharField(_("description"), max_length=200, blank=True)
    roles = models.JSONField(_("roles"), default=list)
    endpoint_ids = models.JSONField(_("endpoints"), null=True, blank=True, default=None)
    grant = models.PositiveIntegerField(default=1, editable=False)
    expires_at = models.DateTimeField(_("expires"), null=True, blank=True)
    disabled_at = models.DateTimeField(_("disabled at"), null=True, blank=True)
    last_used_at = models.DateTimeField(_("last used"), null=True, blank=True)
    created_by = models.ForeignKey(User, models.SET_NULL, null=True, blank=True, related_name="+")
    # Kept when the user is gone, and the only record where another service account made this one.
    created_by_name = models.CharField(max_length=200, blank=True, default="", editable=False)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        verbose_name = _("service account")
        verbose_name_plural = _("service accounts")
        ordering = ["-created_at"]
        constraints = [
            models.UniqueConstraint(fields=["project", "name"], name="service_account_name_unique_in_project")
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def client_id(self) -> str:
        """The OAuth2 name of `id`."""
        return self.id

    @property
    def is_active(self) -> bool:
        """Whether it may get tokens."""
        return self.disabled_at is None and not self.is_expired

    @property
    def is_expired(self) -> bool:
        """Whether its date has passed."""
        return self.expires_at is not None and self.expires_at <= timezone.now()

    @property
    def token_grant(self) -> str:
        """The claim `grant` of its present tokens."""
        return f"{self.id}:{self.grant}"


class ServiceAccountSecret(models.Model):
    """One of an account's secrets, as a keyed hash. The secret itself is shown once and kept nowhere."""

    account = models.ForeignKey(ServiceAccount, models.CASCADE, related_name="secrets")
    digest = models.CharField(max_length=200, editable=False)
    hint = models.CharField(_("last four characters"), max_length=8, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)
    last_used_at = models.DateTimeField(null=True, blank=True)
    last_used_from = models.CharField(max_length=45, blank=True, default="", editable=False)
    expires_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        verbose_name = _("secret")
        verbose_name_plural = _("secrets")

    def __str__(self) -> str:
        return f"…{self.hint}"


# Of one person, over all projects: a key that is lost is replaced by the second.
MAX_API_KEYS = 2


def new_key_id() -> str:
    """An API key's id, which is also its tokens' `sub`."""
    return f"key-{uuid.uuid4()}"


class ApiKey(Limited):
    """A long-lived token with which a person calls endpoints; shown once, kept nowhere.

    It can do what its person may call: it is refused while they have lost the role, the membership or the account.
    endpoint_ids  the only endpoints that it may call, None for all of its project
    blocked       its person may not call endpoints at the moment; set by iam.grants
    """

    id = models.CharField(primary_key=True, max_length=40, default=new_key_id, editable=False)
    project = models.ForeignKey(Project, models.CASCADE, related_name="api_keys")
    user = models.ForeignKey(User, models.CASCADE, related_name="api_keys")
    name = models.CharField(_("name"), max_length=80)
    hint = models.CharField(_("last four characters"), max_length=8, editable=False)
    endpoint_ids = models.JSONField(_("endpoints"), null=True, blank=True, default=None)
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(_("expires"))
    last_used_at = models.DateTimeField(_("last used"), null=True, blank=True)
    blocked = models.BooleanField(default=False, editable=False)

    class Meta:
        verbose_name = _("API key")
        verbose_name_plural = _("API keys")
        ordering = ["-created_at"]
        constraints = [
            models.UniqueConstraint(fields=["user", "project", "name"], name="api_key_name_unique_of_person")
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def token_grant(self) -> str:
        """The claim `grant` of its token."""
        return f"{self.id}:1"


class Revocation(models.Model):
    """Tokens that the gateways refuse although they have not expired. Pruned after `expires_at`.

    grant       their claim
    expires_at  when the last of them has expired by itself
    """

    grant = models.CharField(primary_key=True, max_length=60)
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(db_index=True)

    def __str__(self) -> str:
        return self.grant
