"""An app of its own, because allauth looks for providers in apps."""

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class SSOConfig(AppConfig):
    """Single sign-on."""

    name = "iam.sso"
    label = "sso"
    verbose_name = _("Single sign-on")

    def ready(self) -> None:
        """Register the checks of its settings; listen for accounts that were linked."""
        from iam.sso import adapter, checks  # noqa: F401

        adapter.connect()
