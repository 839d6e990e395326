"""The IAM app."""

import logging

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class IamConfig(AppConfig):
    """Who is who, and who may do what."""

    name = "iam"
    verbose_name = _("IAM")

    def ready(self) -> None:
        """Keep oauthlib from writing issued tokens to the log, which it does at level DEBUG; listen for goodbyes
        and for who signs in; translate what has no name of its own."""
        from iam import followers
        from iam.field_names import translate
        from iam.sign_in import recording

        followers.connect()
        recording.connect()
        translate()
        logging.getLogger("oauthlib").setLevel(logging.INFO)
