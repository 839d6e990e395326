"""The management API's models, frameworks and catalog (contract §4). The rules are in registry.validation."""

from __future__ import annotations

from typing import Any

from django_filters import rest_framework as filters
from drf_spectacular.utils import extend_schema, extend_schema_field, extend_schema_serializer
from rest_framework import mixins, serializers, status, viewsets
from rest_framework.decorators import action
from rest_framework.filters import OrderingFilter, SearchFilter
from rest_framework.request import Request
from rest_framework.response import Response

from config.api import ProjectViewSet
from config.known_fields import KnownFields
from config.pagination import CursorPagination
from registry import selectors, services
from registry.errors import reason_of
from registry.frameworks import definition_of
from registry.models import Framework, ModelStatus, ModelTask, RegisteredModel, Source


@extend_schema_serializer(component_name="ImportReason")  # an endpoint's reason is another component
class ReasonSerializer(serializers.Serializer[Any]):
    """Why an import failed."""

    code = serializers.CharField()
    message = serializers.CharField()
    action = serializers.CharField()


class ProgressSerializer(serializers.Serializer[RegisteredModel]):
    """Bytes that are here of bytes that are wanted; 0 of 0 before anything is known."""

    bytes_done = serializers.IntegerField()
    bytes_total = serializers.IntegerField()


class SecretsSerializer(serializers.Serializer[Any]):
    """What may be sent and is never answered."""

    hub_token = serializers.CharField(write_only=True, required=False, allow_blank=True, trim_whitespace=True)
    environment = serializers.DictField(
        child=serializers.CharField(allow_blank=True, trim_whitespace=False), write_only=True, required=False
    )
    registry_username = serializers.CharField(write_only=True, required=False, allow_blank=True)
    registry_password = serializers.CharField(
        write_only=True, required=False, allow_blank=True, trim_whitespace=False
    )


class ModelSerializer(SecretsSerializer):
    """A registered model."""

    id = serializers.UUIDField()
    name = serializers.CharField()
    task = serializers.CharField(
        help_text=f"one of {', '.join(ModelTask.values)}; empty until the import knows"
    )
    framework = serializers.CharField(source="framework_id")
    source = serializers.ChoiceField(Source.choices)  # type: ignore[assignment]
    source_ref = serializers.DictField(
        help_text="what was asked for; for a repository also the commit it meant"
    )
    settings = serializers.DictField(help_text="framework settings, defaults for its endpoints")
    status = serializers.ChoiceField(ModelStatus.choices)
    status_reason = serializers.SerializerMethodField()
    progress = ProgressSerializer(source="*")
    size_bytes = serializers.IntegerField()
    facts = serializers.DictField(help_text="what the files say: architecture, context_length, parameters, …")
    has_hub_token = serializers.SerializerMethodField()
    has_registry_credentials = serializers.SerializerMethodField()
    environment_names = serializers.SerializerMethodField()
    created_by = serializers.SerializerMethodField()
    created_at = serializers.DateTimeField()
    updated_at = serializers.DateTimeField()

    @extend_schema_field(ReasonSerializer(allow_null=True))
    def get_status_reason(self, model: RegisteredModel) -> dict[str, str] | None:
        """{code, message, action} of a failed import, else null."""
        told = reason_of(model)
        return {"code": told.code, "message": told.message, "action": told.action} if told else None

    def get_has_hub_token(self, model: RegisteredModel) -> bool:
        """Whether a token is stored."""
        return bool(model.hub_token)

    def get_has_registry_credentials(self, model: RegisteredModel) -> bool:
        """Whether credentials for the image's registry are stored."""
        return bool(model.registry_username)

    @extend_schema_field({"type": "array", "items": {"type": "string"}})
    def get_environment_names(self, model: RegisteredModel) -> list[str]:
        """The names of the variables; their values may be secrets."""
        return sorted(selectors.environment_of(model))

    def get_created_by(self, model: RegisteredModel) -> str:
        """Who imported it, "" if that person is gone or was a program."""
        return str(model.created_by or "")


