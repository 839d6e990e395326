"""Machines and GPUs in the management API: for the platform's admins, over all projects."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers, viewsets
from rest_framework.request import Request
from rest_framework.response import Response

from config.pagination import CursorPagination
from endpoints.models import Gpu, Node
from endpoints.placement import ledger
from iam.permissions import PlatformStaff


class NodeSerializer(serializers.Serializer[Any]):
    """A machine: what it has, what it has promised.

    `cpus_promised` is how many CPUs may be promised in all (`cpus` times `cpu_overcommit`).
    """

    name = serializers.CharField(source="node.name")
    region = serializers.CharField(source="node.region_id")
    state = serializers.ChoiceField(["ready", "cordoned", "away"])
    cpus = serializers.FloatField()
    cpu_overcommit = serializers.FloatField(source="node.cpu_overcommit")
    cpus_promised = serializers.FloatField()
    cpus_claimed = serializers.FloatField()
    memory_bytes = serializers.IntegerField()
    memory_claimed = serializers.IntegerField()
    replicas = serializers.IntegerField()
    gpus = serializers.SerializerMethodField()
    seen_at = serializers.DateTimeField(source="node.seen_at")

    def get_gpus(self, entry: ledger.NodeEntry) -> int:
        """How many GPUs it has."""
        return len(entry.gpus)


class GpuUseSerializer(serializers.Serializer[Any]):
    """Somebody on a GPU: a container, or with `pid` a process."""

    kind = serializers.ChoiceField(["ours", "foreign"])
    name = serializers.CharField()
    pid = serializers.IntegerField()
    memory_bytes = serializers.IntegerField()


class ClaimSerializer(serializers.Serializer[Any]):
    """The replica that owns a GPU."""

    replica = serializers.CharField(source="name")
    endpoint = serializers.CharField(source="endpoint_id")
    endpoint_name = serializers.CharField(source="endpoint.name")
    project = serializers.CharField(source="endpoint.project_id")


class GpuSerializer(serializers.Serializer[Any]):
    """A GPU: whose it is and who is on it. `state` is the first that is true of leaked, foreign, used, claimed,
    missing and disabled, else free; `leaks` names what holds it without a right to."""

    uuid = serializers.CharField(source="gpu.uuid")
    node = serializers.CharField(source="gpu.node_id")
    index = serializers.IntegerField(source="gpu.index")
    model = serializers.CharField(source="gpu.model")
    name = serializers.CharField(source="gpu.name")
    vram_bytes = serializers.IntegerField(source="gpu.vram_bytes")
    enabled = serializers.BooleanField(source="gpu.enabled")
    found = serializers.BooleanField(source="gpu.found")
    state = serializers.ChoiceField(["leaked", "foreign", "used", "claimed", "missing", "disabled", "free"])
    claimed_by = ClaimSerializer(source="gpu.replica", allow_null=True)
    use = GpuUseSerializer(source="gpu.use", many=True)
    leaks = serializers.ListField(child=serializers.CharField())
    seen_at = serializers.DateTimeField(source="gpu.seen_at")


class NodePages(CursorPagination):
    """By name."""

    ordering = "name"


class GpuPages(CursorPagination):
    """By machine and UUID."""

    ordering = ("node", "uuid")


class NodeViewSet(viewsets.GenericViewSet[Node]):
    """The machines that replicas run on."""

    queryset = Node.objects.select_related("region")
    permission_classes = [PlatformStaff]
    pagination_class = NodePages

    @extend_schema(responses=NodeSerializer(many=True))
    def list(self, request: Request) -> Response:
        """Every machine with what it has and what it has promised."""
        page = self.paginate_queryset(self.get_queryset()) or []
        return self.get_paginated_response(NodeSerializer(ledger.nodes(page), many=True).data)


class GpuViewSet(viewsets.GenericViewSet[Gpu]):
    """The GPU ledger."""

    queryset = Gpu.objects.select_related("node", "replica__endpoint")
    permission_classes = [PlatformStaff]
    pagination_class = GpuPages

    @extend_schema(responses=GpuSerializer(many=True))
    def list(self, request: Request) -> Response:
        """Every GPU: claimed, used, foreign or leaked."""
        page = self.paginate_queryset(self.get_queryset()) or []
        return self.get_paginated_response(GpuSerializer(ledger.gpus(page), many=True).data)


routes = [("nodes", NodeViewSet, "node"), ("gpus", GpuViewSet, "gpu")]
