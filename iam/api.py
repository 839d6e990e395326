"""The management API of IAM: service accounts (contract §4)."""

from __future__ import annotations

from typing import Any

from django.shortcuts import get_object_or_404
from drf_spectacular.utils import extend_schema
from rest_framework import mixins, serializers, status
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from config.api import ProjectViewSet
from iam import services
from iam.models import ServiceAccount, ServiceAccountSecret
from iam.roles import Permission, Role


class SecretSerializer(serializers.ModelSerializer[ServiceAccountSecret]):
    """A secret without the secret: `hint` is its last four characters."""

    class Meta:
        model = ServiceAccountSecret
        fields = ["id", "hint", "created_at", "last_used_at", "expires_at"]
        read_only_fields = fields


class ServiceAccountSerializer(serializers.ModelSerializer[ServiceAccount]):
    """A service account. `id` is its client_id."""

    client_id = serializers.CharField(source="id", read_only=True)
    roles = serializers.ListField(child=serializers.ChoiceField(Role.choices), allow_empty=False)
    status = serializers.SerializerMethodField()
    created_by = serializers.CharField(source="created_by_name", read_only=True)
    secrets = SecretSerializer(many=True, read_only=True)

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
            "last_used_at",
            "created_at",
            "updated_at",
        ]
        read_only_fields = ["id", "last_used_at", "created_at", "updated_at"]

    def get_status(self, account: ServiceAccount) -> str:
        """ACTIVE or DISABLED."""
        return "ACTIVE" if account.is_active else "DISABLED"


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


class ServiceAccountViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, ProjectViewSet[ServiceAccount]):
    """Service accounts: the identities of programs. Everything here needs the role `aiplatform.admin`."""

    queryset = ServiceAccount.objects.prefetch_related("secrets")
    serializer_class = ServiceAccountSerializer
    default_permission = Permission.ADMINISTER

    @extend_schema(request=ServiceAccountSerializer, responses={201: CreatedServiceAccountSerializer})
    def create(self, request: Request) -> Response:
        """Create an account. The answer holds `client_secret`; it is never shown again."""
        values = self._validated(request)
        account, secret = services.create_service_account(
            self.actor, values["name"], values["roles"], values.get("description", "")
        )
        body = {**ServiceAccountSerializer(account).data, "client_secret": secret}
        return _secret_response(body)

    @extend_schema(request=ServiceAccountSerializer, responses=ServiceAccountSerializer)
    def partial_update(self, request: Request, pk: str) -> Response:
        """Change name, description or roles."""
        account = self.get_object()
        values = self._validated(request, partial=True)
        services.update_service_account(self.actor, account, **values)
        return Response(ServiceAccountSerializer(account).data)

    def destroy(self, request: Request, pk: str) -> Response:
        """Delete the account and its secrets."""
        services.delete_service_account(self.actor, self.get_object())
        return Response(status=status.HTTP_204_NO_CONTENT)

    @extend_schema(request=None, responses=ServiceAccountSerializer)
    @action(detail=True, methods=["post"])
    def disable(self, request: Request, pk: str) -> Response:
        """No new tokens until it is enabled again."""
        account = self.get_object()
        services.disable_service_account(self.actor, account)
        return Response(ServiceAccountSerializer(account).data)

    @extend_schema(request=None, responses=ServiceAccountSerializer)
    @action(detail=True, methods=["post"])
    def enable(self, request: Request, pk: str) -> Response:
        """Undo a disable."""
        account = self.get_object()
        services.enable_service_account(self.actor, account)
        return Response(ServiceAccountSerializer(account).data)

    @extend_schema(request=None, responses={201: CreatedSecretSerializer})
    @action(detail=True, methods=["post"])
    def secrets(self, request: Request, pk: str) -> Response:
        """Add a second secret, valid beside the first one. The answer shows it once."""
        secret, plain = services.add_secret(self.actor, self.get_object())
        return _secret_response({**SecretSerializer(secret).data, "client_secret": plain})

    @extend_schema(responses={204: None})
    @action(detail=True, methods=["delete"], url_path=r"secrets/(?P<secret_id>\d+)")
    def delete_secret(self, request: Request, pk: str, secret_id: str) -> Response:
        """Delete one of the secrets."""
        secret = get_object_or_404(self.get_object().secrets, id=secret_id)
        services.delete_secret(self.actor, secret)
        return Response(status=status.HTTP_204_NO_CONTENT)

    def _validated(self, request: Request, *, partial: bool = False) -> dict[str, Any]:
        serializer = self.get_serializer(data=request.data, partial=partial)
        serializer.is_valid(raise_exception=True)
        return dict(serializer.validated_data)


def _secret_response(body: dict[str, Any]) -> Response:
    return Response(body, status=status.HTTP_201_CREATED, headers={"Cache-Control": "no-store"})


routes: list[tuple[str, type[ProjectViewSet[Any]], str]] = [
    ("service-accounts", ServiceAccountViewSet, "service-account"),
]
