"""Tests: a home of their own, nothing shared with a running platform. Real servers are started by fixtures."""

import os
import tempfile

os.environ.setdefault("BERTH_HOME", tempfile.mkdtemp(prefix="berth-test-"))

from config.settings.base import *

BERTH_RUNTIME = "fake"
CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
}
CELERY_BROKER_URL = "memory://"
