"""What service accounts and API keys have in common in the management API: narrowing, limits, use, and the question
whether one of them can call an endpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter, extend_schema, inline_serializer
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from config.api import ProjectViewSet
from config.known_fields import KnownFields
from iam import decisions
from iam.activity import Activity, activity
from iam.directory import directory
from iam.models import ApiKey, ServiceAccount

H = TypeVar("H", ServiceAccount, ApiKey)

LIMIT_FIELDS = ["requests_per_minute", "tokens_per_minute", "tokens_per_month"]
SHARED_FIELDS = ["endpoints", *LIMIT_FIELDS, "expires_at", "last_used_at", "unused"]


class CallerSerializer(KnownFields, serializers.ModelSerializer[H]):
    """The fields that both have.

    The context's `activity` holds what was asked for a whole page at once; without it each row asks for itself.
    """

    endpoints = serializers.ListField(
        source="endpoint_ids",
        child=serializers.CharField(max_length=40),
        required=False,
        allow_null=True,
        help_text="Ids of the only endpoints that it may call, 1 to 20; null for all of the project.",
    )
    requests_per_minute = serializers.IntegerField(required=False, allow_null=True, min_value=1)
    tokens_per_minute = serializers.IntegerField(required=False, allow_null=True, min_value=1)
    tokens_per_month = serializers.IntegerField(required=False, allow_null=True, min_value=1)
    expires_at = serializers.DateTimeField(required=False, allow_null=True)
    last_used_at = serializers.SerializerMethodField()
    unused = serializers.SerializerMethodField(help_text="Not used for 90 days.")

    def get_last_used_at(self, holder: Any) -> str | None:
        """Its last token or its last call of an endpoint."""
        moment = self._activity(holder).last_used_at
        return serializers.DateTimeField().to_representation(moment) if moment else None

    def get_unused(self, holder: Any) -> bool:
        """Not used for 90 days."""
        return self._activity(holder).unused

    def _activity(self, holder: ServiceAccount | ApiKey) -> Activity:
        known: Mapping[str, Activity] = self.context.get("activity", {})
        return known.get(holder.id) or activity([holder], timezone.now())[holder.id]


class CanCallSerializer(serializers.Serializer[decisions.Decision]):
    """Whether a call would pass the gateway, and the rule that decides."""

    allowed = serializers.BooleanField()
    rule = serializers.ChoiceField([rule.value for rule in decisions.Rule])
    status = serializers.IntegerField(
        help_text="What the gateway answers with; 200: the model server answers."
    )
    sentence = serializers.CharField()
    limits = serializers.ListField(child=serializers.CharField(), help_text="What may still answer 429.")


class UseSerializer(serializers.Serializer[Any]):
    """The last call to one endpoint."""

    endpoint = serializers.CharField(source="endpoint_id")
    endpoint_name = serializers.CharField(help_text='"" where the endpoint is gone.')
    address = serializers.CharField()
    at = serializers.DateTimeField()


class CallerViewSet(ProjectViewSet[H]):
    """Lists, and the two questions."""

    def list(self, request: Request) -> Response:
        """A page of them, newest first."""
        page: list[Any] = self.paginate_queryset(self.filter_queryset(self.get_queryset())) or []
        context = {**self.get_serializer_context(), "activity": activity(page, timezone.now())}
        rows: Any = self.get_serializer_class()(instance=page, many=True, context=context)  # type: ignore[arg-type]
        return self.get_paginated_response(rows.data)

    def retrieve(self, request: Request, pk: str) -> Response:
        """One of them."""
        return Response(self.get_serializer(self.get_object()).data)

    @extend_schema(
        parameters=[OpenApiParameter("endpoint", str, required=True, description="The endpoint's id.")],
        responses=CanCallSerializer,
    )
    @action(detail=True, methods=["get"], url_path="can-call", filter_backends=[], pagination_class=None)
    def can_call(self, request: Request, pk: str) -> Response:
        """Can it call this endpoint? The rule that decides, in the gateway's order."""
        caller = self.caller_of(self.get_object())
        wanted = request.query_params.get("endpoint", "")
        if not wanted:
            raise serializers.ValidationError({"endpoint": ["Name the endpoint: ?endpoint=me-…"]})
        found = directory().find(self.actor.project.id, [wanted[:40].replace("\x00", "")])
        decision = decisions.decide(caller, found.get(wanted), timezone.now())
        return Response(CanCallSerializer(decision).data)

    @extend_schema(responses=inline_serializer("LastUses", {"results": UseSerializer(many=True)}))
    @action(detail=True, methods=["get"], url_path="last-uses", filter_backends=[], pagination_class=None)
    def last_uses(self, request: Request, pk: str) -> Response:
        """Its last call to each endpoint: when, and from which address."""
        holder: Any = self.get_object()
        uses = directory().uses(self.actor.project.id, holder.id)
        return Response({"results": UseSerializer(uses, many=True).data})

    def caller_of(self, holder: Any) -> decisions.Caller:
        """What is asked about."""
        raise NotImplementedError

    def validated(self, request: Request, *, partial: bool = False) -> dict[str, Any]:
        """What was sent, cleaned."""
        serializer = self.get_serializer(data=request.data, partial=partial)
        serializer.is_valid(raise_exception=True)
        return dict(serializer.validated_data)
