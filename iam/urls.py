"""IAM's addresses: the OAuth2 server and the console pages."""

from django.urls import include, path

from iam.views import api_keys, service_accounts

app_name = "iam"

_account = [
    path("", service_accounts.detail, name="service_account"),
    path("secrets/", service_accounts.add_secret, name="add_secret"),
    path("secrets/<int:secret_id>/delete/", service_accounts.delete_secret, name="delete_secret"),
    path("disable/", service_accounts.disable, name="disable_service_account"),
    path("enable/", service_accounts.enable, name="enable_service_account"),
    path("delete/", service_accounts.delete, name="delete_service_account"),
]

urlpatterns = [
    path("", include("iam.oauth.urls")),
    path("iam/service-accounts/", service_accounts.index, name="service_accounts"),
    path("iam/service-accounts/create/", service_accounts.create, name="create_service_account"),
    path("iam/service-accounts/<slug:account_id>/", include(_account)),
    path("iam/api-keys/", api_keys.index, name="api_keys"),
    path("iam/api-keys/create/", api_keys.create, name="create_api_key"),
    path("iam/api-keys/<slug:key_id>/", api_keys.detail, name="api_key"),
    path("iam/api-keys/<slug:key_id>/delete/", api_keys.delete, name="delete_api_key"),
    path("", include("iam.people_urls")),
    path("", include("iam.audit_urls")),
]
