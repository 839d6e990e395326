from django.apps import AppConfig


class LauncherConfig(AppConfig):
    """Holds the commands `up` and `demo`; no models."""

    name = "launcher"

    def ready(self) -> None:
        """What `manage.py check` looks at."""
        from config import checks  # noqa: F401
