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

# Under /api/ every error is a problem document; elsewhere they are Django's pages.
handler400 = "config.problems.bad_request"
handler404 = "config.problems.not_found"
handler500 = "config.problems.server_error"
