"""The management API's record of what the autoscaler decided and why."""

from __future__ import annotations

from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from config.api import ProjectViewSet
from config.pagination import CursorPagination
from endpoints.autoscaling import reading
from endpoints.autoscaling.ledger import decisions_of
from endpoints.autoscaling.policy import Blocker, Rule
from endpoints.models import Decision, Endpoint


class DecisionSerializer(serializers.ModelSerializer[Decision]):
    """One decision: what was measured, what follows from it, what kept it."""

    rule = serializers.ChoiceField(
        choices=[item.value for item in Rule],
        help_text="above: a metric stayed above its threshold; below: fewer replicas keep them all; idle: nobody "
        "called for the idle timeout; woken: a request came while it slept; limits: min or max were changed; hold: "
        "nothing asked for a change",
    )
    metric = serializers.SerializerMethodField(help_text="the one that decided, null if none did")
    blocker = serializers.SerializerMethodField(help_text="what holds it up or back, null if nothing does")
    text = serializers.SerializerMethodField(help_text="the decision as a sentence")
    actor = serializers.CharField(source="actor_name", help_text="a person's, where one caused it")

    class Meta:
        model = Decision
        fields = [
            *(
                "id",
                "at",
                "rule",
                "metric",
                "before",
                "after",
                "blocker",
                "text",
                "inputs",
                "params",
                "actor",
            ),
        ]

    def get_metric(self, row: Decision) -> str | None:
        """cpu_percent and so on."""
        return str(row.params.get("metric") or "") or None

    @extend_schema_field(
        {"type": "string", "nullable": True, "enum": [*(item.value for item in Blocker), None]}
    )
    def get_blocker(self, row: Decision) -> str | None:
        """A code, null for none."""
        return row.blocker or None

    def get_text(self, row: Decision) -> str:
        """In the reader's language."""
        return reading.sentence(row)


class Decisions(ProjectViewSet[Endpoint]):
    """What an endpoint's viewset gains."""

    @extend_schema(responses=DecisionSerializer(many=True))
    @action(detail=True, methods=["get"], filter_backends=[])
    def decisions(self, request: Request, pk: str) -> Response:
        """What the autoscaler decided and why, newest first. What did not change is not repeated."""
        paginator = CursorPagination()
        paginator.ordering = ("-at", "-id")
        page = paginator.paginate_queryset(decisions_of(self.get_object()), request, self)
        return paginator.get_paginated_response(DecisionSerializer(page, many=True).data)
