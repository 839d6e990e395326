"""A server: TLS in front, one JSON object a log line."""

from config.settings.base import *
from config.settings.base import LOGGING

SECURE_HSTS_SECONDS = 31_536_000
SECURE_SSL_REDIRECT = False  # the console terminates TLS itself or stands behind a proxy that redirects
SESSION_COOKIE_SECURE = True
CSRF_COOKIE_SECURE = True
LOGGING["formatters"]["plain"] = {"()": "config.logs.JsonFormatter"}
