"""The form of the import page.

It turns text into lists and numbers, and no more: the rules are in `registry.validation`, which names every field's
errors at once. Whatever was typed is shown again after an error, except secrets.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.utils.translation import gettext_lazy as _

from registry.frameworks import FrameworkDefinition, Setting
from registry.models import ModelTask, RegisteredModel, Source
from registry.services import ImportSpec

_CODE = {"autocomplete": "off", "spellcheck": "false", "autocapitalize": "off"}


def setting_input(framework: str, key: str) -> str:
    """The input's name of a framework's setting."""
    return f"setting.{framework}.{key}"


def _text(label: Any, help_text: Any = "", **attrs: str) -> forms.CharField:
    widget = forms.TextInput(attrs={**_CODE, **attrs})
    return forms.CharField(label=label, help_text=help_text, required=False, widget=widget)


def _secret(label: Any, help_text: Any = "") -> forms.CharField:
    # Never rendered back: PasswordInput drops its value. "new-password" keeps browsers from filling one in.
    widget = forms.PasswordInput(attrs={"autocomplete": "new-password", "spellcheck": "false"})
    return forms.CharField(label=label, help_text=help_text, required=False, strip=False, widget=widget)


@dataclass(frozen=True, slots=True)
class SettingRow:
    """One setting as the page shows it."""

    setting: Setting
    name: str
    value: str
    errors: list[str]


@dataclass(frozen=True, slots=True)
class SettingGroup:
    """A framework's settings."""

    slug: str
    name: str
    rows: tuple[SettingRow, ...]


