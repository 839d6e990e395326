"""The registry's addresses in the console."""

from __future__ import annotations

from django.urls import path

from registry import views

app_name = "registry"
urlpatterns = [
    path("registry/", views.model_list, name="list"),
    path("registry/import/", views.import_page, name="import"),
    path("registry/<uuid:model_id>/", views.detail, name="detail"),
    path("registry/<uuid:model_id>/state/", views.state, name="state"),
    path("registry/<uuid:model_id>/retry/", views.retry, name="retry"),
    path("registry/<uuid:model_id>/credentials/", views.credentials, name="credentials"),
    path("registry/<uuid:model_id>/delete/", views.delete, name="delete"),
]
