"""Contract §3's table and path rules, on a real Envoy."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Iterator

import jwt
import pytest
from cryptography.hazmat.primitives import serialization

from iam.addresses import address_of
from iam.origin import request_id_of
from tests.support_gateway import CONSOLE, World, endpoint, until
from tests.support_tokens import Key, bearer

pytestmark = pytest.mark.envoy

ID = "me-00000000-0000-4000-8000-0000000000"
USER = "aiplatform.user"
READY, PUBLIC, DEPLOYING, PAUSED, LONELY, FOREIGN, UNKNOWN = (f"{ID}{n:02}" for n in range(7))


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    world = World()
    try:
        dead = world.replica()
        dead.close()
        replica = world.replica()
        world.plane.publish(
            endpoint(READY, replica),
            endpoint(PUBLIC, world.replica(name="public"), private=False),
            endpoint(DEPLOYING, reason_code="pulling_image", reason="Pulling, 40% of 2 GB.", retry_after_s=5),
            endpoint(PAUSED, status="INACTIVE", reason_code="paused", reason="", private=False),
            endpoint(LONELY, dead),
            endpoint(FOREIGN, replica, project="p2"),
        )
        world.gateway.ready()
        yield world
    finally:
        world.close()


# --- tokens -----------------------------------------------------------------------------------------------


def test_a_valid_token_passes_and_is_not_passed_on(world: World) -> None:
    answer = world.gateway.get(f"/v1/{READY}/v1/models?x=1&y=%2F", world.key.token())
    assert answer.status == 200
    told = answer.json()
    assert told["target"] == "/v1/models?x=1&y=%2F"
    assert "authorization" not in dict(told["headers"])


@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
def test_the_scheme_may_be_written_small(world: World, scheme: str) -> None:
    answer = world.gateway.get(f"/v1/{READY}/x", authorization=f"{scheme} {world.key.token()}")
    assert answer.status == 200


def unsigned(world: World) -> str:
    parts = world.key.token().split(".")
    head = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').rstrip(b"=").decode()
    return f"{head}.{parts[1]}."


def signed_with_the_public_key(world: World) -> str:
    """HS256 whose secret is the public key: accepted by verifiers that let the token choose the algorithm."""
    pem = world.key.private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    body = world.key.token().split(".")[1]
    head = (
        base64.urlsafe_b64encode(json.dumps({"alg": "HS256", "kid": world.key.kid}).encode())
        .rstrip(b"=")
        .decode()
    )
    mac = hmac.new(pem, f"{head}.{body}".encode(), hashlib.sha256).digest()
    return f"{head}.{body}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


BAD_TOKENS = {
    "malformed": lambda w: "a.b.c",
    "empty": lambda w: "",
    "no JWT": lambda w: "sk-123",
    "other key": lambda w: Key("k1").token(),
    "unknown kid": lambda w: w.key.token(headers={"kid": "k9"}),
    "other issuer": lambda w: w.key.token(iss="http://evil.test"),
    "no issuer": lambda w: w.key.token(iss=None),
    "other audience": lambda w: w.key.token(aud="other"),
    "no audience": lambda w: w.key.token(aud=None),
    "no expiry": lambda w: w.key.token(exp=None),
    "not yet valid": lambda w: w.key.token(nbf=int(time.time()) + 300),
    "alg none": unsigned,
    "HS256 with the public key": signed_with_the_public_key,
    "RS512": lambda w: w.key.token(alg="RS512"),
    "PS256": lambda w: w.key.token(alg="PS256"),
    "tampered": lambda w: w.key.token()[:-6] + "AAAAAA",
}


@pytest.mark.parametrize("kind", BAD_TOKENS)
def test_bad_tokens_are_401(world: World, kind: str) -> None:
    answer = world.gateway.get(f"/v1/{READY}/x", authorization=f"Bearer {BAD_TOKENS[kind](world)}")
    assert answer.status == 401
    assert answer.code in ("invalid_token", "missing_token")
    assert (answer.header("www-authenticate") or "").startswith('Bearer error="')
    assert answer.header("content-type") == "application/json"
    assert set(answer.json()["error"]) == {"message", "type", "code"}


def test_no_token_and_an_expired_one_are_named(world: World) -> None:
    missing = world.gateway.get(f"/v1/{READY}/x")
    assert (missing.status, missing.code) == (401, "missing_token")
    assert (missing.header("www-authenticate") or "").startswith('Bearer error="invalid_request"')
    expired = world.gateway.get(f"/v1/{READY}/x", world.key.token(exp=int(time.time()) - 30))
    assert (expired.status, expired.code) == (401, "expired_token")
    assert (expired.header("www-authenticate") or "").startswith('Bearer error="invalid_token"')


def test_a_token_in_the_query_is_none(world: World) -> None:
    answer = world.gateway.get(f"/v1/{READY}/x?access_token={world.key.token()}")
    assert (answer.status, answer.code) == (401, "missing_token")


@pytest.mark.parametrize("sent", [None, "a.b.c"])
def test_without_a_token_no_id_can_be_told_from_another(world: World, sent: str | None) -> None:
    headers = bearer(sent) if sent else {}
    ids = (READY, DEPLOYING, LONELY, FOREIGN, UNKNOWN, "me-x", "anything")
    for path in ("", "/", "/x"):
        answers = {
            world.gateway.call("POST", f"/v1/{i}{path}", headers=headers, body=b"{}").status for i in ids
        }
        assert answers == {401}
    seen = {str(world.gateway.call("GET", f"/v1/{i}/x", headers=headers).comparable()) for i in ids}
    assert len(seen) == 1


# --- roles and projects -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "roles", [["aiplatform.viewer"], [], ["aiplatform.users"], ["x.aiplatform.user"], ["aiplatform"]]
)
def test_a_role_without_invoke_is_403(world: World, roles: object) -> None:
    for name in (READY, DEPLOYING):
        answer = world.gateway.get(f"/v1/{name}/x", world.key.token(roles=roles))
        assert (answer.status, answer.code) == (403, "permission_denied")


@pytest.mark.parametrize("role", ["aiplatform.user", "aiplatform.editor", "aiplatform.admin"])
def test_roles_with_invoke_pass(world: World, role: str) -> None:
    answer = world.gateway.get(f"/v1/{READY}/x", world.key.token(roles=["aiplatform.viewer", role]))
    assert answer.status == 200


@pytest.mark.parametrize(
    "access",
    [
        *(
            f"{project},{rest}"
            for project in ("p2", "P1", "p", "p11", "")
            for rest in (f"{USER},*,", "*,", "p1,")
        ),
        f"p2,p1,{USER},*,",
        "p1",
        "",
        None,
        7,
        [f"p1,{USER},*,"],
        {f"p1,{USER},*,": f"p1,{USER},*,"},
    ],
)
def test_another_projects_endpoint_is_an_unknown_one(world: World, access: object) -> None:
    token = world.key.token(access=access)
    unknown = world.gateway.get(f"/v1/{UNKNOWN}/x", token)
    assert (unknown.status, unknown.code) == (404, "endpoint_not_found")
    for name in (READY, DEPLOYING, LONELY):
        assert world.gateway.get(f"/v1/{name}/x", token).comparable() == unknown.comparable()
        assert world.gateway.call("HEAD", f"/v1/{name}/x", token=token).status == 404


# --- narrowing and revocation -----------------------------------------------------------------------------


@pytest.mark.parametrize("endpoints", [[READY], [UNKNOWN, READY], [PUBLIC, READY, FOREIGN]])
def test_a_narrowed_account_calls_the_endpoints_it_names(world: World, endpoints: list[str]) -> None:
    assert world.gateway.get(f"/v1/{READY}/x", world.key.token(endpoints=endpoints)).status == 200


@pytest.mark.parametrize(
    "named", ["", f"{DEPLOYING},", "me-,", f"{READY[:-1]},", f"{READY}0,", READY, "**,", "*"]
)
def test_and_no_other(world: World, named: str) -> None:
    answer = world.gateway.get(f"/v1/{READY}/x", world.key.token(access=f"p1,{USER},{named}"))
    assert (answer.status, answer.code) == (403, "endpoint_not_allowed")


def test_narrowing_tells_nothing_of_other_projects_and_comes_before_the_role(world: World) -> None:
    assert world.gateway.get(f"/v1/{FOREIGN}/x", world.key.token(endpoints=[READY])).status == 404
    viewer = world.key.token(endpoints=[], roles=["aiplatform.viewer"])
    assert world.gateway.get(f"/v1/{READY}/x", viewer).code == "endpoint_not_allowed"


def test_a_revoked_token_is_refused_wherever_it_is_shown(world: World) -> None:
    """But where no token is needed; and the next one of the same account is good."""
    world.gateway.publish(revoked=("sa-1:1", "sa-2:7"))
    try:
        for name in (READY, DEPLOYING, FOREIGN, UNKNOWN):
            answer = world.gateway.get(f"/v1/{name}/x", world.key.token())
            assert (answer.status, answer.code) == (401, "revoked_token")
            assert (answer.header("www-authenticate") or "").startswith('Bearer error="invalid_token"')
        forged = world.gateway.call(
            "GET",
            f"/v1/{READY}/x",
            token=world.key.token(),
            headers={"x-berth-grant": "sa-1:2", "berth-grant": "sa-1:2"},
        )
        assert forged.status == 401
        assert world.gateway.get(f"/v1/{PUBLIC}/x", world.key.token()).status == 200
        for grant in ("sa-1:2", "sa-1:11", "sa-2:1"):
            assert world.gateway.get(f"/v1/{READY}/x", world.key.token(grant=grant)).status == 200
    finally:
        world.gateway.publish(revoked=())
    assert world.gateway.get(f"/v1/{READY}/x", world.key.token()).status == 200


def test_what_the_filters_say_of_a_caller_stays_in_the_gateway(world: World) -> None:
    sent = {"x-berth-subject": "sa-9", "x-berth-grant": "sa-9:1", "X-Berth-Else": "1"}
    for name in (READY, PUBLIC):
        answer = world.gateway.call("GET", f"/v1/{name}/x", token=world.key.token(), headers=sent)
        assert answer.status == 200
        assert not [key for key, _value in answer.json()["headers"] if "berth" in key.lower()]


@pytest.mark.parametrize(
    "claims", [{}, {"roles": []}, {"project": "p2"}, {"endpoints": []}, {"project": "p2", "roles": []}]
)
def test_what_only_begins_like_an_id_is_unknown(world: World, claims: dict[str, object]) -> None:
    token = world.key.token(**claims)
    unknown = world.gateway.get(f"/v1/{UNKNOWN}/x", token)
    assert unknown.status == 404
    for name in (READY, FOREIGN, PUBLIC):
        for rest in ("0", "0/x", "%2Fx", ";/x"):
            assert world.gateway.get(f"/v1/{name}{rest}", token).comparable() == unknown.comparable(), rest


def test_a_public_endpoint_needs_no_token_and_gets_none(world: World) -> None:
    for headers in ({}, bearer("sk-whatever"), bearer(world.key.token(project="p9"))):
        answer = world.gateway.call("GET", f"/v1/{PUBLIC}/x", headers=headers)
        assert answer.status == 200
        assert "authorization" not in dict(answer.json()["headers"])


# --- endpoints that do not serve --------------------------------------------------------------------------


def test_an_endpoint_that_is_not_ready_says_so(world: World) -> None:
    answer = world.gateway.get(f"/v1/{DEPLOYING}/x", world.key.token())
    assert (answer.status, answer.code, answer.header("retry-after")) == (503, "pulling_image", "5")
    assert answer.json()["error"]["status"] == "DEPLOYING"
    assert "40% of 2 GB" in answer.json()["error"]["message"]
    assert answer.header("content-type") == "application/json"


def test_a_paused_endpoint_gives_no_hope(world: World) -> None:
    answer = world.gateway.get(f"/v1/{PAUSED}/x")
    assert (answer.status, answer.code, answer.header("retry-after")) == (503, "paused", None)
    assert answer.json()["error"]["status"] == "INACTIVE"


def test_no_living_replica_is_a_clean_503(world: World) -> None:
    answer = world.gateway.get(f"/v1/{LONELY}/x", world.key.token())
    assert (answer.status, answer.code, answer.header("retry-after")) == (503, "replica_unavailable", "1")
    assert "upstream" not in answer.body.decode()


def test_elsewhere_is_404_for_everybody(world: World) -> None:
    for path in ("/", "/v1", "/v2/x", "/admin", "/stats", "/internal/gateway/snapshot"):
        answer = world.gateway.get(path)
        assert (answer.status, answer.code) == (404, "not_found"), path


def test_malformed_requests_keep_the_shape(world: World) -> None:
    with world.gateway.raw() as connection:
        connection.sendall(b"GET /v1/x HTTP/1.1\r\nHost: a\r\nX-Long: " + b"a" * 100_000 + b"\r\n\r\n")
        head, _, body = connection.recv(65536).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 431")
    assert json.loads(body)["error"]["code"] == "http_431"


# --- paths ------------------------------------------------------------------------------------------------

PASSED_ON = {
    f"/v1/{READY}": "/",
    f"/v1/{READY}/": "/",
    f"/v1/{READY}?a=b": "/?a=b",
    f"/v1/{READY}//": "//",
    f"/v1/{READY}//v1//models//": "//v1//models//",
    f"/v1/{READY}/%2Fetc%2fpasswd": "/%2Fetc%2fpasswd",
    f"/v1/{READY}/a%5Cb": "/a%5Cb",
    f"/v1/{READY}/a/../b": "/b",
    f"/v1/{READY}/a/./b/": "/a/b/",
    f"/v1/{READY}/a/%2e%2e/b": "/b",
    f"/v1/{READY}/a/.%2E/b": "/b",
    f"/v1/{READY}/%252e%252e/b": "/%252e%252e/b",
    f"/v1/{READY}/..%2fb": "/..%2fb",
    f"/v1/{READY}/v1/{PUBLIC}/x": f"/v1/{PUBLIC}/x",
    f"/v1/{UNKNOWN}/../{READY}/x": "/x",
    f"/accounts-api/../v1/{READY}/x": "/x",
}


@pytest.mark.parametrize("path", PASSED_ON)
def test_paths_below_an_endpoint_pass(world: World, path: str) -> None:
    answer = world.gateway.get(path, world.key.token())
    assert answer.status == 200
    assert answer.json()["replica"] == "r"
    assert answer.json()["target"] == PASSED_ON[path]


NOWHERE = [
    f"/v1//{READY}/x",
    f"/v1/%2F{READY}/x",
    f"/v1/{READY}%2Fx",
    f"/v1/{READY}%2F..%2F{PUBLIC}/x",
    f"/v1/{UNKNOWN}/..%2F{READY}/x",
    f"/v1/{UNKNOWN}/%2e%2e%2f{READY}/x",
    f"/v1/{READY};x/y",
    f"/v1/{READY}x/y",
    f"/v1/{READY[:-1]}/y",
    f"/v1/{READY.upper()}/x",
    f"/v1/.{READY}/x",
]


@pytest.mark.parametrize("path", NOWHERE)
def test_what_only_resembles_an_endpoint_is_unknown(world: World, path: str) -> None:
    assert world.gateway.get(path).status == 401
    answer = world.gateway.get(path, world.key.token())
    assert (answer.status, answer.code) == (404, "endpoint_not_found")


@pytest.mark.parametrize(
    "path",
    [
        f"/v1/{PUBLIC}/../{READY}/x",
        f"/v1/{PUBLIC}/%2e%2e/{READY}/x",
        f"/v1/{PUBLIC}/x/..\\..\\{READY}/x",
        f"/v1/{PUBLIC}/.%2e/{READY}/x",
        f"/v1/{PUBLIC}/..;/{READY}/x",
        f"/v1/{PUBLIC}/..;a=b/{READY}/x",
        f"/accounts-api/../v1/{READY}/x",
        f"/accounts-api/%2e%2e/v1/{READY}/x",
    ],
)
def test_a_public_path_is_no_way_into_a_private_endpoint(world: World, path: str) -> None:
    assert world.gateway.get(path).status == 401


@pytest.mark.parametrize(
    "path", [f"//v1/{READY}/x", f"/v1%2F{READY}/x", f"/V1/{READY}/x", f"/./%2Fv1/{READY}/x"]
)
def test_what_only_resembles_the_prefix_leads_nowhere(world: World, path: str) -> None:
    answer = world.gateway.get(path, world.key.token())
    assert (answer.status, answer.code) == (404, "not_found")


def test_a_replica_is_never_reached_by_the_wrong_id(world: World) -> None:
    """Above, 'public' answers only for PUBLIC: a crossing would have shown as its name."""
    for path in (*PASSED_ON, *NOWHERE):
        answer = world.gateway.get(path, world.key.token())
        assert answer.status != 200 or answer.json()["replica"] == "r"


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"])
def test_any_method_passes(world: World, method: str) -> None:
    answer = world.gateway.call(method, f"/v1/{READY}/x", token=world.key.token())
    assert (answer.status, answer.json()["method"]) == (200, method)


# --- headers ----------------------------------------------------------------------------------------------


def test_claims_about_the_way_here_are_dropped(world: World) -> None:
    claims = {
        "X-Forwarded-For": "6.6.6.6",
        "X-Forwarded-Host": "evil.test",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Prefix": "/evil",
        "X_Forwarded_For": "6.6.6.6",
        "X-Real-IP": "6.6.6.6",
        "Forwarded": "for=6.6.6.6",
        "X-Envoy-Upstream-Rq-Timeout-Ms": "1",
        "X-Envoy-Original-Path": "/evil",
        "X-Berth-Project": "p2",
        "X-Request-Id": "chosen",
        "Cookie": "sessionid=secret",
    }
    answer = world.gateway.call("GET", f"/v1/{READY}/x", token=world.key.token(), headers=claims)
    told = {name.lower(): value for name, value in answer.json()["headers"]}
    assert not set(told.values()) & set(claims.values()) - {"http"}
    assert told["x-forwarded-proto"] == "http"
    assert told["x-request-id"] == answer.header("x-request-id")
    assert not {"cookie", "x-forwarded-for"} & told.keys()
    assert not [name for name in (*told, *dict(answer.headers)) if name.startswith("x-envoy")]
    assert answer.header("server") == "berth"


def test_the_control_plane_is_reached_by_its_own_name(world: World) -> None:
    body = b'{"grant_type":"client_credentials"}'
    headers = {
        "Authorization": "Basic abc",
        "Content-Type": "application/json",
        "Host": "evil.test",
        "X-Request-Id": "0b9f3a52-6d0e-4a11-8c3e-5a1f0c9d7e21",
        "X-Forwarded-For": "203.0.113.9",
    }
    answer = world.gateway.call("POST", "/accounts-api/v2/auth/token", headers=headers, body=body)
    told = answer.json()
    assert (told["target"], told["method"], told["body"]) == (
        "/accounts-api/v2/auth/token",
        "POST",
        body.decode(),
    )
    seen = {name.lower(): value for name, value in told["headers"]}
    assert (seen["authorization"], seen["host"]) == ("Basic abc", "console.test:8000")
    # One id from here to the control plane's log, in the form that it takes from gateways alone; so with the address.
    assert seen["x-request-id"] != headers["X-Request-Id"]
    assert request_id_of(seen["x-request-id"], trusted=True) == answer.header("x-request-id")
    caller = address_of("127.0.0.1", seen["x-forwarded-for"])
    assert caller == seen["x-forwarded-for"] != headers["X-Forwarded-For"]
    assert (
        world.gateway.get("/.well-known/openid-configuration").json()["target"]
        == "/.well-known/openid-configuration"
    )


def test_a_preflight_of_the_console_is_answered_alike_everywhere(world: World) -> None:
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    names = (READY, PUBLIC, DEPLOYING, FOREIGN, UNKNOWN)
    seen = set()
    for name in names:
        answer = world.gateway.call("OPTIONS", f"/v1/{name}/x", headers={"Origin": CONSOLE, **asked})
        assert (answer.status, answer.header("access-control-allow-origin")) == (204, CONSOLE)
        assert "authorization" in (answer.header("access-control-allow-headers") or "")
        assert answer.header("access-control-allow-credentials") is None
        seen.add(str(answer.comparable()))
    assert len(seen) == 1
    for origin in ("http://evil.test", CONSOLE + ".evil.test", "null", CONSOLE.upper()):
        for name in (READY, UNKNOWN):
            denied = world.gateway.call("OPTIONS", f"/v1/{name}/x", headers={"Origin": origin, **asked})
            assert denied.status == 401
            assert denied.header("access-control-allow-origin") == CONSOLE


def test_every_answer_may_be_read_by_the_console_alone(world: World) -> None:
    token = world.key.token()
    calls = [
        (READY, token),
        (READY, None),
        (DEPLOYING, token),
        (UNKNOWN, token),
        (PUBLIC, None),
        (LONELY, token),
    ]
    for name, sent in calls:
        answer = world.gateway.call("GET", f"/v1/{name}/x", token=sent, headers={"Origin": CONSOLE})
        assert [v for n, v in answer.headers if n == "access-control-allow-origin"] == [CONSOLE]
        assert "x-request-id" in (answer.header("access-control-expose-headers") or "")


# --- log --------------------------------------------------------------------------------------------------


def test_every_request_is_logged_without_secrets(world: World) -> None:
    token = world.key.token(sub="sa-log")
    answer = world.gateway.get(f"/v1/{READY}/v1/models?key=hidden", token)
    request_id = answer.header("x-request-id")
    line = until(
        lambda: next((x for x in world.gateway.access_log() if x["request_id"] == request_id), None),
        timeout_s=3,
        what="the access log line",
    )
    assert (line["endpoint"], line["sub"], line["status"]) == (READY, "sa-log", 200)
    assert (line["path"], line["method"], line["attempts"]) == ("/v1/models", "GET", 1)
    assert line["bytes_out"] == len(answer.body)
    assert line["duration_ms"] >= line["first_byte_ms"] >= 0
    text = (world.gateway.home / "access.log").read_text()
    assert "hidden" not in text
    assert jwt.decode(token, options={"verify_signature": False})["sub"] == "sa-log"
    assert token not in text
