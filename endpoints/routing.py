"""WebSocket addresses (contract §6)."""

from typing import Any

from django.urls import path

from endpoints.consumers import EndpointConsumer, EndpointListConsumer, LogConsumer, ModelListConsumer

websocket_urlpatterns: list[Any] = [
    path("ws/endpoints/", EndpointListConsumer.as_asgi()),
    path("ws/endpoints/<str:endpoint_id>/", EndpointConsumer.as_asgi()),
    path("ws/endpoints/<str:endpoint_id>/logs/", LogConsumer.as_asgi()),
    path("ws/models/", ModelListConsumer.as_asgi()),
]
