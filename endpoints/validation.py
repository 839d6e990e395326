"""The rules of contract §4 for an endpoint's fields. Form and API both come through here."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.utils.translation import gettext as _

from endpoints.limits import LIMITS
from endpoints.models import Endpoint, InstanceType, Region
from iam.models import Project
from registry import frameworks
from registry.models import ModelStatus, RegisteredModel

# What a replica is made of: changing one of these makes a revision (contract §4).
REVISION_FIELDS = frozenset({"model_id", "instance_type", "settings", "environment"})

_NAME = re.compile(r"[A-Za-z0-9_-]{1,50}")
# How long a metric must stay beyond its threshold before replicas are added, or removed: seconds.
WINDOW_DEFAULTS = {"scale_up_after_s": 15, "scale_down_after_s": 300}
WINDOW_MOST_S = 3600
IN_FLIGHT_MOST = 100_000
_PERCENT_FIELDS = ("cpu_percent", "memory_percent", "gpu_percent")
Errors = dict[str, list[str]]


def clean(project: Project, values: Mapping[str, Any], endpoint: Endpoint | None = None) -> dict[str, Any]:
    """`values` (EndpointSpec's fields) with the rows they name: adds `model`, replaces `region` and
    `instance_type`. Raises ValidationError with every field's errors at once."""
    errors: Errors = {}
    cleaned = dict(values)
    cleaned["region"] = _region(values["region"], errors)
    cleaned["model"] = _model(project, values["model_id"], errors)
    cleaned["instance_type"] = _instance_type(values["instance_type"], errors)
    _check_name(project, cleaned, endpoint, errors)
    _check_replicas(cleaned, errors)
    _check_thresholds(cleaned, errors)
    _check_limits(cleaned, errors)
    if cleaned["model"] and not errors:
        _check_fit(cleaned, errors)
    if errors:
        raise ValidationError(errors)
    return cleaned


def clean_scaling(values: Mapping[str, Any], instance_type: InstanceType | None) -> dict[str, Any]:
    """Counts, thresholds and times alone, by the same rules, for what is tried and not saved."""
    errors: Errors = {}
    cleaned = {**values, "instance_type": instance_type}
    _check_replicas(cleaned, errors)
    _check_thresholds(cleaned, errors)
    if errors:
        raise ValidationError(errors)
    return cleaned


def duplicate_name(name: str) -> ValidationError:
    """The error for a name that is taken."""
    return ValidationError(
        {"name": [_("There is already an endpoint named %(name)s in this region.") % {"name": name}]}
    )


def _add(errors: Errors, field: str, message: str) -> None:
    errors.setdefault(field, []).append(message)


def _region(code: Any, errors: Errors) -> Region | None:
    region = Region.objects.filter(code=str(code), enabled=True).first()
    if region is None:
        _add(errors, "region", _("Choose one of the regions in the list."))
    return region


def _instance_type(name: Any, errors: Errors) -> InstanceType | None:
    instance_type = InstanceType.objects.filter(name=str(name), enabled=True).first()
    if instance_type is None:
        _add(errors, "instance_type", _("Choose one of the instance types in the list."))
    return instance_type


def _model(project: Project, model_id: Any, errors: Errors) -> RegisteredModel | None:
    try:
        key = uuid.UUID(str(model_id))
    except ValueError:
        _add(errors, "model_id", _("Choose a model."))
        return None
    model = RegisteredModel.objects.select_related("framework").filter(project=project, pk=key).first()
    if model is None:
        _add(errors, "model_id", _("This model is not in the registry any more. Choose another one."))
    elif model.status != ModelStatus.READY:
        _add(errors, "model_id", _("This model is not ready: its import is still running or has failed."))
        return None
    return model


def _check_name(project: Project, cleaned: dict[str, Any], endpoint: Endpoint | None, errors: Errors) -> None:
    name = str(cleaned["name"] or "")
    if not name:
        _add(errors, "name", _("Enter a name."))
    elif not _NAME.fullmatch(name):
        _add(errors, "name", _("Use 1 to 50 letters A–Z a–z, digits, hyphens or underscores; nothing else."))
    elif cleaned["region"]:
        same = Endpoint.objects.filter(project=project, region=cleaned["region"], name=name)
        if endpoint:
            same = same.exclude(pk=endpoint.pk)
        if same.exists():
            _add(errors, "name", duplicate_name(name).message_dict["name"][0])


def _whole(
    cleaned: dict[str, Any], field: str, low: int, high: int, errors: Errors, message: str
) -> int | None:
    value = cleaned[field]
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        _add(errors, field, message)
        return None
    return value


def _check_replicas(cleaned: dict[str, Any], errors: Errors) -> None:
    most = settings.BERTH_MAX_REPLICAS
    for field in ("min_replicas", "max_replicas"):
        if cleaned[field] is None:
            _add(errors, field, _("Enter a number."))
    low_ok = _whole(
        cleaned,
        "min_replicas",
        0,
        most,
        errors,
        _("Enter a whole number from 0 to %(most)s.") % {"most": most},
    )
    high_ok = _whole(
        cleaned,
        "max_replicas",
        1,
        most,
        errors,
        _("Enter a whole number from 1 to %(most)s.") % {"most": most},
    )
    if low_ok is not None and high_ok is not None and low_ok > high_ok:
        _add(
            errors,
            "min_replicas",
            _("Min replicas can't be more than max replicas (%(max)s).") % {"max": high_ok},
        )
    if low_ok == 0 and cleaned["idle_timeout_s"] is None:
        _add(
            errors, "idle_timeout_s", _("With min replicas 0, say after how many idle seconds it may sleep.")
        )


def _check_thresholds(cleaned: dict[str, Any], errors: Errors) -> None:
    for field in _PERCENT_FIELDS:
        _whole(cleaned, field, 1, 100, errors, _("Enter a whole percentage from 1 to 100."))
    _whole(cleaned, "latency_ms", 1, 600_000, errors, _("Enter milliseconds from 1 to 600000."))
    _whole(cleaned, "idle_timeout_s", 1, 30 * 86_400, errors, _("Enter seconds from 1 to 2592000 (30 days)."))
    _whole(
        cleaned,
        "in_flight",
        1,
        IN_FLIGHT_MOST,
        errors,
        _("Enter a whole number of requests from 1 to %(most)s.") % {"most": IN_FLIGHT_MOST},
    )
    for field, default in WINDOW_DEFAULTS.items():
        if cleaned[field] is None:
            cleaned[field] = default
        _whole(
            cleaned,
            field,
            0,
            WINDOW_MOST_S,
            errors,
            _("Enter seconds from 0 to %(most)s.") % {"most": WINDOW_MOST_S},
        )
    instance_type = cleaned["instance_type"]
    if instance_type and not instance_type.gpu_count and cleaned["gpu_percent"] is not None:
        _add(
            errors, "gpu_percent", _("This instance type has no GPU. Leave this empty or choose a GPU type.")
        )


def _check_limits(cleaned: dict[str, Any], errors: Errors) -> None:
    for field, most in LIMITS.items():
        message = _("Enter a whole number from 1 to %(most)s, or leave it empty for no limit.")
        cleaned.setdefault(field, None)
        _whole(cleaned, field, 1, most, errors, message % {"most": most})


def _check_fit(cleaned: dict[str, Any], errors: Errors) -> None:
    model, instance_type = cleaned["model"], cleaned["instance_type"]
    definition = frameworks.definition_of(model.framework)
    device = "gpu" if instance_type.gpu_count else "cpu"
    if device not in definition.device_kinds:
        _add(
            errors,
            "instance_type",
            _("%(framework)s runs on %(kinds)s only; choose another instance type.")
            % {"framework": definition.name, "kinds": "/".join(definition.device_kinds).upper()},
        )
    try:
        cleaned["settings"] = frameworks.validate_settings(definition, cleaned["settings"])
    except ValidationError as error:
        _add(errors, "settings", " ".join(error.messages))
