"""Django's admin for IAM: of all projects, for the platform's staff. What is shown once is shown once here, too."""

from __future__ import annotations

from allauth.account.decorators import secure_admin_login
from allauth.account.models import EmailAddress
from allauth.idp.oidc.models import Client, Token
from allauth.mfa.models import Authenticator
from allauth.socialaccount.models import SocialAccount, SocialApp, SocialToken
from allauth.usersessions.models import UserSession
from django.contrib import admin
from django.contrib.auth.models import Group
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils.translation import gettext_lazy as _

from iam.admin import identities, log, people  # noqa: F401 - they register themselves

# What we don't use: permissions are roles in projects, and allauth's OAuth2 tables stay empty (iam/oauth/validator).
for unused in (Group, Client, Token, EmailAddress, SocialApp, SocialToken, SocialAccount):
    if admin.site.is_registered(unused):
        admin.site.unregister(unused)
# What belongs to a person alone, and is changed on their own Security page: sessions hold the key of a cookie.
for personal in (Authenticator, UserSession):
    if admin.site.is_registered(personal):
        admin.site.unregister(personal)


def _own_password(request: HttpRequest, extra_context: object = None) -> HttpResponse:
    """One's own password is changed on the Security page, which also ends the other sessions."""
    return redirect("account_change_password")


# Its own forms would know nothing of second factors, nor of limits on guessing.
admin.site.login = secure_admin_login(admin.site.login)  # type: ignore[method-assign]
admin.site.password_change = _own_password  # type: ignore[method-assign,assignment]

admin.site.site_header = _("Berth administration")
admin.site.site_title = _("Berth administration")
admin.site.index_title = _("The whole platform")
