"""The OAuth2 server's addresses (contract §2)."""

from django.urls import path

from iam.oauth import views

urlpatterns = [
    path("accounts-api/v2/auth/token", views.token, name="oauth_token"),
    path(".well-known/openid-configuration", views.configuration, name="openid_configuration"),
    path(".well-known/jwks.json", views.jwks, name="jwks"),
]
