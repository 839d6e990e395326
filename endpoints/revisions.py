"""What differs between two configurations of an endpoint, for people and for programs. Reads, never writes.

Values of environment variables may be secrets: a difference names the variable and says what happened to it, and
carries no value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from django.utils.translation import gettext as _

from endpoints.models import InstanceType, Revision
from registry.models import RegisteredModel

ADDED, CHANGED, REMOVED = "added", "changed", "removed"


@dataclass(frozen=True, slots=True)
class Configuration:
    """Everything that makes a revision, as rows and plain values."""

    model: RegisteredModel
    instance_type: InstanceType
    settings: Mapping[str, Any]
    environment: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Change:
    """One difference.

    field    model, instance_type, settings.<key> or environment.<NAME>
    kind     ADDED, CHANGED or REMOVED
    before   the API's value, None if it was not set; always None for a variable
    after    likewise
    name     what people call the field
    said     the difference in words, without the field's name
    """

    field: str
    kind: str
    before: Any
    after: Any
    name: str
    said: str


def of_revision(revision: Revision) -> Configuration:
    """The configuration that a revision is. Its model and instance type should be loaded."""
    return Configuration(revision.model, revision.instance_type, revision.settings, revision.environment)


def of_cleaned(cleaned: Mapping[str, Any]) -> Configuration:
    """The configuration that checked values ask for (`validation.clean`)."""
    return Configuration(
        cleaned["model"], cleaned["instance_type"], cleaned["settings"], cleaned["environment"]
    )


def diff(before: Configuration | None, after: Configuration) -> list[Change]:
    """From `before` to `after`; without a `before` nothing is told: all of it is new."""
    if before is None:
        return []
    changes = []
    if before.model.pk != after.model.pk:
        changes.append(
            _change(
                "model",
                _("model"),
                (str(before.model.pk), before.model.name),
                (str(after.model.pk), after.model.name),
            )
        )
    if before.instance_type.pk != after.instance_type.pk:
        old, new = before.instance_type.pk, after.instance_type.pk
        changes.append(_change("instance_type", _("instance type"), (old, old), (new, new)))
    if before.settings != after.settings:
        labels = {**_labels(before.model), **_labels(after.model)}
        changes += _settings(before.settings, after.settings, labels)
    changes += _environment(before.environment, after.environment)
    return changes


def same(before: Configuration, after: Configuration) -> bool:
    """Whether replicas of both would be made of the same."""
    return not diff(before, after)


def sentence(changes: list[Change]) -> str:
    """All of them, a line each: for a dialog."""
    return "\n".join(f"{change.name}: {change.said}" for change in changes)


def _change(name: str, label: str, before: tuple[Any, str], after: tuple[Any, str]) -> Change:
    return Change(name, CHANGED, before[0], after[0], label, f"{before[1]} → {after[1]}")


def _labels(model: RegisteredModel) -> dict[str, str]:
    """What the framework's settings are called on the form."""
    rows = model.framework.definition.get("settings", ())
    return {str(row["key"]): _(str(row["label"])) for row in rows if row.get("label")}


def _settings(before: Mapping[str, Any], after: Mapping[str, Any], labels: Mapping[str, str]) -> list[Change]:
    changes = []
    for key in sorted({*before, *after}):
        old, new = before.get(key), after.get(key)
        if old == new and (key in before) == (key in after):
            continue
        kind = CHANGED if key in before and key in after else ADDED if key in after else REMOVED
        said = f"{_shown(old)} → {_shown(new)}"
        changes.append(Change(f"settings.{key}", kind, old, new, labels.get(key, key), said))
    return changes


def _shown(value: Any) -> str:
    if value is None:
        return _("default")
    if isinstance(value, bool):
        return _("yes") if value else _("no")
    return str(value)


def _environment(before: Mapping[str, str], after: Mapping[str, str]) -> list[Change]:
    words = {ADDED: _("added"), CHANGED: _("another value"), REMOVED: _("removed")}
    changes = []
    for name in sorted({*before, *after}):
        if before.get(name) == after.get(name):
            continue
        kind = CHANGED if name in before and name in after else ADDED if name in after else REMOVED
        changes.append(Change(f"environment.{name}", kind, None, None, name, words[kind]))
    return changes
