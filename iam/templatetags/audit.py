"""The audit log in templates: `{% load audit %}`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from django import template
from django.utils.translation import gettext as _

from iam import audit_words
from iam.models import AuditEvent

register = template.Library()


@dataclass(frozen=True, slots=True)
class Change:
    """One field of an act. before, after: in words, "" where that side has none."""

    field: str
    before: str
    after: str


@register.filter
def said(event: AuditEvent) -> str:
    """What was done, in words."""
    return audit_words.sentence(event.action)


@register.filter
def actor_name(event: AuditEvent) -> str:
    """Who did it, in words."""
    return audit_words.actor_label(event.actor_kind, event.actor_name)


@register.filter
def target_label(event: AuditEvent) -> str:
    """What kind of thing it was done to, in words."""
    return audit_words.kind_label(event.target_kind)


@register.filter
def changes(event: AuditEvent) -> list[Change]:
    """What was before and after, a line for each field."""
    names = {**event.before, **event.after}
    return [Change(name, _side(event.before, name), _side(event.after, name)) for name in names]


def _side(values: dict[str, Any], name: str) -> str:
    return _shown(values[name]) if name in values else ""


def _shown(value: Any) -> str:
    match value:
        case None | "":
            return "–"
        case bool():
            return _("yes") if value else _("no")
        case str():
            return value
        case list() if all(isinstance(item, str) for item in value):
            return ", ".join(value) or "–"
    return json.dumps(value, ensure_ascii=False)
