"""The management API's shapes for replicas and for a deployment under way: phases with their times, what is left, what
hangs (contract §4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.utils import timezone
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from endpoints.deployment import told_replica
from endpoints.errors import describe
from endpoints.estimates import Outlook, outlook
from endpoints.fix_api import ReasonWithFixesSerializer, offered_to
from endpoints.models import DeployPhase, Endpoint, PhaseName, Replica
from endpoints.phase_times import usual_of
from endpoints.selectors import replicas_of
from endpoints.serializers import EndpointSerializer, ReasonSerializer


class PhaseSerializer(serializers.Serializer[Any]):
    """One step of a replica's way to traffic. The bytes are the pull's."""

    name = serializers.ChoiceField(choices=PhaseName.choices)
    started_at = serializers.DateTimeField()
    finished_at = serializers.DateTimeField(allow_null=True, help_text="null: it is under way")
    seconds = serializers.FloatField(help_text="How long it took, or has taken so far.")
    usual_s = serializers.FloatField(
        allow_null=True,
        help_text="While the deployment is under way: what it usually takes for this image, model and instance type.",
    )
    bytes_done = serializers.IntegerField()
    bytes_total = serializers.IntegerField(help_text="Of the layers whose size is known so far.")
    bytes_per_s = serializers.FloatField(help_text="Over the last seconds.")


class StallSerializer(serializers.Serializer[Any]):
    """A phase that takes three times its usual time, or a pull in which no byte moves."""

    phase = serializers.ChoiceField(choices=PhaseName.choices)
    since = serializers.DateTimeField()
    usual_s = serializers.FloatField(allow_null=True)
    advice = serializers.CharField(help_text="What to look at.")


class OutlookSerializer(serializers.Serializer[Any]):
    """How a deployment will go on, as far as earlier ones tell."""

    eta_s = serializers.FloatField(
        allow_null=True,
        help_text="Seconds that are left; null: nobody knows. While it waits for room, after that.",
    )
    late = serializers.BooleanField(
        help_text="The present phase takes longer than usual: `eta_s` is without it."
    )
    stalled = StallSerializer(allow_null=True)


class DeploymentSerializer(OutlookSerializer):
    """The deployment under way: of the replica that the console's timeline tells."""

    replica = serializers.CharField(help_text="Its name.")
    phase = serializers.ChoiceField(choices=PhaseName.choices)
    phases = PhaseSerializer(many=True)


class ReplicaSerializer(serializers.ModelSerializer[Replica]):
    """One replica, dead ones included, with its way through the phases. `evidence` comes without log lines: they are
    at `logs/?replica=`."""

    revision = serializers.IntegerField(source="revision.number")
    node = serializers.CharField(source="node_id", allow_null=True)
    gpu_ids = serializers.ListField(child=serializers.CharField())
    reason = serializers.SerializerMethodField()
    evidence = serializers.SerializerMethodField()
    age_s = serializers.SerializerMethodField()
    phases = serializers.SerializerMethodField()
    eta_s = serializers.SerializerMethodField()
    late = serializers.SerializerMethodField()
    stalled = serializers.SerializerMethodField()

    class Meta:
        model = Replica
        fields = [
            "id", "name", "slot", "attempt", "revision", "state", "runtime", "node", "gpu_ids", "reason", "evidence",
            "age_s", "created_at", "started_at", "healthy_since", "ready_at", "routed_at", "unhealthy_since",
            "ended_at", "phases", "eta_s", "late", "stalled",
        ]  # fmt: skip

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._known: dict[
            int, Mapping[str, float]
        ] = {}  # what is usual, by revision: of a page one serializer

    def to_representation(self, replica: Replica) -> dict[str, Any]:
        """With what is left worked out once."""
        self._usual, self._ahead = _look_ahead(replica, self._known)
        return super().to_representation(replica)

    @extend_schema_field(ReasonSerializer(allow_null=True))
    def get_reason(self, replica: Replica) -> dict[str, str] | None:
        """Why it waits or failed."""
        if not replica.reason_code:
            return None
        reason = describe(replica.reason_code, replica.evidence)
        return {"code": reason.code, "message": reason.message, "action": reason.action}

    @extend_schema_field({"type": "object", "additionalProperties": True})
    def get_evidence(self, replica: Replica) -> dict[str, Any]:
        """What was seen when it failed."""
        return {name: value for name, value in replica.evidence.items() if name != "logs"}

    @extend_schema_field({"type": "number", "description": "Seconds since it was made, or that it lived."})
    def get_age_s(self, replica: Replica) -> float:
        """Of its record."""
        return round(((replica.ended_at or timezone.now()) - replica.created_at).total_seconds(), 1)

    @extend_schema_field(PhaseSerializer(many=True))
    def get_phases(self, replica: Replica) -> list[dict[str, Any]]:
        """In order."""
        return [_phase(phase, self._usual) for phase in replica.phases.all()]

    @extend_schema_field(OutlookSerializer().fields["eta_s"])
    def get_eta_s(self, replica: Replica) -> float | None:
        """Seconds until it takes traffic."""
        return _eta_s(self._ahead)

    @extend_schema_field(OutlookSerializer().fields["late"])
    def get_late(self, replica: Replica) -> bool:
        """Whether its present phase takes longer than usual."""
        return _late(self._ahead)

    @extend_schema_field(StallSerializer(allow_null=True))
    def get_stalled(self, replica: Replica) -> dict[str, Any] | None:
        """What hangs."""
        return _stalled(self._ahead)


