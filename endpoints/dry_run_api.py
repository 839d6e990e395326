"""The management API's dry run: what the autoscaler would have done under other limits."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

from django.core.exceptions import ValidationError
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from config.api import ProjectViewSet
from config.known_fields import KnownFields
from endpoints.autoscaling import trial
from endpoints.autoscaling.simulate import Decided
from endpoints.models import Endpoint
from endpoints.serializers import AutoscalingSerializer
from endpoints.services import present_values


class DryRunRequestSerializer(KnownFields):
    """Limits to try. What is left out stays as the endpoint has it now."""

    autoscaling = AutoscalingSerializer(required=False)
    min_replicas = serializers.IntegerField(required=False)
    max_replicas = serializers.IntegerField(required=False)
    range = serializers.ChoiceField(choices=list(trial.RANGES), default=trial.DEFAULT_RANGE)


class DryRunPointSerializer(serializers.Serializer[Any]):
    """Wanted replicas in one slot."""

    at = serializers.DateTimeField()
    simulated = serializers.IntegerField()
    real = serializers.IntegerField()


class _Pair(serializers.Serializer[Any]):
    simulated = serializers.FloatField()
    real = serializers.FloatField()


class ReplicaHoursSerializer(_Pair):
    """Replicas that held their resources × hours."""


class CostSerializer(_Pair):
    """At today's price of the instance type."""

    currency = serializers.CharField()


class LatencyAboveSerializer(_Pair):
    """Seconds in which the 95th percentile of the time to the first byte was above the latency threshold."""


class WakesSerializer(serializers.Serializer[Any]):
    """How often a request woke it."""

    simulated = serializers.IntegerField()
    real = serializers.IntegerField()


class DryRunDecisionSerializer(serializers.Serializer[Any]):
    """What the autoscaler would have decided."""

    at = serializers.DateTimeField()
    rule = serializers.CharField()
    metric = serializers.CharField(allow_null=True)
    before = serializers.IntegerField()
    after = serializers.IntegerField()
    blocker = serializers.CharField(allow_null=True)
    text = serializers.CharField()
    inputs = serializers.DictField()
    params = serializers.DictField()


class DryRunSerializer(serializers.Serializer[Any]):
    """What the limits would have done with what was measured, beside what was done."""

    range = serializers.CharField()
    resolution_s = serializers.IntegerField(help_text="length of a slot")
    measured_s = serializers.IntegerField(
        help_text="how much of the range was measured; the rest is left out"
    )
    points = DryRunPointSerializer(many=True)
    replica_hours = ReplicaHoursSerializer()
    cost = CostSerializer(allow_null=True, help_text="null where the instance type has no price")
    latency_above_s = LatencyAboveSerializer(allow_null=True, help_text="null without a latency threshold")
    held_s = serializers.IntegerField(
        help_text="time in which requests would have been held: no replica served"
    )
    wakes = WakesSerializer(help_text="how often a request woke it")
    decisions = DryRunDecisionSerializer(many=True, help_text="oldest first")
    assumptions = serializers.ListField(child=serializers.CharField())


class DryRun(ProjectViewSet[Endpoint]):
    """What an endpoint's viewset gains. Who may save limits may try them: EDIT, as for every POST."""

    @extend_schema(request=DryRunRequestSerializer, responses=DryRunSerializer)
    @action(detail=True, methods=["post"], filter_backends=[], pagination_class=None, url_path="dry-run")
    def dry_run(self, request: Request, pk: str) -> Response:
        """Try other limits on the metrics of the last hour, day or week. Changes nothing."""
        endpoint = self.get_object()
        sent = DryRunRequestSerializer(data=request.data)
        sent.is_valid(raise_exception=True)
        asked = dict(sent.validated_data)
        span, thresholds = asked.pop("range"), asked.pop("autoscaling", {})
        values = {**present_values(endpoint), **asked, **thresholds}
        size = endpoint.revision.instance_type if endpoint.revision else None
        try:
            limits = trial.checked_limits(values, size)
        except ValidationError as error:
            named = {_api_name(field): messages for field, messages in error.message_dict.items()}
            raise serializers.ValidationError(named) from error
        return Response(_told(trial.run(endpoint, limits, span, time.time())))


def _api_name(field: str) -> str:
    return field if field.endswith("_replicas") else f"autoscaling.{field}"


def _told(tried: trial.Trial) -> dict[str, Any]:
    found = tried.simulation
    cost = _pair(found.simulated.cost, found.real.cost)
    late = _pair(found.simulated.late_s, found.real.late_s)
    return {
        "range": tried.span,
        "resolution_s": int(found.resolution),
        "measured_s": int(found.seconds),
        "points": [
            {"at": _moment(item.at), "simulated": item.simulated, "real": item.real} for item in found.points
        ],
        "replica_hours": _pair(found.simulated.replica_hours, found.real.replica_hours),
        "cost": cost and {**cost, "currency": tried.currency},
        "latency_above_s": late,
        "held_s": int(found.held_s),
        "wakes": {"simulated": found.wakes, "real": tried.real_wakes},
        "decisions": [_decision(item) for item in found.decisions],
        "assumptions": list(tried.assumptions),
    }


def _decision(item: Decided) -> dict[str, Any]:
    return {
        "at": _moment(item.at),
        "rule": item.rule,
        "metric": item.params.get("metric"),
        "before": item.before,
        "after": item.after,
        "blocker": item.blocker,
        "text": trial.sentence(item),
        "inputs": item.inputs,
        "params": item.params,
    }


def _pair(simulated: float | None, real: float | None) -> dict[str, float] | None:
    if simulated is None or real is None:
        return None
    return {"simulated": round(simulated, 3), "real": round(real, 3)}


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
