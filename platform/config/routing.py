"""Every WebSocket address."""

from endpoints.routing import websocket_urlpatterns

__all__ = ["websocket_urlpatterns"]