class EndpointDetailSerializer(EndpointSerializer):
    """One endpoint, with the deployment that is under way."""

    deployment = serializers.SerializerMethodField()

    @extend_schema_field(ReasonWithFixesSerializer(allow_null=True))
    def get_status_reason(self, endpoint: Endpoint) -> dict[str, Any] | None:
        """{code, message, action, fixes}, null when ACTIVE."""
        reason = super().get_status_reason(endpoint)
        return {**reason, "fixes": offered_to(endpoint, self.context)} if reason else None

    @extend_schema_field(DeploymentSerializer(allow_null=True))
    def get_deployment(self, endpoint: Endpoint) -> dict[str, Any] | None:
        """null: nothing is on its way."""
        replica = told_replica(replicas_of(endpoint))
        phases = list(replica.phases.all()) if replica else []
        present = next((phase for phase in phases if phase.finished_at is None), None)
        if replica is None or present is None:
            return None
        usual, ahead = _look_ahead(replica, {})
        return {
            "replica": replica.name,
            "phase": present.name,
            "eta_s": _eta_s(ahead),
            "late": _late(ahead),
            "stalled": _stalled(ahead),
            "phases": [_phase(phase, usual) for phase in phases],
        }


def _look_ahead(
    replica: Replica, known: dict[int, Mapping[str, float]]
) -> tuple[Mapping[str, float], Outlook]:
    """What is usual for it and its outlook; nothing for one that is on no way any more. known: by revision."""
    phases = list(replica.phases.all())
    if all(phase.finished_at for phase in phases):
        return {}, Outlook()
    if replica.revision_id not in known:
        known[replica.revision_id] = usual_of(replica.revision)
    usual = known[replica.revision_id]
    return usual, outlook(phases, usual, timezone.now())


def _eta_s(ahead: Outlook) -> float | None:
    return round(ahead.eta.seconds_left, 1) if ahead.eta else None


def _late(ahead: Outlook) -> bool:
    return bool(ahead.eta and ahead.eta.late)


def _stalled(ahead: Outlook) -> dict[str, Any] | None:
    alarm = ahead.alarm
    if alarm is None:
        return None
    return {"phase": alarm.name, "since": alarm.since, "usual_s": alarm.usual, "advice": alarm.advice}


def _phase(phase: DeployPhase, usual: Mapping[str, float]) -> dict[str, Any]:
    end = phase.finished_at or timezone.now()
    return {
        "name": phase.name,
        "started_at": phase.started_at,
        "finished_at": phase.finished_at,
        "seconds": round((end - phase.started_at).total_seconds(), 3),
        "usual_s": usual.get(phase.name),
        "bytes_done": phase.bytes_done,
        "bytes_total": phase.bytes_total,
        "bytes_per_s": phase.bytes_per_s,
    }
