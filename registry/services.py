"""Everything that changes a model because someone asked for it.

Each function checks that its actor may, is one transaction, and asks for the slow work after the commit. Bad input
raises ValidationError({field: [messages]}); a state that is against it raises Conflict.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from django.core.exceptions import PermissionDenied, ValidationError
from django.db import IntegrityError, transaction
from django.db.models import ProtectedError
from django.utils import timezone
from django.utils.translation import gettext as _

from config.errors import Conflict
from iam import audit
from iam.actors import Actor
from iam.roles import Permission
from registry import validation
from registry.frameworks import FrameworkDefinition, definition_of
from registry.live import model_changed
from registry.models import Framework, ModelStatus, ModelTask, RegisteredModel, Source
from registry.queue import import_now
from registry.validation import Errors
from registry.weights import weights_folder


@dataclass(frozen=True, slots=True)
class ImportSpec:
    """A model to import. Values are as typed: they are checked, not trusted.

    task         "" lets the import find out
    path         for `local`; for `image` optional model files that the container finds under /models
    files        for `huggingface`: names or patterns, () leaves the choice to the framework
    """

    name: str
    framework: str
    source: str
    task: str = ""
    path: str = ""
    repo_id: str = ""
    revision: str = "main"
    files: tuple[str, ...] = ()
    hub_token: str = field(default="", repr=False)
    image: str = ""
    port: int | str = 0
    health_path: str = ""
    command: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    registry_username: str = ""
    registry_password: str = field(default="", repr=False)
    settings: Mapping[str, Any] = field(default_factory=dict)


# What PATCH may change. Where the model comes from is what it is: another source is another model.
CHANGEABLE = frozenset(
    {"name", "task", "settings", "hub_token", "environment", "registry_username", "registry_password"}
)


def import_model(actor: Actor, spec: ImportSpec) -> RegisteredModel:
    """A new model in the actor's project; its import starts after the commit."""
    _authorise(actor)
    errors: Errors = {}
    name = validation.clean_name(spec.name, errors)
    framework = Framework.objects.filter(slug=spec.framework, enabled=True).first()
    columns: dict[str, Any] = {}
    if framework is None:
        validation.add(errors, "framework", _("Choose one of the frameworks in the list."))
    else:
        columns = _clean_columns(actor, spec, definition_of(framework), errors)
    _refuse_duplicate(actor, name, None, errors)
    if errors or framework is None:
        raise ValidationError({key: list(messages) for key, messages in errors.items()})
    try:
        with transaction.atomic():
            model = RegisteredModel.objects.create(
                project=actor.project, name=name, framework=framework, created_by=actor.user, **columns
            )
            audit.record(actor, "model.import", model, after=_state(model))
            _start(model)
    except IntegrityError as error:
        raise ValidationError({"name": [_duplicate(name)]}) from error
    return model


def retry_import(actor: Actor, model: RegisteredModel, *, hub_token: str = "") -> RegisteredModel:
    """Try a failed import again; a download goes on where it stopped. `hub_token` replaces the stored one."""
    _authorise(actor, model)
    values: dict[str, Any] = {"hub_token": hub_token} if hub_token else {}
    with transaction.atomic():
        failed = RegisteredModel.objects.filter(pk=model.pk, status=ModelStatus.FAILED)
        restarted = failed.update(
            status=ModelStatus.IMPORTING,
            reason_code="",
            reason_params={},
            lease_token="",
            lease_until=None,
            updated_at=timezone.now(),
            **values,
        )
        if not restarted:
            raise Conflict(_("Only a failed import can be retried."), code="not-failed")
        audit.record(actor, "model.retry_import", model, after=values)
        _start(model)
    model.refresh_from_db()
    return model


