"""Checking what a user set, and completing it with defaults."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from django.core.exceptions import ValidationError
from django.utils.translation import gettext as _

from registry.frameworks.definition import TEXT, FrameworkDefinition, Setting

_TRUE, _FALSE = frozenset({"true", "on", "1", "yes"}), frozenset({"false", "off", "0", "no"})


def validate_settings(definition: FrameworkDefinition, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that are set, each of its setting's type. An empty text or None means: not set.

    Raises ValidationError({key: [messages]}) with every key's errors at once.
    """
    errors: dict[str, list[str]] = {}
    cleaned: dict[str, Any] = {}
    for key, value in values.items():
        setting = definition.setting(key)
        if setting is None:
            errors[key] = [
                _("%(framework)s has no setting %(key)s.") % {"framework": definition.name, "key": key[:60]}
            ]
            continue
        if value is None or (isinstance(value, str) and not value.strip()):
            continue
        try:
            cleaned[key] = _clean(setting, value)
        except ValidationError as error:
            errors[key] = error.messages
    if errors:
        raise ValidationError({key: list(messages) for key, messages in errors.items()})
    return cleaned


def effective_settings(
    definition: FrameworkDefinition, *layers: Mapping[str, Any], facts: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """A value for every setting: the last layer that has it wins over earlier ones and the default.

    A setting with `at_most` is lowered to that fact of the model where it is known. Keys that the definition does
    not know (any more) are left out. What is not set anywhere is None.
    """
    known = facts or {}
    values: dict[str, Any] = {}
    for setting in definition.settings:
        value: Any = setting.default
        for layer in layers:
            value = layer.get(setting.key, value)
        limit = known.get(setting.at_most) if setting.at_most else None
        if isinstance(value, int) and isinstance(limit, int) and 0 < limit < value:
            value = limit
        values[setting.key] = value
    return values


def _clean(setting: Setting, value: Any) -> int | str | bool:
    if setting.type == "int":
        return _clean_int(setting, value)
    if setting.type == "bool":
        return _clean_bool(value)
    text = str(value).strip() if isinstance(value, str | int) and not isinstance(value, bool) else ""
    if setting.type == "choice":
        if text not in setting.choices:
            raise ValidationError(_("Choose one of: %(choices)s.") % {"choices": ", ".join(setting.choices)})
        return text
    if not re.fullmatch(setting.pattern, text):
        if setting.pattern != TEXT:
            raise ValidationError(_("This does not have the right form; see the hint."))
        raise ValidationError(
            _("Use letters, digits and . _ : / @ + - only, without spaces; begin with a letter or a digit.")
        )
    return text


def _clean_int(setting: Setting, value: Any) -> int:
    try:
        number = int(str(value).strip()) if not isinstance(value, bool | float) else None
    except ValueError:
        number = None
    if number is None:
        raise ValidationError(_("Enter a whole number."))
    if setting.min is not None and setting.max is not None and not setting.min <= number <= setting.max:
        raise ValidationError(
            _("Enter a whole number from %(min)s to %(max)s.") % {"min": setting.min, "max": setting.max}
        )
    if setting.min is not None and number < setting.min:
        raise ValidationError(_("Enter a whole number of at least %(min)s.") % {"min": setting.min})
    if setting.max is not None and number > setting.max:
        raise ValidationError(_("Enter a whole number of at most %(max)s.") % {"max": setting.max})
    return number


def _clean_bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    raise ValidationError(_("Answer yes or no."))
