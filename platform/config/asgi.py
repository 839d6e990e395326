"""HTTP and WebSockets in one ASGI application. Sockets are accepted from the console's own origin only."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings.dev")

from channels.auth import AuthMiddlewareStack
from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application

http = get_asgi_application()  # loads the apps; what follows needs them

from django.conf import settings  # noqa: E402

from config.origins import OneOrigin  # noqa: E402
from config.routing import websocket_urlpatterns  # noqa: E402
from config.web_limits import BodyLimit  # noqa: E402
from endpoints.log_streams import LogStreams  # noqa: E402
from iam.socket_origin import SocketOrigin  # noqa: E402

# Under ASGI every request has a thread of its own: a connection that outlives it is used by nobody, and stays open.
settings.DATABASES["default"]["CONN_MAX_AGE"] = 0

application = ProtocolTypeRouter(
    {
        "http": BodyLimit(LogStreams(http)),
        "websocket": SocketOrigin(
            OneOrigin(AuthMiddlewareStack(URLRouter(websocket_urlpatterns)), settings.BERTH_PUBLIC_URL)
        ),
    }
)
