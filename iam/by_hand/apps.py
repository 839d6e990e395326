"""An app of its own: of two commands of one name the one counts whose app comes first, and iam comes after Django's."""

from django.apps import AppConfig


class ByHandConfig(AppConfig):
    """It has no tables."""

    name = "iam.by_hand"
    label = "by_hand"
