"""What was used, in the management API (contract §4)."""

from __future__ import annotations

import json
from typing import Any

from django.http.response import HttpResponseBase
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import (
    OpenApiParameter,
    extend_schema,
    extend_schema_field,
    extend_schema_serializer,
)
from rest_framework import serializers, viewsets
from rest_framework.renderers import BaseRenderer, JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response

from endpoints.models import Usage
from endpoints.usage import download
from endpoints.usage.asking import DEFAULT_DAYS, DIMENSIONS, TOKENLESS, asked
from endpoints.usage.figures import LONGEST_DAYS, Figures, Report, Row
from endpoints.usage.query import usage
from iam.actors import current_actor


class UsageCostSerializer(serializers.Serializer[Any]):
    """A decimal number, written as text."""

    amount = serializers.CharField()
    currency = serializers.CharField()


class UsageFiguresSerializer(serializers.Serializer[Figures]):
    """What was used, added up. Null: there is nothing to say."""

    requests = serializers.IntegerField()
    errors_4xx = serializers.IntegerField()
    errors_5xx = serializers.IntegerField()
    aborted = serializers.IntegerField(help_text="the caller went away before there was an answer")
    prompt_tokens = serializers.IntegerField()
    completion_tokens = serializers.IntegerField()
    estimated_requests = serializers.IntegerField(
        source="estimated", help_text="of the requests, those whose tokens are an estimate"
    )
    unread_requests = serializers.IntegerField(
        source="unread", help_text="of the requests, those whose tokens are not counted: too large an answer"
    )
    latency_ms = serializers.FloatField(allow_null=True, help_text="mean, to the end of the answer")
    first_byte_ms = serializers.FloatField(
        source="mean_first_byte_ms", allow_null=True, help_text="mean, of the requests that were answered"
    )
    replica_hours = serializers.FloatField(
        allow_null=True, help_text="null by account: replicas run for all callers together"
    )
    cost = serializers.SerializerMethodField(help_text="of the replicas' hours, at the prices they had")

    @extend_schema_field(UsageCostSerializer(many=True))
    def get_cost(self, figures: Figures) -> list[dict[str, str]]:
        """By currency."""
        costs = sorted(figures.costs.items())
        return [{"amount": f"{amount:.4f}", "currency": currency} for currency, amount in costs]

    def to_representation(self, figures: Figures) -> dict[str, Any]:
        """As the fields above say, without asking each of them: there may be thousands of rows."""
        return {
            "requests": figures.requests,
            "errors_4xx": figures.errors_4xx,
            "errors_5xx": figures.errors_5xx,
            "aborted": figures.aborted,
            "prompt_tokens": figures.prompt_tokens,
            "completion_tokens": figures.completion_tokens,
            "estimated_requests": figures.estimated,
            "unread_requests": figures.unread,
            "latency_ms": figures.latency_ms,
            "first_byte_ms": figures.mean_first_byte_ms,
            "replica_hours": figures.replica_hours,
            "cost": self.get_cost(figures),
        }


class UsageRowSerializer(UsageFiguresSerializer):
    """One endpoint, account, model or day."""

    id = serializers.CharField(help_text="of a day: the day, UTC; of calls without a token or model: empty")
    name = serializers.CharField(help_text="today's, or the last one of what is gone")
    exists = serializers.BooleanField(help_text="whether it is still there")

    def to_representation(self, row: Row) -> dict[str, Any]:  # type: ignore[override]
        """Its name, and its figures beside."""
        figures = super().to_representation(row.figures)
        return {"id": row.key, "name": row.name, "exists": not row.gone, **figures}


@extend_schema_serializer(many=False)
class UsageReportSerializer(serializers.Serializer[Report]):
    """All rows at once: there are no further pages."""

    to = serializers.DateField(source="span.last")
    by = serializers.ChoiceField(choices=[(item.value, item.value) for item in DIMENSIONS])
    results = UsageRowSerializer(many=True, source="rows")
    total = UsageFiguresSerializer()

    def get_fields(self) -> dict[str, Any]:
        """With `from`, which Python keeps for itself."""
        return {"from": serializers.DateField(source="span.first"), **super().get_fields()}


class CsvRenderer(BaseRenderer):
    """Names the media type; the file itself is streamed. Errors stay JSON."""

    media_type = download.MEDIA_TYPE
    format = "csv"
    charset = "utf-8"

    def render(
        self, data: Any, accepted_media_type: str | None = None, renderer_context: Any = None
    ) -> bytes:
        """An error."""
        return json.dumps(data).encode()


_PARAMETERS = [
    OpenApiParameter(
        "from", OpenApiTypes.DATE, description=f"The first day, UTC; {DEFAULT_DAYS} days if left out."
    ),
    OpenApiParameter(
        "to",
        OpenApiTypes.DATE,
        description=f"The last day, UTC; today if left out. At most {LONGEST_DAYS} days.",
    ),
    OpenApiParameter("by", str, enum=[item.value for item in DIMENSIONS], default="endpoint"),
    OpenApiParameter("endpoint", str, description="Only this one, by its id."),
    OpenApiParameter(
        "account",
        str,
        description="Only this service account or API key, by its id; "
        f"`{TOKENLESS}`: what was called without a token.",
    ),
    OpenApiParameter("model", str, description="Only this one, by its id."),
]


class UsageViewSet(viewsets.ViewSet):
    """What the project used. For everybody who may see its endpoints."""

    renderer_classes = [JSONRenderer, CsvRenderer]
    queryset = Usage.objects.none()

    @extend_schema(
        operation_id="usage_read",
        parameters=_PARAMETERS,
        responses={(200, "application/json"): UsageReportSerializer, (200, "text/csv"): OpenApiTypes.STR},
    )
    def list(self, request: Request) -> HttpResponseBase:
        """Requests, tokens, errors and replicas' hours by endpoint, account, model or day. With `Accept: text/csv`
        as a file for spreadsheets. What belongs to another project is not in it."""
        question = asked(request.query_params, timezone.now().date())
        if question.errors:
            raise serializers.ValidationError(question.errors)
        report = usage(current_actor(request).project.id, question.span, question.by, question.only)
        if request.accepted_renderer.format == CsvRenderer.format:
            return download.answer(report)
        return Response(UsageReportSerializer(report).data)


routes = [("usage", UsageViewSet, "usage")]
