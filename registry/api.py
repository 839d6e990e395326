"""The management API of this app: (prefix, viewset, basename) of each resource."""

from typing import Any

from config.api import ProjectViewSet

routes: list[tuple[str, type[ProjectViewSet[Any]], str]] = []