def reimport_model(actor: Actor, model: RegisteredModel) -> RegisteredModel:
    """Bring the model's files anew from where they came: what is here is missing or damaged. A failed import is
    retried. Replicas that run keep the files that they have open. Raises Conflict while an import runs."""
    _authorise(actor, model)
    if model.status == ModelStatus.FAILED:
        return retry_import(actor, model)
    folder = weights_folder(str(model.pk))
    with transaction.atomic():
        taken = RegisteredModel.objects.filter(pk=model.pk, status=ModelStatus.READY).update(
            status=ModelStatus.IMPORTING,
            lease_token="",
            lease_until=None,
            bytes_done=0,
            bytes_total=0,
            updated_at=timezone.now(),
        )
        if not taken:
            raise Conflict(_("It is being imported already."), code="importing")
        audit.record(actor, "model.reimport", model)
        # A download goes on with what it finds: the damaged files must not be among it.
        transaction.on_commit(lambda: shutil.rmtree(folder, ignore_errors=True))
        _start(model)
    model.refresh_from_db()
    return model


def update_model(actor: Actor, model: RegisteredModel, changes: Mapping[str, Any]) -> RegisteredModel:
    """Change name, task, default settings, environment or secrets. Running replicas keep what they started with."""
    _authorise(actor, model)
    errors: Errors = {}
    for key in changes.keys() - CHANGEABLE:
        validation.add(errors, key, _("This can't be changed. Import the model again."))
    values = _clean_changes(actor, model, changes, errors)
    if errors:
        raise ValidationError({key: list(messages) for key, messages in errors.items()})
    was = {key: getattr(model, key) for key in values}
    for key, value in values.items():
        setattr(model, key, value)
    before, after = audit.difference(_told(was), _told(values))
    try:
        with transaction.atomic():
            model.save(update_fields=[*values, "updated_at"])
            if before or after:
                audit.record(actor, "model.change", model, before=before, after=after)
            model_changed(model.project_id, str(model.pk))
    except IntegrityError as error:
        raise ValidationError({"name": [_duplicate(model.name)]}) from error
    return model


def delete_model(actor: Actor, model: RegisteredModel) -> None:
    """The model and its weights are gone for good. Raises Conflict while an endpoint uses it."""
    _authorise(actor, model)
    model_id, project_id = str(model.pk), model.project_id
    try:
        with transaction.atomic():
            # Read under the transaction's write lock: an endpoint created meanwhile is seen, or not there yet.
            RegisteredModel.objects.select_for_update().filter(pk=model_id).first()
            users = endpoints_using(model)
            if users:
                raise Conflict(_in_use(users), code="in-use")
            RegisteredModel.objects.filter(pk=model_id).delete()
            audit.record(actor, "model.delete", model, before=_state(model))
            transaction.on_commit(lambda: shutil.rmtree(weights_folder(model_id), ignore_errors=True))
            model_changed(project_id, model_id)
    except ProtectedError as error:
        raise Conflict(_in_use(endpoints_using(model)), code="in-use") from error


def endpoints_using(model: RegisteredModel) -> list[str]:
    """Names of the endpoints with a revision made of the model, sorted."""
    names = model.revisions.values_list("endpoint__name", flat=True)
    return sorted(set(names))


def _clean_columns(
    actor: Actor, spec: ImportSpec, definition: FrameworkDefinition, errors: Errors
) -> dict[str, Any]:
    validation.clean_source(spec.source, definition, errors)
    columns: dict[str, Any] = {
        "task": validation.clean_task(spec.task, definition, errors),
        "source": spec.source,
        "settings": validation.clean_settings(spec.settings, definition, errors),
    }
    if errors.keys() & {"source", "framework"}:
        return columns  # what they mean together is unknown, so nothing more can be said about the fields
    if spec.source == Source.LOCAL:
        columns["source_ref"] = {"path": validation.clean_path(spec.path, definition, errors)}
    elif spec.source == Source.HUGGING_FACE:
        repo_id, revision, files = validation.clean_hub(spec.repo_id, spec.revision, spec.files, errors)
        columns["source_ref"] = {"repo_id": repo_id, "revision": revision, "files": list(files)}
        columns["hub_token"] = spec.hub_token.strip()
    elif spec.source == Source.IMAGE:
        columns |= _clean_image_columns(actor, spec, definition, errors)
        columns["task"] = columns["task"] or ModelTask.CHAT  # nothing can be read from an image
    return columns


