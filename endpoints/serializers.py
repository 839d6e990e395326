"""The management API's shapes for endpoints and what belongs to them (contract §4). The rules are in
endpoints.validation, not here."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from config.known_fields import KnownFields
from endpoints import events
from endpoints.errors import describe
from endpoints.history import Entry, RevisionState
from endpoints.log_tail import LINES as LOG_TAIL_LINES
from endpoints.models import Endpoint, Event, InstanceType, Region, Status
from endpoints.revisions import ADDED, CHANGED, REMOVED, Change


class RegionSerializer(serializers.ModelSerializer[Region]):
    """A place with capacity."""

    class Meta:
        model = Region
        fields = ["code", "name"]


class InstanceTypeSerializer(serializers.ModelSerializer[InstanceType]):
    """CPU, RAM and GPUs of a replica; vcpu and memory_gib 0 mean no limit."""

    class Meta:
        model = InstanceType
        fields = [
            "name",
            "family",
            "vcpu",
            "memory_gib",
            "gpu",
            "gpu_count",
            "vram_gib_per_gpu",
            "price_month",
            "currency",
        ]


class AutoscalingSerializer(KnownFields):
    """Thresholds; null turns one off."""

    cpu_percent = serializers.IntegerField(allow_null=True, required=False)
    memory_percent = serializers.IntegerField(allow_null=True, required=False)
    gpu_percent = serializers.IntegerField(allow_null=True, required=False)
    latency_ms = serializers.IntegerField(allow_null=True, required=False)
    in_flight = serializers.IntegerField(allow_null=True, required=False)
    idle_timeout_s = serializers.IntegerField(allow_null=True, required=False)
    scale_up_after_s = serializers.IntegerField(allow_null=True, required=False)
    scale_down_after_s = serializers.IntegerField(allow_null=True, required=False)


class LimitsSerializer(KnownFields):
    """What may be asked of it, by all callers together; null is no limit. Beyond it callers get 429."""

    requests_per_minute = serializers.IntegerField(allow_null=True, required=False)
    tokens_per_minute = serializers.IntegerField(
        allow_null=True, required=False, help_text="of prompts and completions; a minute of UTC"
    )
    tokens_per_month = serializers.IntegerField(
        allow_null=True, required=False, help_text="a calendar month of UTC"
    )
    max_concurrency = serializers.IntegerField(
        allow_null=True, required=False, help_text="requests that run at the same time, on all replicas"
    )


class ReasonSerializer(serializers.Serializer[Any]):
    """Why the status is what it is."""

    code = serializers.CharField()
    message = serializers.CharField()
    action = serializers.CharField()


class EndpointSerializer(KnownFields):
    """An endpoint as contract §4 shows it. The rules are in endpoints.validation, not here."""

    id = serializers.CharField(read_only=True)
    name = serializers.CharField(allow_blank=True, trim_whitespace=False)
    region = serializers.CharField(source="region_id")
    model = serializers.CharField(source="revision.model_id")
    instance_type = serializers.CharField(source="revision.instance_type_id")
    settings = serializers.DictField(source="revision.settings", required=False)
    environment = serializers.DictField(
        child=serializers.CharField(allow_blank=True, allow_null=True, trim_whitespace=False),
        write_only=True,
        required=False,
        help_text="variables for the containers, never answered; a null removes one, what is left out stays",
    )
    environment_names = serializers.SerializerMethodField()
    allow_interruption = serializers.BooleanField(
        write_only=True,
        required=False,
        help_text="whether an old replica may stop before its successor is there, where there is room for one only",
    )
    min_replicas = serializers.IntegerField(default=1)
    max_replicas = serializers.IntegerField(default=1)
    private = serializers.BooleanField(default=True)
    autoscaling = AutoscalingSerializer(source="*", required=False)
    limits = LimitsSerializer(source="*", required=False)
    url = serializers.CharField(read_only=True)
    status = serializers.ChoiceField(choices=Status.choices, read_only=True)
    status_reason = serializers.SerializerMethodField()
    conditions = serializers.ListField(child=serializers.DictField(), read_only=True)
    replica_count = serializers.SerializerMethodField()
    revision = serializers.IntegerField(source="revision.number", read_only=True)
    created_at = serializers.DateTimeField(read_only=True)
    updated_at = serializers.DateTimeField(read_only=True)

    @extend_schema_field({"type": "array", "items": {"type": "string"}})
    def get_environment_names(self, endpoint: Endpoint) -> list[str]:
        """The names of the variables; their values may be secrets."""
        return sorted(endpoint.revision.environment) if endpoint.revision else []

    @extend_schema_field(ReasonSerializer(allow_null=True))
    def get_status_reason(self, endpoint: Endpoint) -> dict[str, Any] | None:
        """{code, message, action}, null when ACTIVE."""
        if not endpoint.reason_code:
            return None
        reason = describe(endpoint.reason_code, endpoint.reason_params)
        return {"code": reason.code, "message": reason.message, "action": reason.action}

    @extend_schema_field(
        {"type": "object", "properties": {"wanted": {"type": "integer"}, "ready": {"type": "integer"}}}
    )
    def get_replica_count(self, endpoint: Endpoint) -> dict[str, int]:
        """Replicas that should serve and that do."""
        return {"wanted": endpoint.wanted_replicas, "ready": endpoint.ready_replicas}


class EventSerializer(serializers.ModelSerializer[Event]):
    """What happened, in words too."""

    message = serializers.SerializerMethodField()
    actor = serializers.CharField(source="actor_name")

    class Meta:
        model = Event
        fields = ["id", "kind", "message", "actor", "params", "at"]

    def get_message(self, event: Event) -> str:
        """The event as a sentence."""
        return events.sentence(event)


class FailureSerializer(serializers.Serializer[Any]):
    """Why a revision was taken back."""

    code = serializers.CharField()
    message = serializers.CharField()
    action = serializers.CharField()
    params = serializers.DictField()


class ChangeSerializer(serializers.Serializer[Change]):
    """One difference to the revision before. Values of variables are never told."""

    field = serializers.CharField(help_text="model, instance_type, settings.<key> or environment.<NAME>")
    kind = serializers.ChoiceField(choices=[ADDED, CHANGED, REMOVED])
    before = serializers.JSONField(allow_null=True)
    after = serializers.JSONField(allow_null=True)


class RevisionSerializer(serializers.Serializer[Entry]):
    """One configuration of an endpoint, and what became of it."""

    number = serializers.IntegerField(source="revision.number")
    state = serializers.ChoiceField(
        choices=RevisionState.choices,
        help_text="current: the one that is wanted; serving: older, and some replica of it still serves; "
        "failed: it was taken back; previous: any other",
    )
    model = serializers.CharField(source="revision.model_id")
    instance_type = serializers.CharField(source="revision.instance_type_id")
    settings = serializers.DictField(source="revision.settings")
    environment_names = serializers.ListField(child=serializers.CharField())
    allow_interruption = serializers.BooleanField(source="revision.allow_interruption")
    restores = serializers.IntegerField(allow_null=True, help_text="the revision that it took up again")
    failed = FailureSerializer(allow_null=True)
    diff = ChangeSerializer(many=True)
    author = serializers.CharField()
    created_at = serializers.DateTimeField(source="revision.created_at")


class RestartSerializer(KnownFields):
    """What a restart may do."""

    allow_interruption = serializers.BooleanField(default=False)


class RollbackSerializer(RestartSerializer):
    """To which revision."""

    revision = serializers.IntegerField(min_value=1, max_value=2**31 - 1)


class LogsQuery(serializers.Serializer[Any]):
    """Which lines are asked for."""

    replica = serializers.UUIDField(required=False)
    tail = serializers.IntegerField(min_value=1, max_value=LOG_TAIL_LINES, default=200)
    follow = serializers.BooleanField(default=False)
    download = serializers.BooleanField(default=False)


class LogsSerializer(serializers.Serializer[Any]):
    """Lines of one replica, oldest first."""

    replica = serializers.CharField()
    name = serializers.CharField()
    lines = serializers.ListField(child=serializers.CharField())
