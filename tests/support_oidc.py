"""An OpenID Connect provider: authlib's authorization server (clients, codes, PKCE, id_tokens) behind a small HTTP
server. It lets everybody in as `person`; what it says can be bent, so that tests see what is believed."""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from authlib.oauth2.rfc6749 import AuthorizationServer, OAuth2Request
from authlib.oauth2.rfc6749.grants import AuthorizationCodeGrant
from authlib.oauth2.rfc6749.requests import BasicOAuth2Payload
from authlib.oauth2.rfc6750 import BearerTokenGenerator
from authlib.oauth2.rfc7636 import CodeChallenge
from authlib.oidc.core import OpenIDCode
from joserfc.jwk import RSAKey

CLIENT, SECRET = "berth", "a secret of the console's"


@dataclass
class Provider:
    """What it is and says. Bend: claims of the id_token that replace true ones; None removes one."""

    url: str
    callback: str
    person: dict[str, Any] = field(default_factory=dict)
    bend: dict[str, Any] = field(default_factory=dict)
    discovery: dict[str, Any] = field(default_factory=dict)
    userinfo: dict[str, Any] = field(default_factory=dict)
    key: Any = field(default_factory=lambda: RSAKey.generate_key(2048, {"kid": "one", "use": "sig"}))
    signs_with: Any = None  # another key than the published one
    algorithm: str = "RS256"
    codes: dict[str, Any] = field(default_factory=dict)
    verifiers: int = 0  # token calls that came with a PKCE verifier


@dataclass
class _Code:
    code: str
    redirect_uri: str
    scope: str
    nonce: str
    challenge: str
    method: str
    auth_time: int = field(default_factory=lambda: int(time.time()))

    def get_redirect_uri(self) -> str:
        return self.redirect_uri

    def get_scope(self) -> str:
        return self.scope

    def get_nonce(self) -> str:
        return self.nonce

    def get_auth_time(self) -> int:
        return self.auth_time

    def get_acr(self) -> None:
        return None

    def get_amr(self) -> None:
        return None


class _Client:
    def __init__(self, provider: Provider) -> None:
        self.provider = provider

    def get_client_id(self) -> str:
        return CLIENT

    def get_default_redirect_uri(self) -> str:
        return self.provider.callback

    def get_allowed_scope(self, scope: str) -> str:
        return scope

    def check_redirect_uri(self, uri: str) -> bool:
        return uri == self.provider.callback

    def check_client_secret(self, secret: str) -> bool:
        return secret == SECRET

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        return method in ("client_secret_basic", "client_secret_post")

    def check_response_type(self, response_type: str) -> bool:
        return response_type == "code"

    def check_grant_type(self, grant_type: str) -> bool:
        return grant_type == "authorization_code"


class _Request(OAuth2Request):  # type: ignore[misc]
    def __init__(self, method: str, path: str, form: dict[str, str], headers: Any) -> None:
        super().__init__(method, f"https://provider.example{path}", headers=headers)
        self._args = dict(parse_qsl(urlsplit(path).query))
        self._form = form
        self.payload = BasicOAuth2Payload({**self._args, **form})

    @property
    def args(self) -> dict[str, str]:
        return self._args

    @property
    def form(self) -> dict[str, str]:
        return self._form


