"""The audit log in the management API (contract §4)."""

from __future__ import annotations

from typing import Any

from django.db.models import QuerySet
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import mixins, serializers

from config.api import ProjectViewSet
from config.pagination import CursorPagination
from iam import audit_log, audit_words
from iam.models import AuditEvent
from iam.roles import Permission


class AuditActorSerializer(serializers.Serializer[AuditEvent]):
    """Who acted. kind: user, service_account, command, platform or anonymous."""

    kind = serializers.CharField(source="actor_kind")
    id = serializers.CharField(source="actor_id")
    name = serializers.CharField(source="actor_name")


class AuditTargetSerializer(serializers.Serializer[AuditEvent]):
    """What was acted on, as it was called then."""

    kind = serializers.CharField(source="target_kind")
    id = serializers.CharField(source="target_id")
    name = serializers.CharField(source="target_name")


class AuditEventSerializer(serializers.ModelSerializer[AuditEvent]):
    """One act. `before` and `after` hold what changed; secrets are masked."""

    actor = AuditActorSerializer(source="*")
    target = AuditTargetSerializer(source="*")
    summary = serializers.SerializerMethodField()
    before = serializers.DictField()
    after = serializers.DictField()

    class Meta:
        model = AuditEvent
        fields = [
            *("id", "at", "actor", "action", "summary", "target", "before", "after", "address", "request_id")
        ]
        read_only_fields = fields

    def get_summary(self, event: AuditEvent) -> str:
        """The action in words."""
        return audit_words.sentence(event.action)


class AuditPages(CursorPagination):
    """Newest first."""

    ordering = "-id"


_PARAMETERS = [
    OpenApiParameter("actor", str, description="an id, or part of a name"),
    OpenApiParameter(
        "action", str, description="`endpoint.pause`, or `endpoint` for all that is done to them"
    ),
    OpenApiParameter("target", str, description="an id, a kind (`endpoint`), or part of a name"),
    OpenApiParameter("text", str, description="part of any id, name, address or request id"),
    OpenApiParameter("from", str, description="a date (UTC) or a time; not before it"),
    OpenApiParameter("to", str, description="a date (UTC), that day included, or a time; before it"),
]


class AuditEventViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, ProjectViewSet[AuditEvent]):
    """Who did what to what in the project. Needs the role `aiplatform.admin`. Nothing changes or removes an entry."""

    queryset = AuditEvent.objects.all()
    serializer_class = AuditEventSerializer
    pagination_class = AuditPages
    default_permission = Permission.ADMINISTER
    # What fits into the column; anything else is 404.
    lookup_value_regex = "[0-9]{1,18}"

    def get_queryset(self) -> QuerySet[AuditEvent]:
        """The rows of the caller's project; of a list those that are asked for."""
        if getattr(self, "swagger_fake_view", False):  # drf-spectacular reads the model, nobody calls
            return AuditEvent.objects.none()
        asked = self.request.query_params.dict() if self.action == "list" else {}
        return audit_log.events(self.actor.project, audit_log.parse(asked))

    @extend_schema(parameters=_PARAMETERS)
    def list(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        """A page of acts, newest first."""
        return super().list(request, *args, **kwargs)


routes = [("audit-events", AuditEventViewSet, "audit-event")]
