"""The way to the provider, and back."""

from __future__ import annotations

from typing import Any

from allauth.socialaccount.helpers import render_authentication_error
from allauth.socialaccount.models import SocialApp
from allauth.socialaccount.providers.oauth2.client import OAuth2Error
from allauth.socialaccount.providers.oauth2.views import OAuth2CallbackView, OAuth2LoginView
from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from iam import addresses
from iam.sign_in import limits, refusals
from iam.sso.adapter import provider_id
from iam.sso.provider import SSOClient


class _Callback(OAuth2CallbackView):  # type: ignore[misc]
    """Hands the nonce of the question to whoever verifies the answer."""

    def _get_state(self, request: HttpRequest, provider: Any) -> Any:
        state, response = super()._get_state(request, provider)
        self.adapter.nonce = (state or {}).get("nonce", "")
        return state, response


@never_cache
@require_safe
def login(request: HttpRequest) -> HttpResponse:
    """To the provider. 404 without one."""
    client = _client(request)
    try:
        response: HttpResponse = OAuth2LoginView.adapter_view(client)(request)
    except OAuth2Error as error:
        response = render_authentication_error(request, client.get_provider(), exception=error)
    return response


@never_cache
@require_safe
def callback(request: HttpRequest) -> HttpResponse:
    """Back from the provider. Answers that let nobody in are counted by address: each costs calls and a record."""
    client = _client(request)
    try:
        attempt = limits.begin_from(addresses.network_of(addresses.client_address(request)))
    except limits.TooMany as error:
        return refusals.too_many(request, error.wait_s)
    response: HttpResponse = _Callback.adapter_view(client)(request)
    if response.status_code < 400:
        attempt.succeeded()
    return response


def _client(request: HttpRequest) -> SSOClient:
    if not settings.BERTH_OIDC_ISSUER:
        raise Http404
    client = SSOClient(request, provider_id())
    try:
        client.get_provider()
    except SocialApp.DoesNotExist as error:
        raise Http404 from error
    return client
