"""Words of Django's admin that its own templates have no place for: `{% load admin_words %}`."""

from __future__ import annotations

from typing import Any

from django import template
from django.contrib import admin

register = template.Library()


@register.simple_tag
def consequence_of(opts: Any) -> str:
    """What deleting a row of this table brings about, "" where it is plain."""
    registered = admin.site._registry.get(opts.model)
    return str(getattr(registered, "consequence", ""))
