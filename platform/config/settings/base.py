"""Settings that every environment shares. What an operator may set comes from the environment (contract §1)."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import environ
from csp.constants import NONE, SELF

from config.keyfiles import read_or_create
from config.places import socket_dir
from config.settings.sign_in import *

env = environ.Env()

ROOT = Path(__file__).resolve().parents[3]
BERTH_HOME = Path(env.str("BERTH_HOME", str(ROOT / "var"))).resolve()
BERTH_RUN_DIR = socket_dir(BERTH_HOME)
BERTH_PORT = env.int("BERTH_PORT", 8000)
BERTH_GATEWAY_PORT = env.int("BERTH_GATEWAY_PORT", 8080)
BERTH_BIND = env.str("BERTH_BIND", "127.0.0.1")
# The address at which this machine itself reaches what is bound to BERTH_BIND.
BERTH_LOCAL_HOST = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(BERTH_BIND, BERTH_BIND)  # noqa: S104
BERTH_PUBLIC_URL = env.str("BERTH_PUBLIC_URL", f"http://localhost:{BERTH_PORT}").rstrip("/")
BERTH_GATEWAY_URL = env.str("BERTH_GATEWAY_URL", f"http://localhost:{BERTH_GATEWAY_PORT}").rstrip("/")
BERTH_TLS_CERT = env.str("BERTH_TLS_CERT", "")
BERTH_TLS_KEY = env.str("BERTH_TLS_KEY", "")
BERTH_RUNTIME = env.str("BERTH_RUNTIME", "auto")
# Folders that a model may be imported from; nothing outside is ever read.
BERTH_MODELS_ROOT = Path(env.str("BERTH_MODELS_ROOT", str(BERTH_HOME / "models"))).resolve()
# Where imported weights are kept, one folder a model.
BERTH_WEIGHTS_DIR = BERTH_HOME / "weights"
# Tokens are for this audience (contract §2 `aud`) and live this long.
BERTH_TOKEN_AUDIENCE = "berth"
BERTH_TOKEN_LIFETIME_S = 1800
# Signing keys are replaced when they are that old, and removed when their last token has expired. 0: by command only.
BERTH_SIGNING_KEY_DAYS = env.int("BERTH_SIGNING_KEY_DAYS", 90)
BERTH_MAX_REPLICAS = env.int("BERTH_MAX_REPLICAS", 10)
# A followed log in which nothing is printed ends after this.
BERTH_LOG_IDLE_S = env.int("BERTH_LOG_IDLE_S", 900)
# How much of a replica's log is kept after its end, and of all of them together before the oldest go.
BERTH_REPLICA_LOG_BYTES = env.int("BERTH_REPLICA_LOG_BYTES", 10_000_000)
BERTH_REPLICA_LOGS_TOTAL_BYTES = env.int("BERTH_REPLICA_LOGS_TOTAL_BYTES", 2_000_000_000)
# Registries that models' images may come from: "public", hosts ("registry.corp:5000", "*.corp"), or "*".
BERTH_IMAGE_REGISTRIES = [
    one for one in map(str.strip, env.list("BERTH_IMAGE_REGISTRIES", default=["public"])) if one
]
BERTH_SUBNET_POOL = env.str("BERTH_SUBNET_POOL", "10.213.0.0/16")
# Whose word for a caller's address counts: gateways and TLS proxies in front of the console, as addresses or networks.
BERTH_TRUSTED_PROXIES = env.list("BERTH_TRUSTED_PROXIES", default=["127.0.0.0/8", "::1/128"])
# All of the gateway's clients come by a proxy of ours, whose word for their address counts.
BERTH_GATEWAY_BEHIND_PROXY = env.bool("BERTH_GATEWAY_BEHIND_PROXY", False)
# The token with which gateway agents and activators come to the control plane.
BERTH_GATEWAY_TOKEN_FILE = BERTH_HOME / "keys" / "gateway.token"
# Where requests to sleeping endpoints are held: a socket file, which nobody else on this machine can open. Gateways on
# other machines need HOST:PORT. Empty: nowhere, such requests are refused.
BERTH_ACTIVATOR = env.str("BERTH_ACTIVATOR", f"unix:{BERTH_RUN_DIR / 'activator.sock'}")
# The longest that a request is held for.
BERTH_HOLD_TIMEOUT_S = env.float("BERTH_HOLD_TIMEOUT_S", 300.0)
# The hub that Hugging Face models are downloaded from; huggingface_hub's own variable.
HF_ENDPOINT = env.str("HF_ENDPOINT", "https://huggingface.co")

SECRET_KEY = env.str("BERTH_SECRET_KEY", "") or read_or_create(BERTH_HOME / "keys" / "secret_key")
DEBUG = False
_public = urlsplit(BERTH_PUBLIC_URL)
# The gateway forwards token calls and agents call on loopback; no answer is ever built from the Host header.
ALLOWED_HOSTS = sorted(
    {
        _public.hostname or "localhost",
        "localhost",
        "127.0.0.1",
        "[::1]",
        *env.list("BERTH_ALLOWED_HOSTS", default=[]),
    }
)
CSRF_TRUSTED_ORIGINS = [BERTH_PUBLIC_URL]

INSTALLED_APPS = [
    "iam.by_hand",  # its commands stand before Django's
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "allauth",
    "allauth.account",
    "allauth.mfa",
    "allauth.usersessions",
    "allauth.socialaccount",
    "allauth.idp.oidc",
    "channels",
    "rest_framework",
    "django_filters",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "django_htmx",
    "iam",
    "iam.sso",
    "registry",
    "endpoints",
    "launcher",
]

MIDDLEWARE = [
    # Outermost: every answer names its request, and every log line of it.
    "iam.middleware.OriginMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "config.middleware.BrowserHeaders",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "config.middleware.CanonicalAddress",
    "csp.middleware.CSPMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "allauth.account.middleware.AccountMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "iam.sign_in.sessions.LastSeen",
    # Innermost, and synchronous: under ASGI all those around it then run in one thread, with no hop between them.
    "iam.middleware.ProjectMiddleware",
]

ROOT_URLCONF = "config.urls"
ASGI_APPLICATION = "config.asgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [ROOT / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.template.context_processors.i18n",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "iam.context_processors.console",
            ],
        },
    }
]

_database_url = env.str("DATABASE_URL", "")
DATABASES: dict[str, Any] = {
    "default": env.db_url_config(_database_url)
    if _database_url
    else {"ENGINE": "django.db.backends.sqlite3", "NAME": str(BERTH_HOME / "berth.sqlite3")}
}
if DATABASES["default"]["ENGINE"].endswith("sqlite3"):
    # Several processes write: a transaction takes the write lock at its start and waits for it, instead of
    # failing when it upgrades from reading.
    DATABASES["default"]["OPTIONS"] = {
        "transaction_mode": "IMMEDIATE",
        "timeout": 20,
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA busy_timeout=20000;",
    }
else:
    DATABASES["default"]["CONN_MAX_AGE"] = 60
    DATABASES["default"]["CONN_HEALTH_CHECKS"] = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

REDIS_URL = env.str("REDIS_URL", "") or f"unix://{BERTH_RUN_DIR / 'redis.sock'}"
CELERY_BROKER_URL = REDIS_URL.replace("unix://", "redis+socket://", 1)
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_REJECT_ON_WORKER_LOST = True
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_CONNECTION_MAX_RETRIES = None
# A task of a worker that was killed comes back after this; the sweep finds its endpoint sooner.
CELERY_BROKER_TRANSPORT_OPTIONS = {
    "visibility_timeout": 3600,
    "socket_keepalive": True,
    # Of a sender: a person's click must not wait seconds for a broker that is away; the sweep sends again.
    "connect_retries_timeout": 0.3,
    "interval_start": 0,
    "interval_step": 0.1,
}
CELERY_TASK_ROUTES = {
    # Long transfers must not keep a reconcile waiting.
    "registry.tasks.import_model": {"queue": "transfers"},
    "endpoints.tasks.pull_image": {"queue": "transfers"},
}
CELERY_TASK_DEFAULT_QUEUE = "control"
CELERY_TIMEZONE = "UTC"
# A replica that leaves may finish its requests for this long; then it is stopped with them.
BERTH_DRAIN_TIMEOUT_S = env.float("BERTH_DRAIN_TIMEOUT_S", 600.0)

CELERY_BEAT_SCHEDULE = {
    "sweep-endpoints": {"task": "endpoints.tasks.sweep", "schedule": 5.0, "options": {"expires": 5}},
    "usage-by-day": {
        "task": "endpoints.tasks.roll_up_usage",
        "schedule": 1800.0,
        "options": {"expires": 1800},
    },
    "sweep-identities": {"task": "iam.tasks.sweep_identities", "schedule": 5.0, "options": {"expires": 5}},
    "turn-signing-keys": {
        "task": "iam.tasks.turn_signing_keys",
        "schedule": 600.0,
        "options": {"expires": 600},
    },
    "clear-sessions": {"task": "iam.tasks.clear_sessions", "schedule": 3600.0, "options": {"expires": 3600}},
    "sweep-imports": {"task": "registry.tasks.sweep_imports", "schedule": 15.0, "options": {"expires": 15}},
}
CELERY_BEAT_SCHEDULE_FILENAME = str(BERTH_RUN_DIR / "beat-schedule")

CACHES = {
    "default": {
        "BACKEND": "config.cache.SharedRedisCache",
        "LOCATION": REDIS_URL,
        "KEY_PREFIX": "cache",
    }
}
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_redis.core.RedisChannelLayer",
        # redis-py's default read timeout equals the layer's blocking pop: idle consumers would die of it.
        "CONFIG": {"hosts": [{"address": REDIS_URL, "socket_timeout": None}], "capacity": 1000},
    }
}

AUTH_USER_MODEL = "iam.User"
# No mail server is needed or spoken to: admins set passwords, and `manage.py reset_admin_password` the first one.
EMAIL_BACKEND = "django.core.mail.backends.dummy.EmailBackend"
IDP_OIDC_ADAPTER = "iam.oauth.adapter.OIDCAdapter"
IDP_OIDC_ACCESS_TOKEN_FORMAT = "jwt"
IDP_OIDC_ACCESS_TOKEN_EXPIRES_IN = BERTH_TOKEN_LIFETIME_S

SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = LANGUAGE_COOKIE_SECURE = _public.scheme == "https"
LANGUAGE_COOKIE_HTTPONLY = True
LANGUAGE_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_NAME = "berth_session"
CSRF_COOKIE_NAME = "berth_csrf"
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
SECURE_CROSS_ORIGIN_OPENER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"

_gateway_origin = "{0.scheme}://{0.netloc}".format(urlsplit(BERTH_GATEWAY_URL))
_socket_origin = BERTH_PUBLIC_URL.replace("http", "ws", 1)
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [NONE],
        "script-src": [SELF],
        "style-src": [SELF],
        "img-src": [SELF, "data:"],
        "font-src": [SELF],
        "connect-src": [SELF, _socket_origin, _gateway_origin],
        "form-action": [SELF],
        "base-uri": [NONE],
        "frame-ancestors": [NONE],
        "manifest-src": [SELF],
    }
}

LANGUAGE_CODE = "en"
LANGUAGES = [("en", "English"), ("vi", "Tiếng Việt")]
LOCALE_PATHS = [ROOT / "platform" / "locale"]
USE_I18N = True
FORMAT_MODULE_PATH = "config.formats"
USE_TZ = True
TIME_ZONE = "UTC"

STATIC_URL = "/static/"
STATICFILES_DIRS = [ROOT / "static"]
STATIC_ROOT = BERTH_HOME / "static"
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "whitenoise.storage.CompressedManifestStaticFilesStorage"},
}

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "iam.api_auth.ServiceAccountAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["iam.permissions.RolePermission"],
    "DEFAULT_PAGINATION_CLASS": "config.pagination.CursorPagination",
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["config.parsers.JSONParser"],
    "EXCEPTION_HANDLER": "config.problems.exception_handler",
    "UNAUTHENTICATED_USER": "django.contrib.auth.models.AnonymousUser",
    "DATETIME_FORMAT": "%Y-%m-%dT%H:%M:%S.%fZ",
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Berth management API",
    "VERSION": "1",
    "SERVE_INCLUDE_SCHEMA": False,
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "SERVE_PERMISSIONS": ["rest_framework.permissions.AllowAny"],
    "SCHEMA_PATH_PREFIX": "/api/v1",
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "config.api_schema.add_problems",
    ],
    "ENUM_NAME_OVERRIDES": {
        "RoleEnum": "iam.roles.Role",
        "PhaseEnum": "endpoints.models.PhaseName",
        "EndpointStatusEnum": "endpoints.models.Status",
    },
}

# One JSON object a line, from every process of ours.
BERTH_LOG_JSON = False
LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"plain": {"format": "%(levelname)s %(name)s: %(message)s"}},
    "filters": {"request": {"()": "config.logs.RequestId"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "plain", "filters": ["request"]}},
    "root": {"handlers": ["stderr"], "level": env.str("BERTH_LOG_LEVEL", "INFO")},
    "loggers": {
        "celery": {"level": "WARNING"},
        "httpx": {"level": "WARNING"},
        "httpx2": {"level": "WARNING"},  # it logs every address, signed download links included
        "docker": {"level": "WARNING"},
        "urllib3": {"level": "WARNING"},
    },
}
