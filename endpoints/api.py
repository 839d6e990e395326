"""The management API's endpoints, regions and instance types (contract §4)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from django.core.exceptions import ValidationError
from django.http.response import HttpResponseBase
from django.utils.translation import gettext as _
from django_filters import rest_framework as filters
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import mixins, serializers, status, viewsets
from rest_framework.decorators import action
from rest_framework.exceptions import NotFound
from rest_framework.filters import OrderingFilter, SearchFilter
from rest_framework.request import Request
from rest_framework.response import Response

from config.pagination import CursorPagination
from endpoints import fixes, history, log_answers, replica_logs, services
from endpoints.capacity_api import routes as capacity_routes
from endpoints.decisions_api import Decisions
from endpoints.dry_run_api import DryRun
from endpoints.fix_api import FixRequestSerializer
from endpoints.limits import LIMITS
from endpoints.metrics_api import Metrics
from endpoints.models import Endpoint, Event, InstanceType, Region
from endpoints.replica_api import EndpointDetailSerializer, ReplicaSerializer
from endpoints.serializers import (
    EndpointSerializer,
    EventSerializer,
    InstanceTypeSerializer,
    LogsQuery,
    LogsSerializer,
    RegionSerializer,
    RestartSerializer,
    RevisionSerializer,
    RollbackSerializer,
)
from endpoints.usage.api import routes as usage_routes

_THRESHOLDS = (
    *("cpu_percent", "memory_percent", "gpu_percent", "latency_ms", "in_flight", "idle_timeout_s"),
    *("scale_up_after_s", "scale_down_after_s"),
)


class EndpointFilter(filters.FilterSet):  # type: ignore[misc]
    """`?status=ACTIVE&region=HCM`."""

    class Meta:
        model = Endpoint
        fields = ["status", "region"]


class EndpointViewSet(DryRun, Decisions, Metrics):
    """Endpoints of the caller's project."""

    queryset = Endpoint.objects.select_related("revision")
    serializer_class = EndpointSerializer
    filter_backends = [filters.DjangoFilterBackend, SearchFilter, OrderingFilter]
    filterset_class = EndpointFilter
    search_fields = ["name", "id"]
    ordering_fields = ["name", "status", "created_at", "updated_at"]
    ordering = ["-created_at"]

    def get_serializer_class(self) -> type[EndpointSerializer]:
        """A list's rows are told without their deployments: queries for each of them."""
        return EndpointSerializer if self.action == "list" else EndpointDetailSerializer

    def list(self, request: Request) -> Response:
        """A page of endpoints."""
        page = self.paginate_queryset(self.filter_queryset(self.get_queryset()))
        return self.get_paginated_response(self.get_serializer(page, many=True).data)

    def retrieve(self, request: Request, pk: str) -> Response:
        """One endpoint, with the deployment that is under way."""
        return Response(self.get_serializer(self.get_object()).data)

    def create(self, request: Request) -> Response:
        """Create and deploy."""
        serializer = self.get_serializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        fields = _spec_fields(serializer.validated_data)
        fields.pop("allow_interruption", None)  # nothing runs yet
        spec = services.EndpointSpec(**fields)
        endpoint = _translated(lambda: services.create_endpoint(actor=self.actor, spec=spec))
        return Response(self.get_serializer(endpoint).data, status=status.HTTP_201_CREATED)

    def partial_update(self, request: Request, pk: str) -> Response:
        """Change some fields; a changed model, instance type, setting or variable makes a revision."""
        endpoint = self.get_object()
        serializer = self.get_serializer(endpoint, data=request.data, partial=True)
        serializer.is_valid(raise_exception=True)
        changes = _spec_fields(serializer.validated_data)
        if changes.get("region") == endpoint.region_id:
            changes.pop("region")  # sent back as it was read
        allowed = bool(changes.pop("allow_interruption", False))
        changed = _translated(
            lambda: services.update_endpoint(
                actor=self.actor, endpoint=endpoint, changes=changes, allow_interruption=allowed
            )
        )
        return Response(self.get_serializer(changed).data)

    @extend_schema(responses={202: EndpointDetailSerializer})
    def destroy(self, request: Request, pk: str) -> Response:
        """Ask for its end; it is gone when reading it answers 404."""
        return self._switch(self.get_object(), services.delete_endpoint, status.HTTP_202_ACCEPTED)

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    def pause(self, request: Request, pk: str) -> Response:
        """Stop all replicas; the URL answers 503."""
        return self._switch(self.get_object(), services.pause_endpoint)

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    def resume(self, request: Request, pk: str) -> Response:
        """Serve again after a pause."""
        return self._switch(self.get_object(), services.resume_endpoint)

    @extend_schema(request=RestartSerializer)
    @action(detail=True, methods=["post"])
    def restart(self, request: Request, pk: str) -> Response:
        """Replace every replica, one after another; what failed is tried again at once."""
        return self._switch(self.get_object(), services.restart_endpoint, **_sent(RestartSerializer, request))

    @extend_schema(request=RollbackSerializer)
    @action(detail=True, methods=["post"])
    def rollback(self, request: Request, pk: str) -> Response:
        """Make a new revision with the configuration of an older one, and roll it out."""
        endpoint, sent = self.get_object(), _sent(RollbackSerializer, request)
        return self._switch(endpoint, services.rollback_endpoint, number=sent.pop("revision"), **sent)

    @extend_schema(request=FixRequestSerializer)
    @action(detail=True, methods=["post"])
    def fix(self, request: Request, pk: str) -> Response:
        """Take one of the ways out that `status_reason.fixes` offers."""
        endpoint, sent = self.get_object(), _sent(FixRequestSerializer, request)
        return self._switch(endpoint, fixes.apply, key=sent.pop("fix"), **sent)

    @extend_schema(responses=EventSerializer(many=True))
    @action(detail=True, methods=["get"], filter_backends=[], url_path="events")
    def list_events(self, request: Request, pk: str) -> Response:
        """What happened, newest first."""
        return self._page(EventSerializer, Event.objects.filter(endpoint=self.get_object()), order="-id")

    @extend_schema(responses=ReplicaSerializer(many=True))
    @action(detail=True, methods=["get"], filter_backends=[])
    def replicas(self, request: Request, pk: str) -> Response:
        """All replicas, the dead ones with their evidence; those on their way with what is left of it."""
        wanted = ("revision__model__framework", "revision__instance_type")
        rows = self.get_object().replicas.select_related(*wanted).prefetch_related("phases")
        return self._page(ReplicaSerializer, rows)

    @extend_schema(responses=RevisionSerializer(many=True))
    @action(detail=True, methods=["get"], filter_backends=[])
    def revisions(self, request: Request, pk: str) -> Response:
        """Its configurations, newest first, each with what it changed and what became of it."""
        endpoint = self.get_object()
        paginator = CursorPagination()
        paginator.ordering = "-number"
        page = paginator.paginate_queryset(history.rows_of(endpoint), request, self)
        rows = [RevisionSerializer(entry).data for entry in history.entries(endpoint, page or [])]
        return paginator.get_paginated_response(rows)

    @extend_schema(
        parameters=[
            OpenApiParameter("replica", str, description="A replica's id; the newest one if left out."),
            OpenApiParameter(
                "tail", int, description="How many of the last lines, 1 to 500; 200 if left out."
            ),
            OpenApiParameter(
                "follow", bool, description="As plain text: the last lines, then every line as it is printed."
            ),
            OpenApiParameter(
                "download", bool, description="As plain text: all that is kept of a replica that ended."
            ),
        ],
        responses={(200, "application/json"): LogsSerializer, (200, "text/plain"): OpenApiTypes.STR},
    )
    @action(detail=True, methods=["get"], filter_backends=[], pagination_class=None)
    def logs(self, request: Request, pk: str) -> HttpResponseBase:
        """The last lines that a replica printed; those of one that ended are kept."""
        query = LogsQuery(data=request.query_params)
        query.is_valid(raise_exception=True)
        replicas = self.get_object().replicas.order_by("-created_at")
        wanted = query.validated_data.get("replica")
        replica = replicas.filter(pk=wanted).first() if wanted else replicas.first()
        if replica is None:
            raise NotFound(_("No replica has been started yet."))
        tail = query.validated_data["tail"]
        if query.validated_data["download"]:
            return log_answers.whole(replica, self.actor)
        if query.validated_data["follow"]:
            return log_answers.followed(replica, tail, self.actor)
        lines = replica_logs.last_lines(replica, tail)
        return Response({"replica": str(replica.pk), "name": replica.name, "lines": lines})

    def _page(
        self, serializer: type[serializers.ModelSerializer[Any]], rows: Any, order: str = "-created_at"
    ) -> Response:
        paginator = CursorPagination()
        paginator.ordering = order
        page = paginator.paginate_queryset(rows, self.request, self)
        return paginator.get_paginated_response(serializer(page, many=True).data)

    def _switch(
        self, endpoint: Endpoint, service: Callable[..., Endpoint], code: int = 200, **sent: Any
    ) -> Response:
        """Look the endpoint up before the body is read: a foreign one is 404 whatever is sent."""
        changed = _translated(lambda: service(actor=self.actor, endpoint=endpoint, **sent))
        return Response(self.get_serializer(changed).data, status=code)


