"""The provider, as allauth's machinery takes it: PKCE and a nonce on every question, every answer verified."""

from __future__ import annotations

import secrets
from typing import Any

from allauth.account.models import EmailAddress
from allauth.socialaccount.adapter import get_adapter
from allauth.socialaccount.models import SocialLogin
from allauth.socialaccount.providers.oauth2.client import OAuth2Error
from allauth.socialaccount.providers.openid_connect.provider import OpenIDConnectProvider
from allauth.socialaccount.providers.openid_connect.views import OpenIDConnectOAuth2Adapter
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from requests import RequestException

from iam.sso import id_tokens
from iam.sso.checks import is_safe

_NEEDED = ("issuer", "authorization_endpoint", "token_endpoint", "jwks_uri")


class SSOClient(OpenIDConnectOAuth2Adapter):  # type: ignore[misc]
    """Talks to the provider."""

    nonce = ""  # the one that was sent with the question; set by the callback

    @property
    def openid_config(self) -> dict[str, Any]:
        """What the provider says of itself. Raises OAuth2Error if it can't be had or belongs to another issuer."""
        if not hasattr(self, "_config"):
            url = settings.BERTH_OIDC_ISSUER.rstrip("/") + "/.well-known/openid-configuration"
            self._config = self._fetch(url)
        config: dict[str, Any] = self._config
        missing = [name for name in _NEEDED if not isinstance(config.get(name), str)]
        if missing:
            raise OAuth2Error(f"the provider's configuration lacks {', '.join(missing)}")
        if config["issuer"].rstrip("/") != settings.BERTH_OIDC_ISSUER.rstrip("/"):
            raise OAuth2Error(f"the provider calls itself {config['issuer']!r}, not BERTH_OIDC_ISSUER")
        if not all(is_safe(config[name]) for name in _NEEDED[1:]):
            raise OAuth2Error("the provider names addresses that are not https")
        return config

    def get_callback_url(self, request: HttpRequest, app: Any) -> str:
        """Under the configured address, whatever Host header the request has."""
        return str(settings.BERTH_PUBLIC_URL + reverse("sso_callback"))

    def complete_login(self, request: HttpRequest, app: Any, token: Any, **kwargs: Any) -> SocialLogin:
        """Who it is, by a verified id_token and, if that has no address, the userinfo call of the same person."""
        id_token = kwargs["response"].get("id_token")
        if not id_token:
            raise OAuth2Error("no id_token in the answer")
        config = self.openid_config
        try:
            claims = id_tokens.verify(
                str(id_token),
                self._fetch(config["jwks_uri"]),
                issuer=config["issuer"],
                client_id=app.client_id,
                nonce=self.nonce,
            )
        except id_tokens.InvalidToken as error:
            raise OAuth2Error(f"the id_token is refused: {error}") from error
        if "email" not in claims and config.get("userinfo_endpoint"):
            claims = self._with_userinfo(claims, str(config["userinfo_endpoint"]), token.token)
        return self.get_provider().sociallogin_from_response(request, {"id_token": claims})

    def _with_userinfo(self, claims: dict[str, Any], url: str, access_token: str) -> dict[str, Any]:
        if not is_safe(url):
            raise OAuth2Error("the provider's userinfo address is not https")
        told = self._fetch(url, {"Authorization": f"Bearer {access_token}"})
        if told.get("sub") != claims["sub"]:  # OpenID Connect Core 1.0 §5.3.2
            raise OAuth2Error("userinfo speaks of another person than the id_token")
        return {**told, **claims}

    def _fetch(self, url: str, headers: dict[str, str] | None = None) -> dict[str, Any]:
        try:
            with get_adapter().get_requests_session() as session:
                answer = session.get(url, headers=headers)
            answer.raise_for_status()
            body = answer.json()
        except RequestException as error:
            raise OAuth2Error(f"{url} can't be read: {error}") from error
        if not isinstance(body, dict):
            raise OAuth2Error(f"{url} answers with something else than an object")
        return body


class SSOProvider(OpenIDConnectProvider):  # type: ignore[misc]
    """The one provider of this installation."""

    id = "sso"
    name = "Single sign-on"
    oauth2_adapter_class = SSOClient
    pkce_enabled_default = True
    supports_token_authentication = False

    def get_login_url(self, request: HttpRequest, **kwargs: Any) -> str:
        """Where its button leads."""
        return reverse("sso_login")

    def get_callback_url(self) -> str:
        """Where it sends people back to."""
        return reverse("sso_callback")

    def redirect(self, request: HttpRequest, process: str, **kwargs: Any) -> HttpResponse:
        """Ask. What callers put into the query (scope, auth_params, process) does not count."""
        nonce = secrets.token_urlsafe(32)
        for name in ("scope", "auth_params"):
            kwargs.pop(name, None)
        response: HttpResponse = super().redirect(
            request, "login", auth_params={"nonce": nonce}, nonce=nonce, **kwargs
        )
        return response

    def extract_extra_data(self, data: dict[str, Any]) -> dict[str, Any]:
        """All that is kept of a person."""
        claims = data["id_token"]
        return {name: claims[name] for name in ("iss", "sub", "email", "name") if name in claims}

    def extract_email_addresses(self, data: dict[str, Any]) -> list[EmailAddress]:
        """At most one. Verified means the provider says `true`, in one of the two ways that providers do."""
        claims = data["id_token"]
        email = claims.get("email")
        if not isinstance(email, str) or "@" not in email:
            return []
        said = claims.get("email_verified")
        verified = said is True or said == "true"  # not `in`: 1 is True there
        return [EmailAddress(email=email.lower(), verified=verified, primary=True)]


provider_classes = [SSOProvider]