class ImportForm(forms.Form):
    """Every field of every source; which ones count depends on `source`."""

    name = _text(
        _("Name"),
        _("Letters, digits and . _ : / @ + -, unique in the project. Clients send it as “model”."),
        placeholder="Qwen2.5-0.5B-Instruct",
    )
    source = forms.CharField(
        label=_("Source"),
        required=False,
        initial=Source.LOCAL,
        widget=forms.RadioSelect(choices=Source.choices),
    )
    framework = forms.CharField(label=_("Framework"), required=False, widget=forms.Select)
    task = forms.CharField(
        label=_("Task"),
        required=False,
        widget=forms.Select(
            choices=[("", _("Find out from the files (an image: text generation)")), *ModelTask.choices]
        ),
    )
    path = _text(_("File or folder"), list="models-on-disk")
    repo_id = _text(
        _("Repository"),
        _("owner/name, or the address of its page."),
        list="catalog",
        placeholder="Qwen/Qwen2.5-0.5B-Instruct-GGUF",
    )
    revision = _text(_("Revision"), _("A branch, a tag or a commit."), placeholder="main")
    patterns = _text(
        _("Files"),
        _("Names or patterns, separated by commas. Left empty: what the framework needs."),
        placeholder="*Q4_K_M.gguf",
    )
    hub_token = _secret(
        _("Access token"), _("For private and gated repositories. Stored encrypted and never shown again.")
    )
    image = _text(_("Image"), placeholder="registry.example.com/team/server:1.0")
    port = _text(_("Port"), _("The port that its server listens on."), inputmode="numeric")
    health_path = _text(
        _("Health path"), _("Answers 2xx once the model can be called."), placeholder="/health"
    )
    command = _text(
        _("Arguments"),
        _("For the image's entrypoint, as in a shell. Left empty: the image's own."),
    )
    environment = forms.CharField(
        label=_("Environment"),
        help_text=_("One NAME=value a line. Stored encrypted."),
        required=False,
        strip=False,
        widget=forms.Textarea(attrs={**_CODE, "rows": "4", "placeholder": "LOG_LEVEL=info"}),
    )
    model_files = _text(
        _("Model files"),
        _("Optional: a file or folder that the container finds under /models."),
        list="models-on-disk",
    )
    registry_username = _text(_("Registry user"))
    registry_password = _secret(_("Registry password"), _("Stored encrypted and never shown again."))

    def __init__(self, definitions: Mapping[str, FrameworkDefinition], *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.definitions = definitions
        own = [d for d in definitions.values() if "image" not in d.accepts]
        framework = self.fields["framework"].widget
        assert isinstance(framework, forms.Select)
        framework.choices = [(d.slug, f"{d.name} {d.version}".strip()) for d in own]
        self.setting_errors: dict[str, list[str]] = {}

    def spec(self) -> ImportSpec:
        """The request that the service checks. Raises ValidationError for text that is no list of its kind.

        Call after is_valid(), whatever it said.
        """
        values = {name: str(self.cleaned_data.get(name) or self._typed(name)) for name in self.fields}
        source = values["source"]
        framework = self.chosen_framework()
        image = source == Source.IMAGE
        return ImportSpec(
            name=values["name"],
            framework=framework,
            source=source,
            task=values["task"],
            path=values["model_files"] if image else values["path"],
            repo_id=values["repo_id"],
            revision=values["revision"],
            files=tuple(values["patterns"].split(",")),
            hub_token=values["hub_token"],
            image=values["image"],
            port=values["port"],
            health_path=values["health_path"],
            command=_words(values["command"]) if image else (),
            environment=_variables(values["environment"]) if image else {},
            registry_username=values["registry_username"],
            registry_password=values["registry_password"],
            settings=self._settings(framework),
        )

    def chosen_framework(self) -> str:
        """What was chosen; for a container image the framework that takes images."""
        if self._typed("source") == Source.IMAGE:
            return next((slug for slug, d in self.definitions.items() if "image" in d.accepts), "")
        return self._typed("framework")

    def show(self, error: ValidationError) -> None:
        """Put a service's errors at their inputs, the rest at the top."""
        messages = error.message_dict if hasattr(error, "error_dict") else {"__all__": error.messages}
        for name, texts in messages.items():
            if name.startswith("settings."):
                key = name.removeprefix("settings.")
                self.setting_errors[setting_input(self.chosen_framework(), key)] = texts
                continue
            field = self._field_of(name)
            for text in texts:
                self.add_error(field if field in self.fields else None, text)

    def setting_groups(self) -> tuple[SettingGroup, ...]:
        """Every framework's settings with what was typed into them."""
        return tuple(
            SettingGroup(d.slug, d.name, tuple(self._rows(d)))
            for d in self.definitions.values()
            if any(not setting.endpoint_only for setting in d.settings)
        )

    def _rows(self, definition: FrameworkDefinition) -> Iterable[SettingRow]:
        for setting in definition.settings:
            if setting.endpoint_only:
                continue
            name = setting_input(definition.slug, setting.key)
            given = self.data.get(name) if self.is_bound else self.initial.get(name, "")
            yield SettingRow(setting, name, str(given or ""), self.setting_errors.get(name, []))

    def _settings(self, framework: str) -> dict[str, str]:
        prefix = setting_input(framework, "")
        return {
            key.removeprefix(prefix): str(value)
            for key, value in self.data.items()
            if key.startswith(prefix) and str(value).strip()
        }

    def _field_of(self, name: str) -> str:
        """The input of a field of ImportSpec; `files` is a form's own attribute."""
        if name == "path" and self._typed("source") == Source.IMAGE:
            return "model_files"
        return "patterns" if name == "files" else name

    def _typed(self, name: str) -> str:
        return str(self.data.get(name) or "")


def initial_from(model: RegisteredModel) -> dict[str, Any]:
    """The form filled from a model, to import it again with something changed. Secrets are left out."""
    asked = dict(model.source_ref)
    initial: dict[str, Any] = {
        "name": model.name,
        "source": model.source,
        "framework": model.framework_id,
        "task": model.task if model.source == Source.IMAGE else "",
        **{
            key: asked[key] for key in ("repo_id", "revision", "image", "port", "health_path") if key in asked
        },
        "patterns": ", ".join(asked.get("files", ())),
        "command": shlex.join(asked.get("command", ())),
        "model_files" if model.source == Source.IMAGE else "path": asked.get("path", ""),
    }
    for key, value in model.settings.items():
        initial[setting_input(model.framework_id, key)] = value
    return initial


def _words(text: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise ValidationError({"command": [_("A quotation mark is not closed.")]}) from error


def _variables(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if not equals:
            message = _("Line %(number)s has no “=”. Write NAME=value.") % {"number": number}
            raise ValidationError({"environment": [message]})
        found[name.strip()] = value
    return found
