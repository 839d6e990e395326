"""Every address of the console's host. Each app owns its own."""

from django.contrib import admin
from django.urls import include, path

urlpatterns = [
    path("admin/", admin.site.urls),
    path("accounts/", include("allauth.account.urls")),
    path("", include("iam.urls")),
    path("", include("registry.urls")),
    path("", include("endpoints.urls")),
    path("", include("endpoints.internal")),
    path("", include("config.operations")),
    path("api/", include("config.api_urls")),
]
