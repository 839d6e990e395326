"""Every address of the console's host. Each app owns its own."""

from django.contrib import admin
from django.urls import include, path

urlpatterns = [
    path("admin/", admin.site.urls),
    path("accounts/", include("iam.sign_in.urls")),
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
# What allauth asks for when one of its own limits is passed.
handler429 = "iam.sign_in.refusals.too_many"
handler500 = "config.problems.server_error"
