"""What saving the settings form as it stands would do: shown beside the button before anybody presses it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.core.exceptions import ValidationError
from django.utils.translation import gettext_lazy as _

from config.errors import Conflict
from endpoints import environment, revisions
from endpoints.forms import EndpointForm
from endpoints.interruption import NeedsInterruption, is_needed
from endpoints.models import Endpoint, InstanceType
from endpoints.revisions import Change, Configuration
from endpoints.services import present_values
from endpoints.validation import WINDOW_DEFAULTS
from registry.models import RegisteredModel

_IN_PLACE = {
    "name": _("name"),
    "private": _("private access"),
    "min_replicas": _("min replicas"),
    "max_replicas": _("max replicas"),
    "cpu_percent": _("CPU threshold"),
    "memory_percent": _("RAM threshold"),
    "gpu_percent": _("GPU threshold"),
    "latency_ms": _("latency threshold"),
    "in_flight": _("threshold of requests in flight"),
    "idle_timeout_s": _("idle timeout"),
    "scale_up_after_s": _("time before scaling up"),
    "scale_down_after_s": _("time before scaling down"),
    "requests_per_minute": _("limit of requests a minute"),
    "tokens_per_minute": _("limit of tokens a minute"),
    "tokens_per_month": _("limit of tokens a month"),
    "max_concurrency": _("limit of requests at once"),
}


@dataclass(frozen=True, slots=True)
class Preview:
    """changes    what a new revision would change; none: no revision
    in_place   what takes effect at once, in words
    question   why it needs an interruption, "" if it doesn't
    refusal    why it can't be rolled out at all now, "" if it can
    allowed    whether the interruption is ticked
    """

    changes: list[Change]
    in_place: list[str]
    question: str = ""
    refusal: str = ""
    allowed: bool = False


def preview(endpoint: Endpoint, form: EndpointForm, model: RegisteredModel | None) -> Preview:
    """From the typed form. What is not right yet counts as unchanged: its error stands at its field when saved."""
    if not form.is_bound or endpoint.revision is None:
        return Preview([], [])
    wrong = set(form.errors)
    present = revisions.of_revision(endpoint.revision)
    asked = _asked(present, form, model)
    changes = revisions.diff(present, asked)
    before = present_values(endpoint)
    values = form.values()
    values |= {name: usual for name, usual in WINDOW_DEFAULTS.items() if values[name] is None}
    in_place = [
        str(label)
        for name, label in _IN_PLACE.items()
        if name not in wrong and _differ(before[name], values.get(name, before[name]))
    ]
    allowed = form.data.get("allow_interruption") == "on"
    if not changes:
        return Preview([], in_place)
    try:
        is_needed(endpoint, asked.instance_type, allowed=False)
    except NeedsInterruption as question:
        return Preview(changes, in_place, question=question.message, allowed=allowed)
    except Conflict as conflict:
        return Preview(changes, in_place, refusal=conflict.message)
    return Preview(changes, in_place)


def _differ(before: Any, after: Any) -> bool:
    return (before or None) != (after or None)


def _asked(present: Configuration, form: EndpointForm, model: RegisteredModel | None) -> Configuration:
    settings = form.checked_settings(model)
    if form.setting_errors:
        settings = dict(present.settings)
    try:
        variables = environment.merge(present.environment, form.environment_change(present.environment))
    except ValidationError:
        variables = dict(present.environment)
    size = InstanceType.objects.filter(pk=form.values()["instance_type"], enabled=True).first()
    return Configuration(model or present.model, size or present.instance_type, settings, variables)
