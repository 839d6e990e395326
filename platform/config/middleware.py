"""The console lives under one address."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlsplit

from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect

# What programs call keeps working under every allowed name; only pages for people move.
_OF_OPERATORS = ("/healthz", "/readyz", "/metrics")
PROGRAMS = ("/api/", "/accounts-api/", "/.well-known/", "/internal/", "/static/", *_OF_OPERATORS)


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
