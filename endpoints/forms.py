"""The form of the create and settings pages.

It turns text into numbers and collects framework settings, and no more: the rules are in `endpoints.validation`,
which names every field's errors at once. A number that is none stays the text it was, so that the rule's own
message stands at its field and what was typed is still there.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from django import forms
from django.core.exceptions import ValidationError
from django.http import QueryDict
from django.utils.translation import gettext_lazy as _

from endpoints.limits import LABELS, LIMITS
from endpoints.models import Endpoint, Revision
from endpoints.services import EndpointSpec, present_values
from endpoints.validation import WINDOW_DEFAULTS
from registry.frameworks import DefinitionError, FrameworkDefinition, definition_of, validate_settings
from registry.models import RegisteredModel

if TYPE_CHECKING:
    from django_stubs_ext import StrOrPromise

_SHOWN = "env-shown"  # sent by pages that show the variables
_INTEGER = re.compile(r"[+-]?\d{1,15}")
NUMBERS = (
    "min_replicas",
    "max_replicas",
    "cpu_percent",
    "memory_percent",
    "gpu_percent",
    "latency_ms",
    "in_flight",
    "idle_timeout_s",
    "scale_up_after_s",
    "scale_down_after_s",
    *LIMITS,
)
THRESHOLDS = NUMBERS[2:7]  # what replicas are added for
TIMES = NUMBERS[7:10]


def setting_input(framework: str, key: str) -> str:
    """The input's name of a framework setting."""
    return f"setting.{framework}.{key}"


def _number(label: StrOrPromise) -> forms.CharField:
    widget = forms.TextInput(attrs={"inputmode": "numeric", "autocomplete": "off", "class": "num"})
    # No longest length: its message would come before the rule's own, and alone.
    return forms.CharField(label=label, required=False, widget=widget)


class EndpointForm(forms.Form):
    """Every field of an endpoint, as text."""

    name = forms.CharField(
        required=False,
        max_length=200,
        strip=True,
        widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false", "data-max": "50"}),
    )
    region = forms.CharField(required=False, max_length=40)
    model_id = forms.CharField(required=False, max_length=60)
    instance_type = forms.CharField(required=False, max_length=80)
    min_replicas = _number(_("Min replicas"))
    max_replicas = _number(_("Max replicas"))
    private = forms.BooleanField(required=False)
    cpu_percent = _number(_("CPU (%)"))
    memory_percent = _number(_("RAM (%)"))
    gpu_percent = _number(_("GPU utilisation (%)"))
    latency_ms = _number(_("Response latency (ms)"))
    in_flight = _number(_("Requests in flight per replica"))
    idle_timeout_s = _number(_("Idle timeout (s)"))
    scale_up_after_s = _number(_("Scale up after (s)"))
    scale_down_after_s = _number(_("Scale down after (s)"))
    requests_per_minute = _number(LABELS["requests_per_minute"])
    tokens_per_minute = _number(LABELS["tokens_per_minute"])
    tokens_per_month = _number(LABELS["tokens_per_month"])
    max_concurrency = _number(LABELS["max_concurrency"])

    def values(self) -> dict[str, Any]:
        """EndpointSpec's fields from valid or half-valid input; call after is_valid(). Limits are left out by a page
        that shows none: who may not set them changes none."""
        values: dict[str, Any] = {}
        for name in self.fields:
            if name in LIMITS and name not in self.data:
                continue
            typed = self.cleaned_data.get(name)
            values[name] = _coerce(typed) if name in NUMBERS else typed
        for name in ("name", "region", "model_id", "instance_type"):
            values[name] = values[name] or ""
        return values

    def settings_for(self, model: RegisteredModel | None) -> dict[str, str]:
        """What was typed into the settings of the model's framework; empty inputs are left to the default."""
        if model is None:
            return {}
        prefix = setting_input(model.framework_id, "")
        return {
            key.removeprefix(prefix): str(value)
            for key, value in self.data.items()
            if key.startswith(prefix) and str(value).strip()
        }

    def checked_settings(self, model: RegisteredModel | None) -> dict[str, Any]:
        """The typed settings if they are right; else their errors stand at their inputs and this is {}."""
        typed = self.settings_for(model)
        if model is None or not typed:
            return {}
        try:
            return dict(validate_settings(definition_of(model.framework), typed))
        except ValidationError as error:
            self.setting_errors = {
                setting_input(model.framework_id, key): messages
                for key, messages in error.message_dict.items()
            }
        except DefinitionError as error:
            self.setting_errors = {"": [str(error)]}
        return {}

    setting_errors: Mapping[str, list[str]] = {}
    environment_errors: Sequence[str] = ()

    def environment_rows(self, saved: Collection[str]) -> list[dict[str, Any]]:
        """The variables' inputs: what was typed, else the names that are saved (their values are never shown), and
        an empty row for one more."""
        rows = [{"name": name, "value": "", "saved": True} for name in sorted(saved)]
        if self.is_bound and _SHOWN in self.data:
            rows = [
                {"name": name, "value": value, "saved": name in saved} for name, value in self._variables()
            ]
        return [*rows, {"name": "", "value": "", "saved": False}]

    def environment_change(self, saved: Collection[str]) -> dict[str, str | None]:
        """The typed variables as a change to the saved ones (endpoints.environment). An empty value leaves a saved
        variable as it is; one whose row is gone is removed. Nothing is changed by a page that showed no variables."""
        if _SHOWN not in self.data:
            return {}
        change: dict[str, str | None] = dict.fromkeys(saved)
        errors: list[str] = []
        for name, value in self._variables():
            if not name:
                errors.append(str(_("Enter a name for each value.")))
            elif change.get(name) is not None or (name not in change and name in saved):
                errors.append(str(_("%(name)s stands there twice.")) % {"name": name})
            elif name in saved and not value:
                del change[name]
            else:
                change[name] = value
        if errors:
            self.environment_errors = errors
        return change

    def _variables(self) -> list[tuple[str, str]]:
        """The rows that hold something, as typed."""
        if not isinstance(self.data, QueryDict):
            return []
        rows = zip(self.data.getlist("env-name"), self.data.getlist("env-value"), strict=False)
        return [(name.strip(), value) for name, value in rows if name.strip() or value]

    def show(self, error: ValidationError) -> None:
        """Put a service's errors at their fields, the rest at the top."""
        messages = error.message_dict if hasattr(error, "error_dict") else {"__all__": error.messages}
        for name, texts in messages.items():
            if name == "environment":
                self.environment_errors = texts
                continue
            for text in texts:
                self.add_error(name if name in self.fields else None, text)

    @property
    def advanced_open(self) -> bool:
        """Whether a threshold or time is set, so that nothing typed is ever out of sight."""
        if any(self[name].errors for name in (*THRESHOLDS, *TIMES)):
            return True
        usual = {name: str(seconds) for name, seconds in WINDOW_DEFAULTS.items()}
        return any(self._typed(name) not in ("", usual.get(name)) for name in (*THRESHOLDS, *TIMES))

    @property
    def limits_open(self) -> bool:
        """Whether a limit is set, or typed wrongly."""
        return any(self._typed(name) or self[name].errors for name in LIMITS)

    @property
    def scaling_notes(self) -> dict[str, bool]:
        """What is allowed and does nothing, or less than one may think. static/js/endpoint-form.js says the same while
        one types.

        no_threshold   there is room to grow, and nothing to grow for
        no_room        thresholds are set, and min and max leave no room between them
        never_idle     it may not sleep, and has an idle timeout
        """
        low, high = _coerce(self._typed("min_replicas")), _coerce(self._typed("max_replicas"))
        if not isinstance(low, int) or not isinstance(high, int) or low > high:
            return {"no_threshold": False, "no_room": False, "never_idle": False}
        some = any(self._typed(name) for name in THRESHOLDS)
        room = high > max(low, 1)
        return {
            "no_threshold": room and not some,
            "no_room": some and not room,
            "never_idle": low > 0 and bool(self._typed("idle_timeout_s")),
        }

    def _typed(self, name: str) -> str:
        value = self[name].value()
        return "" if value is None else str(value).strip()


