from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class RegistryConfig(AppConfig):
    """Models that can be served, and the frameworks that serve them."""

    name = "registry"
    verbose_name = _("Model Registry")
