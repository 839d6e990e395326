"""Whom single sign-on lets in, and as whom.

1. Whoever is known by the provider's own id of them, is that person.
2. A verified address that belongs to an active account here links the two, once. Whoever made that account need not
   have owned the address (an invitation's address is typed by its guest): what they could come back with, its
   password, its second factors and its sessions, ends with the link.
3. A verified address of nobody becomes a member of BERTH_OIDC_PROJECT, if that is set.
4. Everybody else is told to ask an admin.
"""

from __future__ import annotations

import hashlib
import logging
from typing import Any

from allauth.core.exceptions import ImmediateHttpResponse
from allauth.mfa.models import Authenticator
from allauth.socialaccount.adapter import DefaultSocialAccountAdapter
from allauth.socialaccount.models import SocialApp, SocialLogin
from allauth.socialaccount.signals import social_account_added
from django.conf import settings
from django.contrib import messages
from django.db import transaction
from django.db.models import Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.translation import gettext as _

from iam import audit
from iam.models import Membership, Project, User
from iam.roles import Role
from iam.sign_in import recording, sessions

logger = logging.getLogger(__name__)


def provider_id() -> str:
    """What links are kept under. Another issuer is another name: its ids of people mean other people."""
    return "sso-" + hashlib.sha256(settings.BERTH_OIDC_ISSUER.rstrip("/").encode()).hexdigest()[:16]


class SSOAccountAdapter(DefaultSocialAccountAdapter):  # type: ignore[misc]
    """The rules above, where allauth asks for them."""

    def list_apps(self, request: HttpRequest, provider: Any = None, client_id: Any = None) -> list[SocialApp]:
        """The configured one. Rows count for nothing: whoever can write one must not be able to add a provider."""
        if not settings.BERTH_OIDC_ISSUER or provider not in (None, "sso", provider_id()):
            return []
        return [
            SocialApp(
                provider="sso",
                provider_id=provider_id(),
                name=settings.BERTH_OIDC_NAME,
                client_id=settings.BERTH_OIDC_CLIENT_ID,
                secret=settings.BERTH_OIDC_CLIENT_SECRET,
                settings={"server_url": settings.BERTH_OIDC_ISSUER},
            )
        ]

    def authenticate_by_email(self, sociallogin: SocialLogin) -> tuple[User, str] | None:
        """Rule 2. Only the address that an account is named by counts."""
        email = _verified(sociallogin)
        if not email or not _domain_is_ours(email):
            return None
        user = User.objects.filter(email__iexact=email, is_active=True).first()
        return (user, email) if user else None

    def pre_social_login(self, request: HttpRequest, sociallogin: SocialLogin) -> None:
        """Refuse whom no rule lets in, before anything is made."""
        email = _verified(sociallogin)
        if settings.BERTH_OIDC_DOMAINS and not _domain_is_ours(email):
            raise _refusal(request, "domain", sociallogin)
        if sociallogin.is_existing:
            return
        if not email:
            raise _refusal(request, "unverified", sociallogin)
        if User.objects.filter(email__iexact=email).exists():  # rule 2 passed it over
            raise _refusal(request, "inactive", sociallogin)
        if _project() is None:
            raise _refusal(request, "uninvited", sociallogin)

    def is_open_for_signup(self, request: HttpRequest, sociallogin: SocialLogin) -> bool:
        """Rule 3; `pre_social_login` has looked."""
        return _project() is not None

    def save_user(self, request: HttpRequest, sociallogin: SocialLogin, form: Any = None) -> User:
        """A new person, and their membership."""
        project = _project()
        assert project is not None
        with transaction.atomic():
            user: User = super().save_user(request, sociallogin, form)
            Membership.objects.create(user=user, project=project, role=settings.BERTH_OIDC_ROLE)
            after = {"issuer": settings.BERTH_OIDC_ISSUER, "role": settings.BERTH_OIDC_ROLE}
            audit.record(user, "sso.create", user, project_id=project.id, after=after)
        return user

    def on_authentication_error(self, request: HttpRequest, provider: Any, **kwargs: Any) -> None:
        """Why, for whoever runs this; the page says less."""
        why = kwargs.get("exception")
        logger.warning("single sign-on failed: %s", why or kwargs.get("error"))
        if why is not None:  # else nobody asked us, or the person broke off
            audit.record(None, "session.sign_in_failed", kind="session", after={"with": ["sso"]})


def connect() -> None:
    """Listen to allauth. Called once, when the apps are ready."""
    social_account_added.connect(_linked, dispatch_uid="iam.sso.linked")


def _linked(request: HttpRequest, sociallogin: SocialLogin, **kwargs: Any) -> None:
    """Rule 2 has linked an account: end what its maker could come back with. allauth has taken the password."""
    user = sociallogin.user
    assert isinstance(user, User)
    with transaction.atomic():
        factors = Authenticator.objects.filter(user=user)
        after = {"issuer": settings.BERTH_OIDC_ISSUER, "second_factors_removed": factors.count()}
        factors.delete()
        sessions.end_all(user, but=request.session.session_key)
        audit.record(user, "sso.link", user, after=after)
    words = _(
        "This account signs in with %(provider)s from now on. Its password and second factors were removed."
    )
    messages.info(request, words % {"provider": settings.BERTH_OIDC_NAME})


def _verified(sociallogin: SocialLogin) -> str:
    return next((str(address.email) for address in sociallogin.email_addresses if address.verified), "")


def _domain_is_ours(email: str) -> bool:
    domains = settings.BERTH_OIDC_DOMAINS
    return not domains or email.rpartition("@")[2].lower() in domains


def _project() -> Project | None:
    """Where new people belong, None for nowhere."""
    named = settings.BERTH_OIDC_PROJECT
    if not named or settings.BERTH_OIDC_ROLE not in Role.values:
        return None
    return Project.objects.filter(Q(pk=named) | Q(name=named)).first()


def _refusal(request: HttpRequest, reason: str, sociallogin: SocialLogin) -> ImmediateHttpResponse:
    address = next((str(address.email) for address in sociallogin.email_addresses), "")
    recording.failed(address, "sso")
    response: HttpResponse = render(
        request,
        "socialaccount/refused.html",
        {"reason": reason, "address": address, "provider": settings.BERTH_OIDC_NAME},
        status=403,
    )
    return ImmediateHttpResponse(response)
