"""The registry in the management API."""

routes: list[tuple[str, type, str]] = []
