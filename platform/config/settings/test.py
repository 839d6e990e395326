"""Tests: a home of their own, nothing shared with a running platform. Real servers are started by fixtures."""

import atexit
import os
import shutil
import tempfile

if "BERTH_HOME" not in os.environ:
    os.environ["BERTH_HOME"] = tempfile.mkdtemp(prefix="berth-test-")
    # Children inherit the home; only the process that made it removes it.
    _maker, _home = os.getpid(), os.environ["BERTH_HOME"]
    atexit.register(lambda: shutil.rmtree(_home, ignore_errors=True) if os.getpid() == _maker else None)

# Workers of one test run are processes of their own, with servers of their own.
_worker = os.environ.get("PYTEST_XDIST_WORKER", "")
if _worker and not os.environ["BERTH_HOME"].endswith(f"/{_worker}"):
    os.environ["BERTH_HOME"] += f"/{_worker}"

# The pass on PostgreSQL names its server; the database of the shell that the tests were started from is never touched.
os.environ["DATABASE_URL"] = os.environ.get("BERTH_TEST_DATABASE_URL", "")

from config.settings.base import *

del os.environ["DATABASE_URL"]  # what tests start has a home, and so a database, of its own

BERTH_RUNTIME = "fake"
BERTH_IMAGE_REGISTRIES = ["public", "127.0.0.1:*"]  # registries of the tests' own
CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
}
CELERY_BROKER_URL = "memory://"
# Django's test client calls itself "testserver": the redirect to the configured address has tests of its own.
MIDDLEWARE = [name for name in MIDDLEWARE if name != "config.middleware.CanonicalAddress"]
