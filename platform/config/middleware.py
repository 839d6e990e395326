"""The console lives under one address, and tells browsers what they may not do with it."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlsplit

from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect

# What programs call keeps working under every allowed name; only pages for people move.
_OF_OPERATORS = ("/healthz", "/readyz", "/metrics")
PROGRAMS = ("/api/", "/accounts-api/", "/.well-known/", "/internal/", "/static/", *_OF_OPERATORS)


# What no page of ours needs. Clipboard and passkeys, which some do, are for ourselves alone.
_FEATURES_OF_NOBODY = (
    "camera",
    "display-capture",
    "geolocation",
    "microphone",
    "midi",
    "payment",
    "serial",
    "usb",
)
_FEATURES_OF_OURS = (
    "clipboard-read",
    "clipboard-write",
    "publickey-credentials-create",
    "publickey-credentials-get",
)
PERMISSIONS = ", ".join(
    [f"{name}=()" for name in _FEATURES_OF_NOBODY] + [f"{name}=(self)" for name in _FEATURES_OF_OURS]
)


class BrowserHeaders:
    """What Django has no setting for.

    What a signed-in person or a program with a token was answered is stored nowhere: "back" after signing out, on a
    shared machine, shows nothing. Views that set `Cache-Control` themselves know better.
    HSTS also where a proxy terminates TLS, which Django takes for plain HTTP: over that, browsers ignore it (RFC 6797
    §8.1).
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response
        seconds = settings.SECURE_HSTS_SECONDS
        self.hsts = (
            f"max-age={seconds}" if seconds and settings.BERTH_PUBLIC_URL.startswith("https://") else ""
        )

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Add to the answer."""
        response = self.get_response(request)
        response.headers.setdefault("Permissions-Policy", PERMISSIONS)
        response.headers.setdefault("Cross-Origin-Resource-Policy", "same-origin")
        if self.hsts:
            response.headers.setdefault("Strict-Transport-Security", self.hsts)
        known = settings.SESSION_COOKIE_NAME in request.COOKIES or "Authorization" in request.headers
        if known and not request.path.startswith(settings.STATIC_URL):
            response.headers.setdefault("Cache-Control", "private, no-store")
        return response


class CanonicalAddress:
    """Sends a person who opened the console under another name of this machine to BERTH_PUBLIC_URL.

    Cookies and sockets belong to one origin: under 127.0.0.1 a page would load, but its live updates, which are
    accepted from the configured origin alone, would not.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response
        self.host = urlsplit(settings.BERTH_PUBLIC_URL).netloc

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Redirect pages; the target is the configured address, never the Host header."""
        is_page = request.method in ("GET", "HEAD") and not request.path.startswith(PROGRAMS)
        if is_page and request.get_host() != self.host:
            return HttpResponseRedirect(settings.BERTH_PUBLIC_URL + request.get_full_path())
        return self.get_response(request)
