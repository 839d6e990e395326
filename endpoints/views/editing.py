"""Create an endpoint, and change one: the same numbered sections."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.contrib import messages
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST

from config.errors import Conflict
from endpoints import services, shortage
from endpoints.autoscaling.simulate import HOURS_A_MONTH
from endpoints.autoscaling.trial import RANGES
from endpoints.fit import ModelNeeds, Offer, misfit
from endpoints.forms import EndpointForm, initial_of, setting_groups, spec_from
from endpoints.history import number_of
from endpoints.models import Endpoint, InstanceType, Node, Region, Revision
from endpoints.placement import NoRoom, Rooms
from endpoints.validation import WINDOW_DEFAULTS, clean
from endpoints.views.common import get_endpoint
from endpoints.views.preview import preview
from iam.access import require
from iam.actors import Actor, current_actor
from iam.roles import Permission
from registry.frameworks import DefinitionError, FrameworkDefinition, definition_of
from registry.models import ModelStatus, RegisteredModel


@require(Permission.EDIT)
def create(request: HttpRequest) -> HttpResponse:
    """The page, and its submission."""
    actor = current_actor(request)
    models = _models(actor)
    if request.method != "POST":
        form = EndpointForm(initial=_defaults(request, models))
        return _create_page(request, actor, form, models)
    form = EndpointForm(request.POST)
    endpoint = _save(actor, form, models)
    if endpoint is None:
        return _create_page(request, actor, form, models, 422)
    messages.success(request, _("%(name)s is being deployed.") % {"name": endpoint.name})
    return HttpResponseRedirect(reverse("endpoints:detail", args=[endpoint.id]))


@require(Permission.EDIT)
def model_options(request: HttpRequest) -> HttpResponse:
    """The model list again, for the refresh button; the chosen one stays chosen."""
    models = _models(current_actor(request))
    form = EndpointForm(initial={"model_id": request.GET.get("model_id", "")})
    return render(request, "endpoints/_model_select.html", _context(form, models))


@require(Permission.EDIT)
def instance_types(request: HttpRequest) -> HttpResponse:
    """The instance types again, greyed for another model or region."""
    models = _models(current_actor(request))
    chosen = {key: request.GET.get(key, "") for key in ("model_id", "instance_type", "region")}
    return render(request, "endpoints/_instance_types.html", _context(EndpointForm(initial=chosen), models))


@require(Permission.VIEW)
def settings_tab(request: HttpRequest, endpoint_id: str) -> HttpResponse:
    """What is set, and for editors the form that changes it. `?revision=4` fills it in with that revision's model,
    instance type and settings: to correct one that failed."""
    actor = current_actor(request)
    endpoint = get_endpoint(actor, endpoint_id)
    models = _models(actor, endpoint)
    if request.method != "POST" or not actor.may(Permission.EDIT):
        shown = _revision(endpoint, request.GET.get("revision", ""))
        form = EndpointForm(initial=initial_of(endpoint, shown))
        status = 200 if request.method != "POST" else 403
        return _settings_page(request, actor, endpoint, form, models, status, shown)
    form = EndpointForm(request.POST)
    changed = _change(actor, endpoint, form, models)
    if changed is None:
        return _settings_page(request, actor, endpoint, form, models, 422)
    if changed.revision and changed.revision_id != endpoint.revision_id:
        told = _("Saved. Revision %(number)s is being rolled out.") % {"number": changed.revision.number}
        messages.success(request, told)
        return HttpResponseRedirect(reverse("endpoints:detail", args=[endpoint.id]))
    messages.success(request, _("Saved."))
    return HttpResponseRedirect(reverse("endpoints:settings", args=[endpoint.id]))


@require(Permission.EDIT)
@require_POST
def changes(request: HttpRequest, endpoint_id: str) -> HttpResponse:
    """What saving the settings form as it stands would do; saves nothing."""
    actor = current_actor(request)
    endpoint = get_endpoint(actor, endpoint_id)
    form = EndpointForm(request.POST)
    context = {"preview": preview(endpoint, form, _chosen(form, _models(actor, endpoint)))}
    return render(request, "endpoints/_changes.html", context)


def _create_page(
    request: HttpRequest, actor: Actor, form: EndpointForm, models: list[RegisteredModel], status: int = 200
) -> HttpResponse:
    context = _context(form, models) | {"can_limit": actor.may(Permission.ADMINISTER)}
    return render(request, "endpoints/create.html", context, status=status)


def _settings_page(
    request: HttpRequest,
    actor: Actor,
    endpoint: Endpoint,
    form: EndpointForm,
    models: list[RegisteredModel],
    status: int,
    shown: Revision | None = None,
) -> HttpResponse:
    context = _context(form, models, endpoint, shown) | {
        "endpoint": endpoint,
        "tab": "settings",
        "can_edit": actor.may(Permission.EDIT),
        "can_limit": actor.may(Permission.ADMINISTER),
        "preview": preview(endpoint, form, _chosen(form, models)),
    }
    return render(request, "endpoints/settings.html", context, status=status)


def _revision(endpoint: Endpoint, typed: str) -> Revision | None:
    number = number_of(typed)
    return endpoint.revisions.select_related("model").filter(number=number).first() if number else None


def _save(actor: Actor, form: EndpointForm, models: list[RegisteredModel]) -> Endpoint | None:
    if not form.is_valid():
        return None
    settings = form.checked_settings(_chosen(form, models))
    spec = spec_from(form, settings)
    try:
        if _has_errors(form):
            # The rest is checked as well, so that all errors stand there at once.
            clean(actor.project, {**form.values(), "settings": {}})
            return None
        return services.create_endpoint(actor=actor, spec=spec)
    except ValidationError as error:
        form.show(error)
        return None


def _change(
    actor: Actor, endpoint: Endpoint, form: EndpointForm, models: list[RegisteredModel]
) -> Endpoint | None:
    if not form.is_valid():
        return None
    settings = form.checked_settings(_chosen(form, models))
    variables = form.environment_change(_saved_variables(endpoint))
    values = {**form.values(), "settings": settings, "region": endpoint.region_id}
    try:
        if _has_errors(form):
            clean(actor.project, values, endpoint=endpoint)
            return None
        del values["region"]  # an endpoint stays where it is
        return services.update_endpoint(
            actor=actor,
            endpoint=endpoint,
            changes={**values, "environment": variables},
            allow_interruption=form.data.get("allow_interruption") == "on",
        )
    except ValidationError as error:
        form.show(error)
    except Conflict as conflict:
        form.add_error(None, conflict.message)
    return None


def _has_errors(form: EndpointForm) -> bool:
    """Errors of the inputs that are no fields of the form; says at the top where to look."""
    if form.setting_errors:
        form.add_error(None, _("Correct the model server's settings below."))
    if form.environment_errors:
        form.add_error(None, _("Correct the environment variables below."))
    return bool(form.setting_errors or form.environment_errors)


def _saved_variables(endpoint: Endpoint | None) -> list[str]:
    return sorted(endpoint.revision.environment) if endpoint and endpoint.revision else []


def _chosen(form: EndpointForm, models: list[RegisteredModel]) -> RegisteredModel | None:
    wanted = str(form["model_id"].value() or "")
    return next((model for model in models if str(model.pk) == wanted), None)


def _models(actor: Actor, endpoint: Endpoint | None = None) -> list[RegisteredModel]:
    """Those that can be served, by name; the endpoint's own always."""
    rows = RegisteredModel.objects.filter(project=actor.project).select_related("framework").order_by("name")
    own = endpoint.revision.model_id if endpoint and endpoint.revision else None
    return [model for model in rows if model.status == ModelStatus.READY or model.pk == own]


