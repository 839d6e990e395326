from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class EndpointsConfig(AppConfig):
    """Models behind a URL: what was asked for, what runs, and why not."""

    name = "endpoints"
    verbose_name = _("Inference")

    def ready(self) -> None:
        """Gateways learn of every change of who may call, and IAM knows what there is to call."""
        from endpoints import gateway_feed
        from endpoints.directory import Directory
        from iam.directory import install
        from iam.signals import access_changed

        install(Directory())

        access_changed.connect(gateway_feed.on_access_changed, dispatch_uid="gateways")
