"""The token call and the two documents that describe it (contract §2)."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl

from allauth.idp.oidc.adapter import get_adapter
from django.core.exceptions import RequestDataTooBig
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.debug import sensitive_variables
from oauthlib.common import Request
from oauthlib.oauth2 import BackendApplicationServer
from oauthlib.oauth2.rfc6749.errors import InvalidRequestError, OAuth2Error

from iam.oauth import failures, keys, tokens
from iam.oauth.validator import Validator

# A token request is a few hundred bytes.
MAX_BODY = 16 * 1024
# What the token call reads. Everything else a client sends is ignored, as RFC 6749 §3.2 asks; oauthlib would
# take any name as a property of the request.
PARAMETERS = ("grant_type", "scope", "client_id", "client_secret")
DOCUMENT_MAX_AGE_S = 300


@lru_cache(maxsize=1)
def _server() -> BackendApplicationServer:
    """oauthlib's server for the client credentials grant (RFC 6749 §4.4). It keeps no state between calls."""

    def issue(request: Request) -> str:
        return tokens.issue(request.client)

    def lifetime_s(request: Request) -> int:
        return tokens.lifetime_s(request.client)

    return BackendApplicationServer(Validator(), issue, lifetime_s)


@csrf_exempt
@sensitive_variables()
def token(request: HttpRequest) -> HttpResponse:
    """POST client credentials, get an access token. Bodies: JSON or form; answers: RFC 6749 §5.1 and §5.2."""
    if request.method != "POST":
        response = _error(InvalidRequestError("Use POST.", status_code=405))
        response["Allow"] = "POST"
        return response
    address = failures.client_address(request)
    wait = failures.blocked_for(address)
    if wait:
        return _too_many(wait)
    try:
        body = _parameters(request)
        headers = {"Authorization": request.headers.get("Authorization", "")}
        _headers, answer, status = _server().create_token_response(
            request.get_full_path(), "POST", list(body.items()), headers
        )
    except OAuth2Error as error:
        return _error(error)
    content = json.loads(answer)
    if status == 200:
        return _answer(_granted(content), 200)
    if content["error"] == "invalid_client":
        failures.count_failure(address)
    return _answer(content, status)


def configuration(_request: HttpRequest) -> HttpResponse:
    """OpenID Connect Discovery 1.0 / RFC 8414 metadata."""
    data: dict[str, Any] = {}
    get_adapter().populate_server_metadata(data)
    return _document(json.dumps(data))


def jwks(_request: HttpRequest) -> HttpResponse:
    """The public keys (RFC 7517)."""
    return _document(keys.public_jwks())


def _granted(content: dict[str, Any]) -> dict[str, Any]:
    return {
        "token_type": "Bearer",
        "access_token": content["access_token"],
        "expires_in": content["expires_in"],
        # There is no refresh token: a client with a secret just asks again.
        "refresh_expires_in": 0,
    }


def _parameters(request: HttpRequest) -> dict[str, str]:
    """The known parameters of the body, without the empty ones. Raises InvalidRequestError."""
    try:
        raw = request.body
    except RequestDataTooBig:
        raw = b" " * (MAX_BODY + 1)
    if len(raw) > MAX_BODY:
        raise InvalidRequestError("The body is too large for a token request.")
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequestError("The body is not valid UTF-8.") from error
    pairs = _json_pairs(text) if request.content_type == "application/json" else _form_pairs(request, text)
    names = [name for name, _value in pairs]
    found: dict[str, str] = {}
    for name, value in pairs:
        if name not in PARAMETERS or value in (None, ""):
            continue
        if names.count(name) > 1:
            raise InvalidRequestError(f"The parameter {name} is there more than once.")
        if not isinstance(value, str):
            raise InvalidRequestError(f"The parameter {name} has to be text.")
        found[name] = value
    return found


def _json_pairs(text: str) -> list[tuple[str, Any]]:
    try:
        pairs = json.loads(text, object_pairs_hook=_Pairs)
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError("The body is not valid JSON.") from error
    if not isinstance(pairs, _Pairs):
        raise InvalidRequestError("The JSON body has to be an object.")
    return pairs


class _Pairs(list[tuple[str, Any]]):
    """A JSON object with its duplicates kept."""


def _form_pairs(request: HttpRequest, text: str) -> list[tuple[str, Any]]:
    if request.content_type not in ("application/x-www-form-urlencoded", "", None):
        raise InvalidRequestError("Send application/json or application/x-www-form-urlencoded.")
    if text.lstrip().startswith("{"):
        raise InvalidRequestError("The body looks like JSON. Send it with Content-Type: application/json.")
    try:
        return parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=100)
    except ValueError as error:
        raise InvalidRequestError("The form body can't be read.") from error


def _error(error: OAuth2Error) -> HttpResponse:
    return _answer(dict(error.twotuples), error.status_code)


def _too_many(wait: int) -> HttpResponse:
    content = {
        "error": "temporarily_unavailable",
        "error_description": f"Too many failed attempts from this address. Try again in {wait} seconds.",
    }
    response = _answer(content, 429)
    response["Retry-After"] = str(wait)
    return response


def _answer(content: dict[str, Any], status: int) -> HttpResponse:
    response = JsonResponse(content, status=status)
    response["Cache-Control"] = "no-store"
    response["Pragma"] = "no-cache"
    if status == 401:
        response["WWW-Authenticate"] = 'Basic realm="Berth", charset="UTF-8"'
    return response


def _document(content: str) -> HttpResponse:
    response = HttpResponse(content, content_type="application/json")
    response["Cache-Control"] = f"public, max-age={DOCUMENT_MAX_AGE_S}"
    response["Access-Control-Allow-Origin"] = "*"
    return response