def _defaults(request: HttpRequest, models: list[RegisteredModel]) -> dict[str, Any]:
    regions = list(Region.objects.filter(enabled=True).values_list("code", flat=True))
    region = request.session.get("region")
    asked = request.GET.get("model", "")
    ids = [str(model.pk) for model in models]
    return {
        "region": region if region in regions else (regions[0] if regions else ""),
        "model_id": asked if asked in ids else (ids[0] if len(ids) == 1 else ""),
        "min_replicas": "1",
        "max_replicas": "1",
        "private": True,
    }


def _context(
    form: EndpointForm,
    models: list[RegisteredModel],
    endpoint: Endpoint | None = None,
    shown: Revision | None = None,
) -> dict[str, Any]:
    definitions: dict[str, FrameworkDefinition] = {}
    for model in models:
        if model.framework_id not in definitions:
            try:
                definitions[model.framework_id] = definition_of(model.framework)
            except DefinitionError:
                continue  # the service says so when this model is chosen
    chosen = _chosen(form, models)
    saved: dict[str, Any] = {}
    saved_framework = ""
    shown = shown or (endpoint.revision if endpoint else None)
    if shown:
        saved = dict(shown.settings)
        saved_framework = shown.model.framework_id
    return {
        "form": form,
        "models": models,
        "chosen_model": chosen,
        "regions": list(Region.objects.filter(enabled=True)),
        "types": _types(form, chosen, definitions, endpoint),
        "variables": form.environment_rows(_saved_variables(endpoint)),
        "setting_groups": setting_groups(definitions, form, saved, saved_framework),
        "hours": HOURS_A_MONTH,
        "usual": WINDOW_DEFAULTS,
        "ranges": RANGES,
    }


def _types(
    form: EndpointForm,
    chosen: RegisteredModel | None,
    definitions: dict[str, FrameworkDefinition],
    endpoint: Endpoint | None,
) -> list[dict[str, Any]]:
    """The instance types by family, each with the reason why it can't hold the chosen model or has no room.

    off    it can't be chosen; busy: it can, and waits for room
    """
    needs = None
    if chosen and chosen.framework_id in definitions:
        definition = definitions[chosen.framework_id]
        needs = ModelNeeds(definition.name, definition.device_kinds, chosen.size_bytes)
    wanted = str(form["instance_type"].value() or "")
    own = endpoint.revision.instance_type_id if endpoint and endpoint.revision else None
    lacking = _lacking(endpoint.region_id if endpoint else str(form["region"].value() or ""))
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in InstanceType.objects.filter(enabled=True):
        offer = Offer(row.gpu_count, row.vram_gib, row.memory_gib)
        unfit, lacks = misfit(needs, offer) if needs else "", lacking(row)
        reason = unfit or (shortage.in_brief(lacks.params) if lacks else "")
        never = bool(unfit) or (lacks is not None and lacks.for_good)
        groups.setdefault(row.family, []).append(
            {
                "row": row,
                "reason": reason,
                "chosen": row.name == wanted and (not never or row.name == own),
                "off": never and row.name != own,
                "busy": bool(reason) and not never and row.name != own,
            }
        )
    return [{"family": family, "rows": rows} for family, rows in groups.items()]


def _lacking(region: str) -> Callable[[InstanceType], NoRoom | None]:
    """Why the region has no room for a size; nothing is said before any machine is known."""
    if not region or not Node.objects.exists():
        return lambda size: None
    return Rooms(region).room_for
