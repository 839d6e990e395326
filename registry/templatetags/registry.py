"""What the registry's templates compute: `{% load registry %}`."""

from __future__ import annotations

from typing import Any

from django import template
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from registry.errors import Reason, reason_of
from registry.models import RegisteredModel, Source

register = template.Library()

_ICONS = {Source.LOCAL: "folder", Source.HUGGING_FACE: "download", Source.IMAGE: "box"}
_ASKED: tuple[tuple[str, Promise], ...] = (
    ("path", _("File or folder")),
    ("repo_id", _("Repository")),
    ("revision", _("Revision")),
    ("commit", _("Commit")),
    ("image", _("Image")),
    ("port", _("Port")),
    ("health_path", _("Health path")),
)
_KNOWN: tuple[tuple[str, Promise], ...] = (
    ("architecture", _("Architecture")),
    ("title", _("Title")),
    ("quantization", _("Number format")),
    ("context_length", _("Context length")),
    ("embedding_length", _("Vector length")),
    ("pooling", _("Pooling")),
)


@register.simple_tag
def import_reason(model: RegisteredModel) -> Reason | None:
    """Why its import failed."""
    return reason_of(model)


@register.simple_tag
def source_icon(source: str) -> str:
    """The icon's name for where a model comes from; the words stand beside it."""
    return _ICONS.get(Source(source), "box")


@register.simple_tag
def source_text(model: RegisteredModel) -> str:
    """The path, the repository or the image."""
    asked = model.source_ref
    return str(asked.get("repo_id") or asked.get("image") or asked.get("path") or "")


@register.filter
def source_facts(model: RegisteredModel) -> list[tuple[Any, str]]:
    """(label, value) of what was asked for."""
    asked = model.source_ref
    facts: list[tuple[Any, str]] = [(label, str(asked[key])) for key, label in _ASKED if asked.get(key)]
    for key, label in (("files", _("Files")), ("command", _("Arguments"))):
        if asked.get(key):
            facts.append((label, " ".join(asked[key])))
    return facts


@register.filter
def model_facts(model: RegisteredModel) -> list[tuple[Any, str]]:
    """(label, value) of what the files say of themselves."""
    known = model.facts
    facts: list[tuple[Any, str]] = [(label, str(known[key])) for key, label in _KNOWN if known.get(key)]
    if known.get("parameters"):
        facts.insert(1, (_("Parameters"), _count(int(known["parameters"]))))
    if "chat_template" in known and model.task == "llm":
        facts.append((_("Chat template"), str(_("yes") if known["chat_template"] else _("no"))))
    return facts


def _count(number: int) -> str:
    """22_713_216 → "22.7 M"."""
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return str(number)
