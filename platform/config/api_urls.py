"""The management API's addresses: every app brings its own resources."""

from __future__ import annotations

from django.urls import include, path
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView
from rest_framework.routers import SimpleRouter
from rest_framework.viewsets import ViewSetMixin

from endpoints.api import routes as endpoint_routes
from iam import api_schema  # noqa: F401 - drf-spectacular finds its extensions by their import
from iam.api import routes as iam_routes
from iam.audit_api import routes as audit_routes
from iam.people_api import routes as people_routes
from registry.api import routes as registry_routes

router = SimpleRouter()
routes: list[tuple[str, type[ViewSetMixin], str]] = [
    *iam_routes,
    *people_routes,
    *audit_routes,
    *registry_routes,
    *endpoint_routes,
]
for prefix, viewset, basename in routes:
    router.register(prefix, viewset, basename)

urlpatterns = [
    path("v1/", include(router.urls)),
    path("schema/", SpectacularAPIView.as_view(authentication_classes=[]), name="api-schema"),
    path(
        "docs/",
        SpectacularSwaggerSplitView.as_view(
            url_name="api-schema",
            template_name="api/docs.html",
            authentication_classes=[],
            # Not OPTIONS: its answer would be looked for in a template that there is not.
            http_method_names=["get", "head"],
        ),
        name="api-docs",
    ),
]
