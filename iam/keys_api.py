"""API keys in the management API (contract §4)."""

from __future__ import annotations

from typing import Any, ClassVar

from django.db.models import QuerySet
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from iam import decisions, selectors, services
from iam.caller_api import SHARED_FIELDS, CallerSerializer, CallerViewSet
from iam.models import ApiKey
from iam.roles import Permission


class ApiKeySerializer(CallerSerializer[ApiKey]):
    """An API key without the key: `hint` is its last four characters."""

    user = serializers.CharField(source="user.email", read_only=True)
    status = serializers.SerializerMethodField()
    answered = ("api_key",)

    class Meta:
        model = ApiKey
        fields = ["id", "name", "user", "hint", "status", *SHARED_FIELDS, "created_at"]
        read_only_fields = ["id", "hint", "created_at"]
        extra_kwargs: ClassVar[dict[str, Any]] = {"expires_at": {"help_text": "Within a year; in 90 days."}}

    def get_status(self, key: ApiKey) -> str:
        """ACTIVE, EXPIRED, or BLOCKED while its person may not call endpoints."""
        return selectors.key_status(key, timezone.now())


class CreatedApiKeySerializer(ApiKeySerializer):
    """A new key, shown this once."""

    api_key = serializers.CharField(read_only=True)

    class Meta(ApiKeySerializer.Meta):
        fields = [*ApiKeySerializer.Meta.fields, "api_key"]


class ApiKeyViewSet(CallerViewSet[ApiKey]):
    """API keys: long-lived tokens with which people call endpoints, at most two a person, over all projects.

    Everybody has their own; an admin sees and deletes those of others. A key calls endpoints and nothing else.
    """

    queryset = ApiKey.objects.select_related("user")
    serializer_class = ApiKeySerializer
    default_permission = Permission.INVOKE

    def get_queryset(self) -> QuerySet[ApiKey]:
        """One's own, or all of the project for its admins."""
        if getattr(self, "swagger_fake_view", False):
            return super().get_queryset()
        return selectors.api_keys(self.actor)

    @extend_schema(request=ApiKeySerializer, responses={201: CreatedApiKeySerializer})
    def create(self, request: Request) -> Response:
        """Create a key of one's own. The answer holds `api_key`; it is never shown again."""
        values = self.validated(request)
        key, text = services.create_api_key(self.actor, values.pop("name"), **values)
        body = {**self.get_serializer(key).data, "api_key": text}
        return Response(body, status=status.HTTP_201_CREATED, headers={"Cache-Control": "no-store"})

    def destroy(self, request: Request, pk: str) -> Response:
        """Delete the key: gateways refuse it within two seconds, for good."""
        services.delete_api_key(self.actor, self.get_object())
        return Response(status=status.HTTP_204_NO_CONTENT)

    def caller_of(self, holder: Any) -> decisions.Caller:
        """With the roles that its person has now."""
        return decisions.of_key(holder, selectors.roles_of(holder))
