"""A server: TLS in front, one JSON object a log line."""

from config.settings.base import *
from config.settings.base import LOGGING

SECURE_HSTS_SECONDS = 31_536_000
SECURE_SSL_REDIRECT = False  # the console terminates TLS itself or stands behind a proxy that redirects
SILENCED_SYSTEM_CHECKS = [
    "security.W005",  # HSTS for subdomains and
    "security.W021",  # for browsers' preload lists: what else lives under the operator's domain is not ours to know
    "security.W008",  # the redirect to TLS, see above
]
SESSION_COOKIE_SECURE = True
CSRF_COOKIE_SECURE = True
LANGUAGE_COOKIE_SECURE = True
# Browsers take cookies of such names over TLS and from this very host only: no neighbour's page can plant one.
SESSION_COOKIE_NAME = "__Host-berth_session"
CSRF_COOKIE_NAME = "__Host-berth_csrf"
BERTH_LOG_JSON = True
LOGGING["formatters"]["plain"] = {"()": "config.logs.JsonFormatter"}
