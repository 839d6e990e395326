"""How allauth behaves here: who may sign up, whose guesses count, where secrets and passkeys belong."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from allauth.account.adapter import DefaultAccountAdapter
from allauth.core import context
from allauth.core.exceptions import ImmediateHttpResponse
from allauth.mfa.adapter import DefaultMFAAdapter
from allauth.mfa.models import Authenticator
from django.conf import settings
from django.contrib.auth.base_user import AbstractBaseUser
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext as _

from config import crypto
from iam import addresses
from iam.sign_in import devices, limits, recording, refusals, sessions


class AccountAdapter(DefaultAccountAdapter):  # type: ignore[misc]
    """Sign-up is closed: an admin makes accounts, or an invitation does."""

    def is_open_for_signup(self, request: HttpRequest) -> bool:
        """Nobody signs up by themselves."""
        return False

    def get_client_ip(self, request: HttpRequest) -> str:
        """Whose address it is, is decided in one place (iam.addresses)."""
        return sessions.address_for_row(request)

    def begin_guess(self, request: HttpRequest, email: str, account: str) -> limits.Attempt:
        """Count a guess of a password or code. Ends the request with a 429 after too many."""
        try:
            return limits.begin(
                account,
                addresses.network_of(addresses.client_address(request)),
                devices.device_of(request, email),
            )
        except limits.TooMany as error:
            raise ImmediateHttpResponse(refusals.too_many(request, error.wait_s)) from error

    def pre_authenticate(self, request: HttpRequest, **credentials: Any) -> None:
        """Instead of allauth's own counting, with which anybody can lock anybody out."""
        email = str(credentials.get("email", "")).strip().lower()
        self._attempt = self.begin_guess(request, email, email)

    def authenticate(self, request: HttpRequest, **credentials: Any) -> AbstractBaseUser | None:
        """allauth's, and the guess was none if it was right."""
        user: AbstractBaseUser | None = super().authenticate(request, **credentials)
        if user is not None:
            self._attempt.succeeded()
        return user

    def authentication_failed(self, request: HttpRequest, **credentials: Any) -> None:
        """Of a password."""
        recording.failed(str(credentials.get("email", "")))

    def post_login(self, request: HttpRequest, user: Any, **kwargs: Any) -> HttpResponse:
        """Whoever got in is known in this browser from now on."""
        response: HttpResponse = super().post_login(request, user, **kwargs)
        devices.remember(request, response, user.email)
        return response

    def get_reauthentication_methods(self, user: Any) -> list[dict[str, Any]]:
        """allauth's, in our words."""
        words = {
            "reauthenticate": _("Use your password"),
            "mfa_reauthenticate": _("Use a code of your app"),
            "mfa_reauthenticate:webauthn": _("Use a passkey"),
        }
        ways = super().get_reauthentication_methods(user)
        return [{**way, "description": words[way["id"]]} for way in ways]


class MFAAdapter(DefaultMFAAdapter):  # type: ignore[misc]
    """Secrets are encrypted with keys outside the database; passkeys belong to the configured address."""

    def encrypt(self, text: str) -> str:
        """For the database."""
        return crypto.encrypt(text)

    def decrypt(self, encrypted_text: str) -> str:
        """From the database."""
        return crypto.decrypt(encrypted_text)

    def get_public_key_credential_rp_entity(self) -> dict[str, str]:
        """Never from the Host header: a passkey made under a forged name would be worth nothing here, or more there."""
        return {"id": urlsplit(settings.BERTH_PUBLIC_URL).hostname or "localhost", "name": "Berth"}

    def generate_authenticator_name(self, user: AbstractBaseUser, type: Authenticator.Type) -> str:
        """A name to start from: the browser that it is made in."""
        device = sessions.device_of(context.request.META.get("HTTP_USER_AGENT", ""))
        return device or _("Passkey")
