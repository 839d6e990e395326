"""Browsers that a person has signed in with before. A signed cookie says so; nothing is stored here.

The cookie opens nothing. It only has guesses from that browser counted apart from those of strangers (limits).
"""

from __future__ import annotations

import hashlib
import secrets

from django.conf import settings
from django.core import signing
from django.http import HttpRequest, HttpResponse

COOKIE = "berth_device"
MAX_AGE_S = 365 * 86400
_SALT = "iam.sign_in.devices"
_MOST = 5  # people of one browser


def device_of(request: HttpRequest, email: str) -> str:
    """The browser's id if `email` has signed in with it, else ""."""
    device, people = _read(request)
    return device if _digest(email) in people else ""


def remember(request: HttpRequest, response: HttpResponse, email: str) -> None:
    """`email` has signed in with this browser."""
    device, people = _read(request)
    me = _digest(email)
    kept = [me, *(other for other in people if other != me)][:_MOST]
    response.set_cookie(
        COOKIE,
        signing.dumps([device or secrets.token_hex(16), *kept], salt=_SALT),
        max_age=MAX_AGE_S,
        path="/accounts/",
        secure=settings.SESSION_COOKIE_SECURE,
        httponly=True,
        samesite="Lax",
    )


def _read(request: HttpRequest) -> tuple[str, list[str]]:
    try:
        device, *people = signing.loads(request.COOKIES.get(COOKIE, ""), salt=_SALT, max_age=MAX_AGE_S)
    except (signing.BadSignature, ValueError):
        return "", []
    return str(device), people


def _digest(email: str) -> str:
    return hashlib.sha256(f"{settings.SECRET_KEY}:{email.strip().lower()}".encode()).hexdigest()[:20]
