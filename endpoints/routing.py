"""WebSocket addresses (contract §6)."""

from typing import Any

websocket_urlpatterns: list[Any] = []
