"""What IAM's pages show."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from django.conf import settings
from django.db.models import Q, QuerySet

from iam.actors import Actor
from iam.directory import EndpointFacts
from iam.models import ApiKey, Membership, ServiceAccount, User
from iam.roles import Permission

TOKEN_PATH = "/accounts-api/v2/auth/token"  # noqa: S105


def service_accounts(actor: Actor, search: str = "") -> QuerySet[ServiceAccount]:
    """The accounts of the actor's project with their secrets, newest first.

    search: part of the name, the description or the id; "" for all
    """
    found = ServiceAccount.objects.filter(project=actor.project).prefetch_related("secrets")
    if search:
        words = Q(name__icontains=search) | Q(description__icontains=search) | Q(id__icontains=search)
        found = found.filter(words)
    return found


def members(actor: Actor) -> QuerySet[Membership]:
    """The people of the actor's project."""
    return Membership.objects.filter(project=actor.project).select_related("user").order_by("user__email")


def api_keys(actor: Actor) -> QuerySet[ApiKey]:
    """The actor's own keys in their project; of everybody there for its admins. Newest first."""
    keys = ApiKey.objects.filter(project=actor.project).select_related("user")
    return keys if actor.may(Permission.ADMINISTER) else keys.filter(user=actor.user)


def counting_keys(user: User, now: datetime) -> QuerySet[ApiKey]:
    """The keys with which a person has used up what one may have, over all projects, with their projects: those that
    have not expired, where the person is a member still. Oldest first."""
    keys = ApiKey.objects.filter(user=user, expires_at__gt=now, project__memberships__user=user)
    return keys.select_related("project").order_by("created_at")


def roles_of(key: ApiKey) -> tuple[str, ...]:
    """What its person may do in its project now."""
    roles = Membership.objects.filter(project=key.project_id, user=key.user_id, user__is_active=True)
    return tuple(roles.values_list("role", flat=True))


def account_status(account: ServiceAccount, now: datetime) -> str:
    """ACTIVE, DISABLED or EXPIRED."""
    if account.disabled_at is not None:
        return "DISABLED"
    return "EXPIRED" if account.expires_at is not None and account.expires_at <= now else "ACTIVE"


def key_status(key: ApiKey, now: datetime) -> str:
    """ACTIVE, EXPIRED, or BLOCKED while its person may not call endpoints."""
    if key.expires_at <= now:
        return "EXPIRED"
    return "BLOCKED" if key.blocked else "ACTIVE"


def narrowed(ids: list[str] | None, endpoints: Iterable[EndpointFacts]) -> list[tuple[str, str]] | None:
    """(id, name) of the endpoints that a caller is narrowed to, name "" where it is gone; None for all."""
    if ids is None:
        return None
    names = {item.id: item.name for item in endpoints}
    return sorted(((item, names.get(item, "")) for item in ids), key=lambda pair: (not pair[1], pair[1]))


def masked(client_id: str) -> str:
    """Enough of an id to tell accounts apart at a glance: `sa-1f2e…9a0b`."""
    return f"{client_id[:7]}…{client_id[-4:]}"


@dataclass(frozen=True, slots=True)
class Credentials:
    """A new secret as its owner needs it, in the page that shows it once."""

    client_id: str
    client_secret: str = field(repr=False)

    @property
    def header(self) -> str:
        """The ready-made Authorization header's value (RFC 7617)."""
        pair = f"{self.client_id}:{self.client_secret}".encode()
        return "Basic " + base64.b64encode(pair).decode()

    @property
    def curl(self) -> str:
        """The token call, ready to paste (contract §2)."""
        url = shlex.quote(settings.BERTH_PUBLIC_URL + TOKEN_PATH)
        return (
            f"curl --location {url} \\\n"
            f"  --header 'Authorization: {self.header}' \\\n"
            "  --header 'Content-Type: application/json' \\\n"
            '  --data \'{"grant_type":"client_credentials","scope":"email"}\''
        )

    @property
    def environment(self) -> str:
        """The file that the page offers for download: lines for a shell or an env file."""
        return (
            f"BERTH_TOKEN_URL={settings.BERTH_PUBLIC_URL}{TOKEN_PATH}\n"
            f"BERTH_CLIENT_ID={self.client_id}\n"
            f"BERTH_CLIENT_SECRET={self.client_secret}\n"
        )


@dataclass(frozen=True, slots=True)
class KeyText:
    """A new API key as its owner needs it, in the page that shows it once. url: an endpoint to try it on, or ""."""

    key_id: str
    text: str = field(repr=False)
    url: str = ""

    @property
    def base_url(self) -> str:
        """What OpenAI's clients take."""
        return f"{self.url or settings.BERTH_GATEWAY_URL + '/v1/me-…'}/v1"

    @property
    def curl(self) -> str:
        """A first call, ready to paste: which models the endpoint serves."""
        return f"curl {shlex.quote(self.base_url + '/models')} \\\n  --header 'Authorization: Bearer {self.text}'"

    @property
    def python(self) -> str:
        """The same with OpenAI's client."""
        return (
            "from openai import OpenAI\n\n"
            "client = OpenAI(\n"
            f'    base_url="{self.base_url}",\n'
            f'    api_key="{self.text}",\n'
            ")\n"
            "for model in client.models.list():\n"
            "    print(model.id)"
        )

    @property
    def environment(self) -> str:
        """The file that the page offers for download: what OpenAI's clients read by themselves."""
        return f"OPENAI_BASE_URL={self.base_url}\nOPENAI_API_KEY={self.text}\n"
