"""Words of IAM in templates: `{% load iam %}`."""

from __future__ import annotations

from django import template

from iam import selectors
from iam.roles import Role

register = template.Library()


@register.filter
def masked(client_id: str) -> str:
    """An id, shortened."""
    return selectors.masked(client_id)


@register.filter
def role_label(name: str) -> str:
    """A role in the reader's language."""
    return str(Role(name).label) if name in Role.values else name