class ImportSerializer(KnownFields, SecretsSerializer):
    """A model to import. Which fields count depends on `source`."""

    name = serializers.CharField(allow_blank=True, trim_whitespace=False)
    framework = serializers.CharField(allow_blank=True)
    source = serializers.CharField(  # type: ignore[assignment]
        allow_blank=True, help_text="local, huggingface or image"
    )
    task = serializers.CharField(required=False, allow_blank=True, help_text="empty: the import finds out")
    path = serializers.CharField(
        required=False,
        allow_blank=True,
        help_text="local: under the models root; image: optional model files",
    )
    repo_id = serializers.CharField(required=False, allow_blank=True, help_text="huggingface: owner/name")
    revision = serializers.CharField(required=False, allow_blank=True, help_text="branch, tag or commit")
    files = serializers.ListField(
        child=serializers.CharField(), required=False, help_text="huggingface: names or patterns"
    )
    image = serializers.CharField(required=False, allow_blank=True)
    port = serializers.IntegerField(required=False)
    health_path = serializers.CharField(required=False, allow_blank=True)
    command = serializers.ListField(
        child=serializers.CharField(allow_blank=True, trim_whitespace=False), required=False
    )
    settings = serializers.DictField(required=False)


class ChangeSerializer(KnownFields, SecretsSerializer):
    """What can be changed later."""

    answered = frozenset(ModelSerializer._declared_fields) | frozenset(ImportSerializer._declared_fields)

    name = serializers.CharField(required=False, allow_blank=True, trim_whitespace=False)
    task = serializers.CharField(required=False, allow_blank=True)
    settings = serializers.DictField(required=False)


class RetrySerializer(KnownFields):
    """A new try. The token replaces the stored one."""

    hub_token = serializers.CharField(required=False, allow_blank=True, write_only=True)


class ModelFilter(filters.FilterSet):  # type: ignore[misc]
    """`?status=READY&source=local&task=llm`."""

    class Meta:
        model = RegisteredModel
        fields = ["status", "source", "task"]


class ModelViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, ProjectViewSet[RegisteredModel]):
    """Models of the caller's project."""

    queryset = RegisteredModel.objects.select_related("created_by")
    serializer_class = ModelSerializer
    filter_backends = [filters.DjangoFilterBackend, SearchFilter, OrderingFilter]
    filterset_class = ModelFilter
    search_fields = ["name"]
    ordering_fields = ["name", "created_at", "updated_at"]
    ordering = ["-created_at"]

    @extend_schema(request=ImportSerializer, responses={201: ModelSerializer})
    def create(self, request: Request) -> Response:
        """Start an import. It goes on in the background: follow `status` and `progress`."""
        values = self._validated(ImportSerializer, request)
        for key in ("files", "command"):
            if key in values:
                values[key] = tuple(values[key])
        model = services.import_model(self.actor, services.ImportSpec(**values))
        return Response(ModelSerializer(model).data, status=status.HTTP_201_CREATED)

    @extend_schema(request=ChangeSerializer, responses=ModelSerializer)
    def partial_update(self, request: Request, pk: str) -> Response:
        """Change name, task, default settings or secrets. Running replicas keep what they started with."""
        model = self.get_object()
        values = self._validated(ChangeSerializer, request)
        # What the caller wanted to change and can't is an error, not something to pass over in silence.
        fixed = _imported_otherwise(model, request.data)
        model = services.update_model(self.actor, model, values | dict.fromkeys(fixed))
        return Response(ModelSerializer(model).data)

    @extend_schema(responses={204: None})
    def destroy(self, request: Request, pk: str) -> Response:
        """Delete the model and its files. 409 while an endpoint uses it."""
        services.delete_model(self.actor, self.get_object())
        return Response(status=status.HTTP_204_NO_CONTENT)

    @extend_schema(request=RetrySerializer, responses=ModelSerializer)
    @action(detail=True, methods=["post"], filter_backends=[])
    def retry(self, request: Request, pk: str) -> Response:
        """Try a failed import again; what has arrived is kept. 409 unless it failed."""
        values = self._validated(RetrySerializer, request)
        model = services.retry_import(self.actor, self.get_object(), hub_token=values.get("hub_token", ""))
        return Response(ModelSerializer(model).data)

    def _validated(self, shape: type[serializers.Serializer[Any]], request: Request) -> dict[str, Any]:
        serializer = shape(data=request.data)
        serializer.is_valid(raise_exception=True)
        return dict(serializer.validated_data)


