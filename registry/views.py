"""The registry's pages: the list, the import, one model."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib import messages
from django.core.exceptions import ValidationError
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST, require_safe

from config.errors import Conflict
from iam.access import require
from iam.actors import Actor, current_actor
from iam.roles import Permission
from registry import selectors, services
from registry.errors import reason_of
from registry.forms import ImportForm, initial_from
from registry.frameworks import DefinitionError, FrameworkDefinition, definition_of
from registry.importing.paths import list_models
from registry.models import RegisteredModel


@require(Permission.VIEW)
@require_safe
def model_list(request: HttpRequest) -> HttpResponse:
    """The project's models, newest first; the page follows them live."""
    actor = current_actor(request)
    rows = selectors.shown_models(actor.project)
    context = {"models": rows, "project": actor.project, "can_edit": actor.may(Permission.EDIT)}
    return render(request, "registry/list.html", context)


@require(Permission.EDIT)
def import_page(request: HttpRequest) -> HttpResponse:
    """The import form, and its submission. `?from=<id>` fills it from a model, `?repo_id=` with a repository."""
    actor = current_actor(request)
    definitions = _definitions()
    if request.method != "POST":
        form = ImportForm(definitions, initial=_initial(request, actor))
        return render(request, "registry/import.html", _form_context(actor, form))
    form = ImportForm(definitions, request.POST)
    model = _import(actor, form)
    if model is None:
        return render(request, "registry/import.html", _form_context(actor, form), status=422)
    messages.success(request, _("%(name)s is being imported.") % {"name": model.name})
    return HttpResponseRedirect(reverse("registry:detail", args=[model.pk]))


@require(Permission.VIEW)
@require_safe
def detail(request: HttpRequest, model_id: uuid.UUID) -> HttpResponse:
    """What a model is, where it comes from, who uses it."""
    actor = current_actor(request)
    return render(request, "registry/detail.html", _detail_context(actor, _model(actor, model_id)))


@require(Permission.VIEW)
@require_safe
def state(request: HttpRequest, model_id: uuid.UUID) -> HttpResponse:
    """The changing part of a model's page, while its import runs."""
    actor = current_actor(request)
    return render(request, "registry/_state.html", _detail_context(actor, _model(actor, model_id)))


@require(Permission.EDIT)
@require_POST
def retry(request: HttpRequest, model_id: uuid.UUID) -> HttpResponse:
    """Try a failed import again, with another token if one was given."""
    actor = current_actor(request)
    model = _model(actor, model_id)
    try:
        services.retry_import(actor, model, hub_token=request.POST.get("hub_token", "").strip())
    except Conflict as conflict:
        messages.error(request, conflict.message)
    else:
        messages.success(request, _("%(name)s is being imported.") % {"name": model.name})
    if request.POST.get("back") == "list":
        return HttpResponseRedirect(reverse("registry:list"))
    return HttpResponseRedirect(reverse("registry:detail", args=[model.pk]))


@require(Permission.ADMINISTER)
@require_POST
def credentials(request: HttpRequest, model_id: uuid.UUID) -> HttpResponse:
    """Other credentials for the registry of a container's image; both empty: none."""
    actor = current_actor(request)
    model = _model(actor, model_id)
    changes = {key: request.POST.get(key, "") for key in ("registry_username", "registry_password")}
    try:
        services.update_model(actor, model, changes)
    except ValidationError as error:
        messages.error(request, " ".join(error.messages))
    else:
        messages.success(request, _("Saved. The next time an image is fetched, they are used."))
    return HttpResponseRedirect(reverse("registry:detail", args=[model.pk]) + "#credentials")


@require(Permission.EDIT)
@require_POST
def delete(request: HttpRequest, model_id: uuid.UUID) -> HttpResponse:
    """Delete a model that no endpoint uses."""
    actor = current_actor(request)
    model = _model(actor, model_id)
    try:
        services.delete_model(actor, model)
    except Conflict as conflict:
        messages.error(request, conflict.message)
        return HttpResponseRedirect(reverse("registry:detail", args=[model.pk]))
    messages.success(request, _("%(name)s was deleted.") % {"name": model.name})
    return HttpResponseRedirect(reverse("registry:list"))


def _model(actor: Actor, model_id: uuid.UUID) -> RegisteredModel:
    model = selectors.model_of(actor.project, model_id)
    if model is None:
        raise Http404(_("There is no such model in this project."))
    return model


def _definitions() -> dict[str, FrameworkDefinition]:
    """The frameworks to choose from, llama.cpp first: it runs everywhere. One that was edited badly is left out."""
    found: dict[str, FrameworkDefinition] = {}
    for framework in sorted(selectors.frameworks(), key=lambda row: (row.slug != "llama-cpp", row.name)):
        try:
            found[framework.slug] = definition_of(framework)
        except DefinitionError:
            continue
    return found


def _initial(request: HttpRequest, actor: Actor) -> dict[str, Any]:
    again = selectors.model_of(actor.project, request.GET.get("from", ""))
    if again is not None:
        return initial_from(again)
    repo_id = request.GET.get("repo_id", "")
    return {"source": "huggingface", "repo_id": repo_id} if repo_id else {"source": "local"}


def _import(actor: Actor, form: ImportForm) -> RegisteredModel | None:
    form.is_valid()
    try:
        return services.import_model(actor, form.spec())
    except ValidationError as error:
        form.show(error)
    return None


def _form_context(actor: Actor, form: ImportForm) -> dict[str, Any]:
    root = Path(settings.BERTH_MODELS_ROOT)
    return {
        "form": form,
        "root": root,
        "files": list_models(root),
        "catalog": selectors.catalog(),
        "groups": form.setting_groups(),
        "definitions": form.definitions.values(),
        "can_administer": actor.may(Permission.ADMINISTER),
    }


def _detail_context(actor: Actor, model: RegisteredModel) -> dict[str, Any]:
    definition = definition_of(model.framework)
    return {
        "model": model,
        "definition": definition,
        "reason": reason_of(model),
        "can_administer": actor.may(Permission.ADMINISTER),
        "settings": selectors.settings_of(model, definition),
        "endpoints": selectors.endpoints_of(model),
        "variables": sorted(selectors.environment_of(model)),
        "can_edit": actor.may(Permission.EDIT),
    }