class RegionPages(CursorPagination):
    """By code; all regions fit on one page."""

    page_size = 200
    ordering = "code"


class InstanceTypePages(CursorPagination):
    """In the admin's order; all types fit on one page."""

    page_size = 200
    ordering = ("position", "name")


class RegionViewSet(mixins.ListModelMixin, viewsets.GenericViewSet[Region]):
    """Where endpoints can run."""

    queryset = Region.objects.filter(enabled=True)
    serializer_class = RegionSerializer
    pagination_class = RegionPages


class InstanceTypeViewSet(mixins.ListModelMixin, viewsets.GenericViewSet[InstanceType]):
    """What replicas can run on."""

    queryset = InstanceType.objects.filter(enabled=True)
    serializer_class = InstanceTypeSerializer
    pagination_class = InstanceTypePages


def _spec_fields(validated: Mapping[str, Any]) -> dict[str, Any]:
    """What was sent, under EndpointSpec's names; only what was sent when it is a partial change."""
    fields = {name: value for name, value in validated.items() if name not in ("revision", "region_id")}
    if "region_id" in validated:
        fields["region"] = validated["region_id"]
    revision = validated.get("revision", {})
    for sent, name in (
        ("model_id", "model_id"),
        ("instance_type_id", "instance_type"),
        ("settings", "settings"),
    ):
        if sent in revision:
            fields[name] = revision[sent]
    return fields


def _sent(shape: type[serializers.Serializer[Any]], request: Request) -> dict[str, Any]:
    """The checked body."""
    serializer = shape(data=request.data)
    serializer.is_valid(raise_exception=True)
    return dict(serializer.validated_data)


def _translated(call: Callable[[], Endpoint]) -> Endpoint:
    """Run a service; its field names become the API's."""
    try:
        return call()
    except ValidationError as error:
        named = {_api_name(field): messages for field, messages in error.message_dict.items()}
        raise serializers.ValidationError(named) from error


def _api_name(field: str) -> str:
    if field in _THRESHOLDS:
        return f"autoscaling.{field}"
    if field in LIMITS:
        return f"limits.{field}"
    return {"model_id": "model", "__all__": "non_field_errors"}.get(field, field)


routes: list[tuple[str, type[viewsets.ViewSetMixin], str]] = [
    ("endpoints", EndpointViewSet, "endpoint"),
    ("regions", RegionViewSet, "region"),
    ("instance-types", InstanceTypeViewSet, "instance-type"),
    *capacity_routes,
    *usage_routes,
]