def _clean_image_columns(
    actor: Actor, spec: ImportSpec, definition: FrameworkDefinition, errors: Errors
) -> dict[str, Any]:
    image, port, health_path = validation.clean_image(spec.image, spec.port, spec.health_path, errors)
    username, password = validation.clean_credentials(
        actor, spec.registry_username, spec.registry_password, errors
    )
    source_ref: dict[str, Any] = {"image": image, "port": port, "health_path": health_path}
    if spec.command:
        source_ref["command"] = validation.clean_command(spec.command, errors)
    if spec.path.strip():
        source_ref["path"] = validation.clean_path(spec.path, definition, errors)
    environment = validation.clean_environment(spec.environment, errors)
    return {
        "source_ref": source_ref,
        "environment": json.dumps(environment) if environment else "",
        "registry_username": username,
        "registry_password": password,
    }


def _clean_changes(
    actor: Actor, model: RegisteredModel, changes: Mapping[str, Any], errors: Errors
) -> dict[str, Any]:
    definition = definition_of(model.framework)
    values: dict[str, Any] = {}
    if "name" in changes:
        values["name"] = validation.clean_name(str(changes["name"] or ""), errors)
        _refuse_duplicate(actor, values["name"], model, errors)
    if "task" in changes:
        values["task"] = validation.clean_task(str(changes["task"] or ""), definition, errors)
        if not values["task"]:
            validation.add(errors, "task", _("Choose a task."))
    if "settings" in changes:
        values["settings"] = validation.clean_settings(changes["settings"] or {}, definition, errors)
    if "hub_token" in changes:
        values["hub_token"] = str(changes["hub_token"] or "").strip()
    if "environment" in changes:
        environment = validation.clean_environment(changes["environment"] or {}, errors)
        values["environment"] = json.dumps(environment) if environment else ""
    if changes.keys() & {"registry_username", "registry_password"}:
        values["registry_username"], values["registry_password"] = validation.clean_credentials(
            actor,
            str(changes.get("registry_username", model.registry_username) or ""),
            str(changes.get("registry_password", model.registry_password) or ""),
            errors,
        )
    return values


def _state(model: RegisteredModel) -> dict[str, Any]:
    """The model as the audit log tells it; its secrets are masked there, those that it does not have are left out."""
    secrets = ("hub_token", "registry_username", "registry_password", "environment")
    values = {"name": model.name, "framework": model.framework_id, "task": model.task, "source": model.source}
    kept = {name: getattr(model, name) for name in secrets if getattr(model, name)}
    return _told({**values, "source_ref": model.source_ref, "settings": model.settings, **kept})


def _told(values: Mapping[str, Any]) -> dict[str, Any]:
    """A field for each setting and each variable."""
    told = dict(values)
    told |= {f"settings.{key}": value for key, value in told.pop("settings", {}).items()}
    environment = told.pop("environment", "")
    variables = json.loads(environment) if environment else {}
    return {**told, **{f"environment.{key}": value for key, value in variables.items()}}


def _start(model: RegisteredModel) -> None:
    model_id = str(model.pk)
    transaction.on_commit(lambda: import_now(model_id))
    model_changed(model.project_id, model_id)


def _refuse_duplicate(actor: Actor, name: str, model: RegisteredModel | None, errors: Errors) -> None:
    same = RegisteredModel.objects.filter(project=actor.project, name=name)
    if model is not None:
        same = same.exclude(pk=model.pk)
    if name and same.exists():
        validation.add(errors, "name", _duplicate(name))


def _duplicate(name: str) -> str:
    return _("There is already a model named %(name)s in this project.") % {"name": name}


def _in_use(users: list[str]) -> str:
    shown = ", ".join(users[:5]) + (" …" if len(users) > 5 else "")
    return _("These endpoints use the model: %(endpoints)s. Delete them first.") % {"endpoints": shown}


def _authorise(actor: Actor, model: RegisteredModel | None = None) -> None:
    if not actor.may(Permission.EDIT):
        raise PermissionDenied(_("Only editors and admins of a project change its models."))
    if model is not None and model.project_id != actor.project.pk:
        raise PermissionDenied(_("This model belongs to another project."))
