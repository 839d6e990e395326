from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class IamConfig(AppConfig):
    """Who is who, and who may do what."""

    name = "iam"
    verbose_name = _("IAM")
