"""Every error of the API as `application/problem+json` (RFC 9457).

{"type", "title", "status", "detail"} and, for input, `errors: {field: [..]}`; what belongs to no single field
stands under `non_field_errors`. A conflict may carry `params`, the figures behind its words. `type` is a stable name,
`urn:berth:problem:<code>`; it is no address.
"""

from __future__ import annotations

import logging
import sys
from http import HTTPStatus
from typing import Any

from django.conf import settings
from django.core.exceptions import PermissionDenied
from django.core.exceptions import ValidationError as DjangoValidationError
from django.db import InterfaceError, OperationalError
from django.db.models import ProtectedError
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.template import loader
from django.utils.translation import gettext as _
from django.views import defaults
from redis.exceptions import RedisError
from rest_framework import exceptions
from rest_framework.response import Response
from rest_framework.views import exception_handler as drf_exception_handler
from rest_framework.views import set_rollback

from config.errors import Conflict

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
ALL_FIELDS = "non_field_errors"


def problem(
    status: int, detail: str, *, code: str = "", errors: dict[str, list[str]] | None = None
) -> dict[str, Any]:
    """The body of an error answer."""
    phrase = HTTPStatus(status).phrase
    body: dict[str, Any] = {
        "type": f"urn:berth:problem:{code or phrase.lower().replace(' ', '-')}",
        "title": phrase,
        "status": status,
        "detail": detail,
    }
    if errors is not None:
        body["errors"] = errors
    return body


def exception_handler(error: Exception, context: dict[str, Any]) -> Response | None:
    """DRF's hook: the answer for an exception of an API view, or None for one that is a defect (500)."""
    body = _describe(error)
    if body is None:
        return None
    response = drf_exception_handler(error, context) or Response()  # sets WWW-Authenticate and Retry-After
    set_rollback()
    response.data = body
    response.status_code = body["status"]
    response.content_type = MEDIA_TYPE
    return response


def _describe(error: Exception) -> dict[str, Any] | None:
    match error:
        case DjangoValidationError():
            return _invalid(_django_errors(error))
        case exceptions.ValidationError():
            return _invalid(_drf_errors(error.detail))
        case Conflict():
            figures = {"params": error.params} if error.params else {}
            return problem(409, error.message, code=error.code) | figures
        case ProtectedError():
            return problem(409, _("It is still in use."), code="in-use")
        case Http404():
            return problem(404, _("There is nothing here."))
        case PermissionDenied():
            return problem(403, str(error) or _("Your role in this project does not allow this."))
        case exceptions.NotAuthenticated():
            return problem(401, f"{_('No access token was sent.')} {_where_tokens_are_from()}")
        case exceptions.AuthenticationFailed():
            return problem(401, f"{_plain(error.detail)} {_where_tokens_are_from()}")
        case exceptions.APIException():
            return problem(error.status_code, _plain(error.detail))
    return None


def _where_tokens_are_from() -> str:
    return _(
        "Get an access token at %(token)s with the credentials of a service account and send it as "
        "'Authorization: Bearer <token>'. How to is told at %(docs)s."
    ) % {
        "token": f"{settings.BERTH_PUBLIC_URL}/accounts-api/v2/auth/token",
        "docs": f"{settings.BERTH_PUBLIC_URL}/api/docs/",
    }


def _invalid(errors: dict[str, list[str]]) -> dict[str, Any]:
    general = errors.get(ALL_FIELDS, [])
    detail = " ".join(general) if general else _("Some fields are not valid. See errors.")
    return problem(400, detail, code="invalid", errors=errors)


def _django_errors(error: DjangoValidationError) -> dict[str, list[str]]:
    if hasattr(error, "error_dict"):
        return {
            (ALL_FIELDS if name == "__all__" else name): texts for name, texts in error.message_dict.items()
        }
    return {ALL_FIELDS: error.messages}


def _drf_errors(detail: Any, prefix: str = "") -> dict[str, list[str]]:
    """DRF's nested details as one level: {"autoscaling.cpu_percent": [..]}."""
    if isinstance(detail, dict):
        found: dict[str, list[str]] = {}
        for name, inner in detail.items():
            below = prefix if name == ALL_FIELDS and prefix else f"{prefix}.{name}".lstrip(".")
            found.update(_drf_errors(inner, below))
        return found
    if isinstance(detail, list) and any(isinstance(item, dict) for item in detail):
        found = {}
        for position, item in enumerate(detail):
            found.update(_drf_errors(item, f"{prefix}.{position}".lstrip(".")) if item else {})
        return found
    texts = [str(item) for item in detail] if isinstance(detail, list) else [str(detail)]
    return {prefix or ALL_FIELDS: texts}


def _plain(detail: Any) -> str:
    if isinstance(detail, dict):
        return str(detail.get("detail", detail))
    return " ".join(map(str, detail)) if isinstance(detail, list) else str(detail)


def _wants_problem(request: HttpRequest) -> bool:
    return request.path.startswith("/api/")


def _respond(status: int, detail: str) -> HttpResponse:
    return JsonResponse(problem(status, detail), status=status, content_type=MEDIA_TYPE)


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    """`handler400`: what Django refuses before a view runs."""
    if _wants_problem(request):
        return _respond(400, _("The request can't be read."))
    return defaults.bad_request(request, exception)


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    """`handler404`: an address that nothing answers."""
    if _wants_problem(request):
        return _respond(404, _("There is nothing here."))
    return defaults.page_not_found(request, exception)


def server_error(request: HttpRequest) -> HttpResponse:
    """`handler500`: a defect, or Redis or the database being away, which passes. Django has logged either."""
    away = _what_is_away(sys.exc_info()[1])
    if away:
        response = _try_again(request, away)
        response["Retry-After"] = "5"
        return response
    if _wants_problem(request):
        return _respond(500, _("Something went wrong on our side. The log of the web process says what."))
    return defaults.server_error(request)


def _what_is_away(error: BaseException | None) -> str:
    """One sentence or two; "" for a defect."""
    if isinstance(error, RedisError):
        return _("Redis, which counts attempts and carries messages, does not answer.")
    if isinstance(error, OperationalError | InterfaceError):
        return _("The database does not answer or takes no writes: it may be stopped, or its disk full.")
    return ""


def _try_again(request: HttpRequest, away: str) -> HttpResponse:
    if _wants_problem(request):
        return _respond(
            503, _("%(what)s Try again in a moment, or ask who runs this platform.") % {"what": away}
        )
    if request.path.startswith("/accounts-api/"):  # RFC 6749's form, as all answers of the token call
        return JsonResponse({"error": "temporarily_unavailable", "error_description": away}, status=503)
    return HttpResponse(loader.get_template("503.html").render({"away": away}, request), status=503)
