"""Addresses of the audit log."""

from django.urls import path

from iam.views import audit

urlpatterns = [
    path("audit/", audit.index, name="audit"),
    path("audit/export.<slug:form>", audit.export, name="audit_export"),
]
