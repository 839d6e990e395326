"""allauth's forms of the second factors, with what they leave open.

- A passkey is accepted from the configured address alone. The library would take one from any subdomain of it.
- A code works once. The library forgets a used code after 30 s, but takes codes of the steps before and after.
- Guesses of codes are counted as guesses of passwords are (iam.sign_in.limits).
"""

from __future__ import annotations

from base64 import urlsafe_b64decode
from typing import Any
from urllib.parse import urlsplit

from allauth.account.adapter import get_adapter as get_account_adapter
from allauth.core import context
from allauth.mfa.adapter import get_adapter
from allauth.mfa.base.forms import AuthenticateForm, ReauthenticateForm
from allauth.mfa.models import Authenticator
from allauth.mfa.webauthn.forms import (
    AddWebAuthnForm,
    AuthenticateWebAuthnForm,
    EditWebAuthnForm,
    LoginWebAuthnForm,
    ReauthenticateWebAuthnForm,
)
from django import forms
from django.conf import settings
from django.core.cache import cache
from fido2.webauthn import CollectedClientData

from iam.sign_in import recording

# A code is good for its own 30 s, and for the step before and after.
CODE_LIFE_S = 120


def console_origin() -> str:
    """What a browser calls the console's origin."""
    return "{0.scheme}://{0.netloc}".format(urlsplit(settings.BERTH_PUBLIC_URL))


class OurOrigin(forms.Form):
    """A credential that was made for, or used at, the console's own origin."""

    def clean_credential(self) -> Any:
        """Look at the origin that the browser signed, then let allauth verify the signature."""
        credential = self.cleaned_data["credential"]
        try:
            data = CollectedClientData(_decoded(credential["response"]["clientDataJSON"]))
            origin, crossed = data.origin, bool(data.cross_origin)
        except (KeyError, TypeError, ValueError) as error:
            raise get_adapter().validation_error("incorrect_code") from error
        if origin != console_origin() or crossed:
            raise get_adapter().validation_error("incorrect_code")
        checked = getattr(super(), "clean_credential", None)
        return checked() if checked else credential


class AddPasskeyForm(OurOrigin, AddWebAuthnForm):  # type: ignore[misc]
    """Registers one."""


class RenamePasskeyForm(EditWebAuthnForm):  # type: ignore[misc]
    """Another name for one."""

    name = forms.CharField(max_length=100)

    def save(self) -> Authenticator:
        """allauth's, on record."""
        before = self.instance.wrap().name
        renamed = super().save()
        recording.passkey_renamed(renamed, before)
        return renamed


class OnRecord(forms.Form):
    """A passkey that opens nothing is on record."""

    def clean_credential(self) -> Any:
        """Whose it was meant to be is not known."""
        try:
            return super().clean_credential()  # type: ignore[misc]
        except forms.ValidationError:
            recording.failed("", "webauthn")
            raise


class UsePasskeyForm(OnRecord, OurOrigin, AuthenticateWebAuthnForm):  # type: ignore[misc]
    """As the second step."""


class SignInByPasskeyForm(OnRecord, OurOrigin, LoginWebAuthnForm):  # type: ignore[misc]
    """Instead of address and password."""


class ConfirmByPasskeyForm(OurOrigin, ReauthenticateWebAuthnForm):  # type: ignore[misc]
    """Before factors are changed."""


class CodeOnce(forms.Form):
    """A code is counted as a guess, and taken once."""

    user: Any

    def clean_code(self) -> str:
        """Of the app or a recovery code."""
        attempt = get_account_adapter().begin_guess(context.request, self.user.email, f"mfa:{self.user.pk}")
        code = str(super().clean_code())  # type: ignore[misc]
        digits = "".join(filter(str.isalnum, code))
        if not cache.add(f"code-used:{self.user.pk}:{digits}", 1, timeout=CODE_LIFE_S):
            raise get_adapter().validation_error("incorrect_code")
        attempt.succeeded()
        return code


class CodeForm(CodeOnce, AuthenticateForm):  # type: ignore[misc]
    """The second step."""


class ConfirmByCodeForm(CodeOnce, ReauthenticateForm):  # type: ignore[misc]
    """Before factors are changed."""


def _decoded(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))
