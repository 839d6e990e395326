from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class EndpointsConfig(AppConfig):
    """Models behind a URL: what was asked for, what runs, and why not."""

    name = "endpoints"
    verbose_name = _("Inference")
