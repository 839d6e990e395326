from django.apps import AppConfig


class LauncherConfig(AppConfig):
    """Holds the commands `up` and `demo`; no models."""

    name = "launcher"
