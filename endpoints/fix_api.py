"""The management API's shapes for the ways out of a failure: what is offered, and taking one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rest_framework import serializers

from config.known_fields import KnownFields
from endpoints import fixes
from endpoints.models import Endpoint
from endpoints.serializers import ReasonSerializer
from iam.roles import Permission


class FixSerializer(serializers.Serializer[Any]):
    """One way out."""

    fix = serializers.CharField(help_text="What to send to `fix/`.")
    title = serializers.CharField()


class ReasonWithFixesSerializer(ReasonSerializer):
    """Why the status is what it is, and what the caller may do about it at once."""

    fixes = FixSerializer(many=True)


class FixRequestSerializer(KnownFields):
    """Which way out to take."""

    fix = serializers.CharField(max_length=200, help_text="One of `status_reason.fixes`.")
    allow_interruption = serializers.BooleanField(
        required=False,
        help_text="whether an old replica may stop before its successor is there, where there is room for one only",
    )


def offered_to(endpoint: Endpoint, context: Mapping[str, Any]) -> list[dict[str, str]]:
    """What the caller may do: nothing is offered to those who may not change endpoints. context: a serializer's."""
    view = context.get("view")
    if view is None or not view.actor.may(Permission.EDIT):
        return []
    return [{"fix": item.key, "title": item.label} for item in fixes.offered(endpoint)]