def _imported_otherwise(model: RegisteredModel, sent: Any) -> list[str]:
    """Names of what only an import decides, as far as it is not sent back as it is."""
    present = {"framework": model.framework_id, "source": model.source}
    decided = set(ImportSerializer._declared_fields) - set(ChangeSerializer._declared_fields)
    return [name for name in decided & set(sent) if name not in present or sent[name] != present[name]]


class SettingSerializer(serializers.Serializer[Any]):
    """One knob of a framework."""

    key = serializers.CharField()
    label = serializers.CharField()  # type: ignore[assignment]
    type = serializers.ChoiceField(["int", "str", "bool", "choice"])
    help = serializers.CharField()
    default = serializers.JSONField(allow_null=True)
    min = serializers.IntegerField(allow_null=True)
    max = serializers.IntegerField(allow_null=True)
    choices = serializers.ListField(child=serializers.CharField())


class FrameworkSerializer(serializers.Serializer[Framework]):
    """What can serve a model."""

    slug = serializers.CharField()
    name = serializers.CharField()
    version = serializers.CharField()
    summary = serializers.CharField(source="known.summary")
    documentation = serializers.CharField(source="known.documentation")
    accepts = serializers.ListField(
        source="known.accepts", child=serializers.ChoiceField(["gguf", "folder", "repository", "image"])
    )
    device_kinds = serializers.ListField(
        source="known.device_kinds", child=serializers.ChoiceField(["cpu", "gpu"])
    )
    tasks = serializers.ListField(source="known.tasks", child=serializers.ChoiceField(ModelTask.choices))
    settings = SettingSerializer(source="known.settings", many=True)

    def to_representation(self, instance: Framework) -> dict[str, Any]:
        """The row with its checked definition."""
        instance.known = definition_of(instance)  # type: ignore[attr-defined]
        return dict(super().to_representation(instance))


class FrameworkPages(CursorPagination):
    """By name; all frameworks fit on one page."""

    page_size = 200
    ordering = "name"


class FrameworkViewSet(mixins.ListModelMixin, viewsets.GenericViewSet[Framework]):
    """Frameworks that may be chosen for an import, with their settings."""

    queryset = Framework.objects.filter(enabled=True)
    serializer_class = FrameworkSerializer
    pagination_class = FrameworkPages


class CatalogSerializer(serializers.Serializer[selectors.CatalogEntry]):
    """A well-known model and how many GPUs of a kind it takes."""

    task = serializers.CharField()
    model = serializers.CharField(help_text="its repository on Hugging Face")
    cards = serializers.SerializerMethodField()
    limits = serializers.CharField()
    minutes = serializers.IntegerField(help_text="from the click to ready on an RTX 2080, as a guide")

    @extend_schema_field({"type": "object", "additionalProperties": {"type": "integer"}})
    def get_cards(self, entry: selectors.CatalogEntry) -> dict[str, int]:
        """GPUs needed, by model of GPU."""
        return {"rtx2080": entry.cards_rtx2080, "rtx4090": entry.cards_rtx4090, "a40": entry.cards_a40}


class CatalogViewSet(viewsets.ViewSet):
    """Models worth trying first. The whole list is one page."""

    serializer_class = CatalogSerializer

    @extend_schema(
        responses={
            200: {
                "type": "object",
                "properties": {
                    "next": {"type": "string", "nullable": True},
                    "previous": {"type": "string", "nullable": True},
                    "results": {"type": "array", "items": {"$ref": "#/components/schemas/Catalog"}},
                },
            }
        }
    )
    def list(self, request: Request) -> Response:
        """The catalog."""
        entries = [CatalogSerializer(entry).data for entry in selectors.catalog()]
        return Response({"next": None, "previous": None, "results": entries})


routes: list[tuple[str, type[viewsets.ViewSetMixin], str]] = [
    ("models", ModelViewSet, "model"),
    ("frameworks", FrameworkViewSet, "framework"),
    ("catalog", CatalogViewSet, "catalog"),
]