def _server_for(provider: Provider) -> AuthorizationServer:
    class Grant(AuthorizationCodeGrant):  # type: ignore[misc]
        TOKEN_ENDPOINT_AUTH_METHODS = ["client_secret_basic", "client_secret_post"]

        def save_authorization_code(self, code: str, request: Any) -> None:
            data = request.payload.data
            provider.codes[code] = _Code(
                code,
                data["redirect_uri"],
                data["scope"],
                data.get("nonce", ""),
                data.get("code_challenge", ""),
                data.get("code_challenge_method", ""),
            )

        def query_authorization_code(self, code: str, client: Any) -> _Code | None:
            return provider.codes.get(code)

        def delete_authorization_code(self, code: _Code) -> None:
            provider.codes.pop(code.code)

        def authenticate_user(self, code: _Code) -> dict[str, Any]:
            return provider.person

    class Challenge(CodeChallenge):  # type: ignore[misc]
        def get_authorization_code_challenge(self, code: _Code) -> str:
            return code.challenge

        def get_authorization_code_challenge_method(self, code: _Code) -> str:
            return code.method

        def validate_code_verifier(self, grant: Any, result: Any) -> None:
            super().validate_code_verifier(grant, result)
            provider.verifiers += 1

    class OpenID(OpenIDCode):  # type: ignore[misc]
        def exists_nonce(self, nonce: str, request: Any) -> bool:
            return any(code.nonce == nonce for code in provider.codes.values())

        def resolve_client_private_key(self, client: Any) -> Any:
            return provider.signs_with or provider.key

        def get_client_algorithm(self, client: Any) -> str:
            return provider.algorithm

        def get_encode_header(self, client: Any) -> dict[str, str]:
            return {"alg": provider.algorithm, "kid": provider.key.kid}

        def get_client_claims(self, client: Any) -> dict[str, Any]:
            return {"iss": provider.url, "aud": [CLIENT]}

        def generate_user_info(self, user: Any, scope: str) -> dict[str, Any]:
            return dict(user)

        def get_compatible_claims(self, request: Any) -> dict[str, Any]:
            return _Bent(super().get_compatible_claims(request), provider.bend)

    class Server(AuthorizationServer):  # type: ignore[misc]
        def query_client(self, client_id: str) -> _Client | None:
            return _Client(provider) if client_id == CLIENT else None

        def save_token(self, token: Any, request: Any) -> None:
            pass

        def send_signal(self, *args: Any, **kwargs: Any) -> None:
            pass

        def create_oauth2_request(self, request: Any) -> Any:
            return request

        def handle_response(self, status: int, body: Any, headers: Any) -> Any:
            return status, body, headers

    server = Server()
    server.register_grant(Grant, [Challenge(required=True), OpenID(require_nonce=True)])
    server.register_token_generator("default", BearerTokenGenerator(lambda **_: secrets.token_hex(16)))
    return server


class _Bent(dict):  # type: ignore[type-arg]
    """Claims in which some stay as they are bent, whatever is said later."""

    def __init__(self, claims: dict[str, Any], bend: dict[str, Any]) -> None:
        super().__init__(claims)
        self.bend = bend
        self.update({})

    def update(self, *others: Any, **more: Any) -> None:
        super().update(*others, **more)
        for name, value in self.bend.items():
            self.pop(name, None)
            if value is not None:
                super().__setitem__(name, value)


def _handler(provider: Provider) -> type[BaseHTTPRequestHandler]:
    server = _server_for(provider)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            if path == "/.well-known/openid-configuration":
                self.say({**_discovery(provider.url), **provider.discovery})
            elif path == "/jwks":
                self.say({"keys": [provider.key.as_dict(private=False)]})
            elif path == "/userinfo":
                self.say(provider.userinfo)
            elif path == "/authorize":
                request = _Request("GET", self.path, {}, self.headers)
                grant = server.get_consent_grant(request, provider.person)
                self.answer(*server.create_authorization_response(request, provider.person, grant))
            else:
                self.send_error(404)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            request = _Request("POST", self.path, dict(parse_qsl(body)), self.headers)
            self.answer(*server.create_token_response(request))

        def say(self, body: Any) -> None:
            self.answer(200, body, [("Content-Type", "application/json")])

        def answer(self, status: int, body: Any, headers: Any) -> None:
            content = (body if isinstance(body, str) else json.dumps(body)).encode()
            self.send_response(status)
            for name, value in headers:
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: Any) -> None:
            pass

    return Handler


def _discovery(url: str) -> dict[str, Any]:
    return {
        "issuer": url,
        "authorization_endpoint": f"{url}/authorize",
        "token_endpoint": f"{url}/token",
        "userinfo_endpoint": f"{url}/userinfo",
        "jwks_uri": f"{url}/jwks",
        "token_endpoint_auth_methods_supported": ["client_secret_basic"],
        "code_challenge_methods_supported": ["S256"],
    }


@contextmanager
def oidc_provider(callback: str) -> Iterator[Provider]:
    """One on a free port of loopback while the block runs."""
    http = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    provider = Provider(f"http://127.0.0.1:{http.server_address[1]}", callback)
    http.RequestHandlerClass = _handler(provider)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield provider
    finally:
        http.shutdown()
        http.server_close()
        thread.join(5)
