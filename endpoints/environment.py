"""The variables that a revision adds to its containers: their rules, and how a change is merged.

Values may be secrets. They are encrypted in the database and go into the container; no page, answer, event, log
or diff ever shows one. A change therefore names only what changes: {"NAME": "value"} sets, {"NAME": None} removes,
and what is left out stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.core.exceptions import ValidationError
from django.utils.translation import gettext as _

from registry.variables import refusal

MOST_VARIABLES = 64
LONGEST_VALUE_BYTES = 4096


def merge(present: Mapping[str, str], change: Any) -> dict[str, str]:
    """`present` with `change` applied, in the order of their names.

    Raises ValidationError({"environment": [...]}) with every fault of the change at once. What was there before is
    not judged again.
    """
    if not isinstance(change, Mapping):
        raise ValidationError({"environment": [_("Send an object of names and values.")]})
    errors = [fault for name, value in change.items() if (fault := _fault(name, value, present))]
    merged = {**present, **{str(name): value for name, value in change.items()}}
    kept = {name: value for name, value in sorted(merged.items()) if value is not None}
    if len(kept) > MOST_VARIABLES:
        errors.append(_("Use at most %(most)s variables.") % {"most": MOST_VARIABLES})
    if errors:
        raise ValidationError({"environment": errors})
    return kept


def _fault(name: Any, value: Any, present: Mapping[str, str]) -> str:
    if value is None or (name in present and present[name] == value):
        return ""
    return refusal(str(name)) or _bad_value(str(name), value)


def _bad_value(name: str, value: Any) -> str:
    if not isinstance(value, str):
        return _("The value of %(name)s must be a text.") % {"name": name}
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        return _("The value of %(name)s is no valid text.") % {"name": name}
    if "\0" in value:
        return _("The value of %(name)s must not contain a NUL character.") % {"name": name}
    if size > LONGEST_VALUE_BYTES:
        return _("The value of %(name)s is longer than %(most)s bytes.") % {
            "name": name,
            "most": LONGEST_VALUE_BYTES,
        }
    return ""
