"""What sign-in pages know of their surroundings: `{% load sign_in %}`."""

from __future__ import annotations

from django import template
from django.conf import settings

register = template.Library()


@register.simple_tag
def sso_name() -> str:
    """What the provider of single sign-on is called, "" without one."""
    return str(settings.BERTH_OIDC_NAME) if settings.BERTH_OIDC_ISSUER else ""
