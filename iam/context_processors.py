"""What every console page knows."""

from django.http import HttpRequest


def console(request: HttpRequest) -> dict[str, object]:
    """The present project and role."""
    return {}
