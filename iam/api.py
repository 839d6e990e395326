"""The management API of IAM: service accounts and API keys (contract §4)."""

from __future__ import annotations

from typing import Any

from django.shortcuts import get_object_or_404
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers, status
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from config.api import ProjectViewSet
from config.known_fields import KnownFields
from iam import decisions, selectors, services
from iam.caller_api import SHARED_FIELDS, CallerSerializer, CallerViewSet
from iam.keys_api import ApiKeyViewSet
from iam.models import ServiceAccount, ServiceAccountSecret
from iam.roles import Permission, Role


class SecretSerializer(serializers.ModelSerializer[ServiceAccountSecret]):
    """A secret without the secret: `hint` is its last four characters."""

    class Meta:
        model = ServiceAccountSecret
        fields = ["id", "hint", "created_at", "last_used_at", "last_used_from", "expires_at"]
        read_only_fields = fields


class NewSecretSerializer(KnownFields):
    """What may be said of a new secret."""

    expires_at = serializers.DateTimeField(
        required=False,
        allow_null=True,
        default=None,
        help_text="From then on it gets no tokens; null: never.",
    )


class ServiceAccountSerializer(CallerSerializer[ServiceAccount]):
    """A service account. `id` is its client_id."""

    client_id = serializers.CharField(source="id", read_only=True)
    roles = serializers.ListField(child=serializers.ChoiceField(Role.choices), allow_empty=False)
    status = serializers.SerializerMethodField()
    created_by = serializers.CharField(source="created_by_name", read_only=True)
    secrets = SecretSerializer(many=True, read_only=True)
    answered = ("client_secret",)

    class Meta:
        model = ServiceAccount
        fields = [
            "id",
            "client_id",
            "name",
            "description",
            "roles",
            "status",
            "secrets",
            "created_by",
            *SHARED_FIELDS,
            "created_at",
            "updated_at",
        ]
        read_only_fields = ["id", "created_at", "updated_at"]

    def get_status(self, account: ServiceAccount) -> str:
        """ACTIVE, DISABLED or EXPIRED."""
        return selectors.account_status(account, timezone.now())


class CreatedServiceAccountSerializer(ServiceAccountSerializer):
    """A new service account with its secret, which is shown this once."""

    client_secret = serializers.CharField(read_only=True)

    class Meta(ServiceAccountSerializer.Meta):
        fields = [*ServiceAccountSerializer.Meta.fields, "client_secret"]


class CreatedSecretSerializer(SecretSerializer):
    """A new secret, shown this once."""

    client_secret = serializers.CharField(read_only=True)

    class Meta(SecretSerializer.Meta):
        fields = [*SecretSerializer.Meta.fields, "client_secret"]


class ServiceAccountViewSet(CallerViewSet[ServiceAccount]):
    """Service accounts: the identities of programs. Everything here needs the role `aiplatform.admin`."""

    queryset = ServiceAccount.objects.prefetch_related("secrets")
    serializer_class = ServiceAccountSerializer
    default_permission = Permission.ADMINISTER

    @extend_schema(request=ServiceAccountSerializer, responses={201: CreatedServiceAccountSerializer})
    def create(self, request: Request) -> Response:
        """Create an account. The answer holds `client_secret`; it is never shown again."""
        values = self.validated(request)
        name, roles = values.pop("name"), values.pop("roles")
        account, secret = services.create_service_account(self.actor, name, roles, **values)
        body = {**ServiceAccountSerializer(account).data, "client_secret": secret}
        return _secret_response(body)

    @extend_schema(request=ServiceAccountSerializer, responses=ServiceAccountSerializer)
    def partial_update(self, request: Request, pk: str) -> Response:
        """Change what is given. Other roles or endpoints revoke the tokens that it has."""
        account = self.get_object()
        values = self.validated(request, partial=True)
        services.update_service_account(self.actor, account, **values)
        return Response(ServiceAccountSerializer(account).data)

    def destroy(self, request: Request, pk: str) -> Response:
        """Delete the account and its secrets."""
        services.delete_service_account(self.actor, self.get_object())
        return Response(status=status.HTTP_204_NO_CONTENT)

    @extend_schema(request=None, responses=ServiceAccountSerializer)
    @action(detail=True, methods=["post"])
    def disable(self, request: Request, pk: str) -> Response:
        """No new tokens until it is enabled again; those it has are refused within two seconds."""
        account = self.get_object()
        services.disable_service_account(self.actor, account)
        return Response(ServiceAccountSerializer(account).data)

    @extend_schema(request=None, responses=ServiceAccountSerializer)
    @action(detail=True, methods=["post"])
    def enable(self, request: Request, pk: str) -> Response:
        """Undo a disable. Tokens from before it stay refused."""
        account = self.get_object()
        services.enable_service_account(self.actor, account)
        return Response(ServiceAccountSerializer(account).data)

    @extend_schema(request=NewSecretSerializer, responses={201: CreatedSecretSerializer})
    @action(detail=True, methods=["post"])
    def secrets(self, request: Request, pk: str) -> Response:
        """Add a second secret, valid beside the first one. The answer shows it once."""
        account = self.get_object()
        sent = NewSecretSerializer(data=request.data)
        sent.is_valid(raise_exception=True)
        secret, plain = services.add_secret(self.actor, account, sent.validated_data["expires_at"])
        return _secret_response({**SecretSerializer(secret).data, "client_secret": plain})

    @extend_schema(responses={204: None})
    @action(detail=True, methods=["delete"], url_path=r"secrets/(?P<secret_id>\d+)")
    def delete_secret(self, request: Request, pk: str, secret_id: str) -> Response:
        """Delete one of the secrets."""
        secret = get_object_or_404(self.get_object().secrets, id=secret_id)
        services.delete_secret(self.actor, secret)
        return Response(status=status.HTTP_204_NO_CONTENT)

    def caller_of(self, holder: Any) -> decisions.Caller:
        """As its next token would say."""
        return decisions.of_account(holder)


def _secret_response(body: dict[str, Any]) -> Response:
    return Response(body, status=status.HTTP_201_CREATED, headers={"Cache-Control": "no-store"})


routes: list[tuple[str, type[ProjectViewSet[Any]], str]] = [
    ("service-accounts", ServiceAccountViewSet, "service-account"),
    ("api-keys", ApiKeyViewSet, "api-key"),
]