def _coerce(typed: Any) -> int | str | None:
    text = str(typed or "").strip()
    if not text:
        return None
    return int(text) if _INTEGER.fullmatch(text) else text


def spec_from(form: EndpointForm, settings: Mapping[str, Any]) -> EndpointSpec:
    """The request that the service checks."""
    variables = {name: value for name, value in form.environment_change(()).items() if value is not None}
    return EndpointSpec(**form.values(), settings=settings, environment=variables)


def initial_of(endpoint: Endpoint, shown: Revision | None = None) -> dict[str, Any]:
    """The settings page's form as the endpoint is now, or as it would be with the revision `shown`. Settings and
    variables have inputs of their own."""
    values = present_values(endpoint)
    del values["settings"], values["environment"]
    if shown is not None:
        values |= {"model_id": str(shown.model_id), "instance_type": shown.instance_type_id}
    return {**values, "region": endpoint.region_id}


def setting_groups(
    definitions: Mapping[str, FrameworkDefinition],
    form: EndpointForm,
    saved: Mapping[str, Any],
    saved_framework: str,
) -> list[dict[str, Any]]:
    """For the template: each framework's settings with what was typed, else what is saved."""
    groups = []
    for slug, definition in definitions.items():
        rows = []
        for setting in definition.settings:
            name = setting_input(slug, setting.key)
            value = saved.get(setting.key, "") if slug == saved_framework else ""
            if form.is_bound:
                value = form.data.get(name, "")
            elif isinstance(value, bool):
                value = "true" if value else "false"
            rows.append(
                {
                    "name": name,
                    "setting": setting,
                    "value": str(value),
                    "default": _shown_default(setting.default),
                    "errors": form.setting_errors.get(name, []),
                }
            )
        if rows:
            groups.append({"slug": slug, "name": definition.name, "rows": rows})
    return groups


def _shown_default(default: Any) -> str:
    if default is None:
        return ""
    if isinstance(default, bool):
        return str(_("yes") if default else _("no"))
    return str(default)
