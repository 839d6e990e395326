"""Whatever is sent to the management API, it answers: never a 500, and 2xx only as its own schema says.

schemathesis makes requests from the OpenAPI schema, right ones and wrong ones, the same at each run; each is sent as
an admin's program and as a viewer's, half of them at objects that exist. Then values that databases choke on go into
every field and parameter there is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from django.core.signals import request_finished, request_started
from django.core.wsgi import get_wsgi_application
from django.db import close_old_connections, transaction
from django.test import Client
from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance

from iam import services
from iam.oauth import tokens
from iam.oauth.validator import client_for
from iam.roles import Role
from tests.conftest import signed_in
from tests.support_endpoints import load_data
from tests.support_tenancy import FILTERS, NO_OBJECT, Route, World, routes, world

pytestmark = pytest.mark.django_db

EXAMPLES = 2  # of a kind
CHECKS = [not_a_server_error, content_type_conformance, response_schema_conformance]


@pytest.fixture
def full() -> World:
    """A project with an object of each kind."""
    load_data()
    return world("zzalpha")


@pytest.fixture
def callers(full: World) -> dict[str, dict[str, str]]:
    """Headers by role."""
    viewer, _ = services.create_service_account(full.actor, "zz viewer", [Role.VIEWER])
    held = {"admin": full.token, "viewer": tokens.issue(client_for(viewer))}
    return {role: {"Authorization": f"Bearer {token}"} for role, token in held.items()}


@pytest.fixture
def one_connection() -> Iterator[None]:
    """As Django's own test client: the end of a request does not end the test's transaction."""
    for signal in (request_started, request_finished):
        signal.disconnect(close_old_connections)
    yield
    for signal in (request_started, request_finished):
        signal.connect(close_old_connections)


@pytest.mark.usefixtures("one_connection")
def test_requests_made_of_the_schema(full: World, callers: dict[str, dict[str, str]]) -> None:
    schema = schemathesis.openapi.from_wsgi("/api/schema/?format=json", get_wsgi_application())
    by_path = {route.template.replace("{pk}", "{id}"): route for route in routes() if route.is_api}
    faults: dict[str, str] = {}
    looked = 0
    for found in schema.get_all_operations():
        operation = found.ok()
        looked += 1
        known = by_path.get(operation.path)
        for case in examples(operation):
            for role, headers in callers.items():
                for real in (False, True) if known and known.objects else (False,):
                    if real:
                        assert known is not None
                        case.path_parameters = dict(_real(known, full))
                    try_one(case, role, headers, faults)
    assert faults == {}, "\n".join(faults.values())
    assert looked > 50


def examples(operation: Any) -> list[Any]:
    """Requests of one operation, right and wrong ones: the same at each run."""
    right = examples_of(operation, GenerationMode.POSITIVE)
    takes_something = operation.body or operation.query or operation.path_parameters
    return right + (examples_of(operation, GenerationMode.NEGATIVE) if takes_something else [])


def examples_of(operation: Any, mode: GenerationMode) -> list[Any]:
    """One kind of them."""
    made: list[Any] = []

    @settings(
        max_examples=EXAMPLES, database=None, derandomize=True, deadline=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck), verbosity=Verbosity.quiet,
    )  # fmt: skip
    @given(case=operation.as_strategy(generation_mode=mode))
    def collect(case: Any) -> None:
        made.append(case)

    collect()
    return made


def _real(route: Route, full: World) -> Iterator[tuple[str, str]]:
    for name in route.objects:
        yield "id" if name == "pk" else name, full.ids[route.arguments[name]]


def try_one(case: Any, role: str, headers: dict[str, str], faults: dict[str, str]) -> None:
    """Send it; what it changed is taken back. One fault an operation is enough."""
    name = f"{case.method} {case.operation.path} as {role}"
    if name in faults:
        return
    try:
        with transaction.atomic():
            response = case.call(headers=headers)
            transaction.set_rollback(True)
        case.validate_response(response, checks=CHECKS)
    except (Exception, FailureGroup) as error:
        faults[name] = f"{type(error).__name__}: {error}"[:1500]


# --- values that databases choke on -----------------------------------------------------------------------

NOT_STORABLE = ("a\0b", "\ud800")  # PostgreSQL takes no NUL, UTF-8 no half of a pair
TEXTS = (*NOT_STORABLE, "x" * 70_000)
NUMBERS = (2**63, -(2**70))
OBJECTS = (
    {"a\0": "b"},
    {"a": "b\0"},
    {"\ud800": 1},
    {"a": "\ud800"},
    {"a": 2**70},
    {"a": float("nan")},
    {"a": [[[{}]]]},
)
OTHERS = (None, [None], {})
QUERIES = ("a%00b", "%ed%a0%80", str(2**70), "x" * 5000)


def bodies(full: World) -> dict[str, dict[str, Any]]:
    """What a creation needs besides the field that is tried, so that it gets as far as the database."""
    return {
        "/api/v1/endpoints/": {
            "name": "zzfuzz", "region": "HCM", "model": full.ids["model"], "instance_type": "local-cpu",
        },
        "/api/v1/models/": {
            "name": "zzfuzz", "framework": "custom", "source": "image", "image": "x.example/y", "port": 80,
        },
        "/api/v1/service-accounts/": {"name": "zzfuzz", "roles": ["aiplatform.user"]},
        "/api/v1/api-keys/": {"name": "zzfuzz"},
        "/api/v1/invitations/": {"email": "a@b.example", "role": "aiplatform.user"},
    }  # fmt: skip


def poisons(shape: dict[str, Any]) -> Iterator[Any]:
    """Values for one property. A list gets each of them as its only item, too."""
    kinds = {part.get("type") for part in (shape, *shape.get("oneOf", ()), *shape.get("allOf", ()))}
    yield from TEXTS if kinds & {"string", None} else TEXTS[:1]
    yield from NUMBERS if kinds & {"integer", "number", None} else NUMBERS[:1]
    yield from OBJECTS if kinds & {"object", None} else ()
    if "array" in kinds:
        yield from ([value] for value in (*TEXTS, *NUMBERS, *OBJECTS))
    yield from OTHERS


def properties(
    schema: dict[str, Any], shape: dict[str, Any], before: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Any]]:
    """(path of names, shape) of every property of a request, nested ones as well."""
    for name, inner in resolved(schema, shape).get("properties", {}).items():
        real = resolved(schema, inner)
        if not inner.get("readOnly") and not real.get("readOnly"):
            yield (*before, name), real
            yield from properties(schema, real, (*before, name))


def resolved(schema: dict[str, Any], shape: dict[str, Any]) -> dict[str, Any]:
    """Without references."""
    for inner in (shape, *shape.get("allOf", ())):
        if "$ref" in inner:
            found: dict[str, Any] = schema["components"]["schemas"][inner["$ref"].rsplit("/", 1)[1]]
            return found
    return shape


def test_values_that_databases_choke_on(full: World, callers: dict[str, dict[str, str]]) -> None:
    client = Client(headers=callers["admin"], raise_request_exception=False)
    schema = client.get("/api/schema/?format=json", headers={"Authorization": ""}).json()
    wrong: list[str] = []
    sent = 0
    for path, method, operation in operations(schema):
        (address,) = addresses_of(path, full)
        shape = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
        for names, kind in properties(schema, shape) if shape else ():
            for value in poisons(kind):
                body = filled(bodies(full).get(path, {}), names, value)
                status = once(client, method, address, body)
                sent += 1
                refused = 400 <= status < 500
                if status >= 500 or (value in NOT_STORABLE and not refused):
                    wrong.append(f"{method} {path} {'.'.join(names)}={value!r:.40}: {status}")
        for parameter in operation.get("parameters", ()):
            for text in QUERIES if parameter["in"] == "query" else ():
                status = once(client, method, f"{address}?{parameter['name']}={text}", {})
                sent += 1
                if status >= 500:
                    wrong.append(f"{method} {path}?{parameter['name']}={text:.40}: {status}")
        if "{" in path:
            for text in QUERIES:
                nowhere = path.replace("{id}", text).replace("{secret_id}", text)
                if (status := once(client, method, nowhere, {})) >= 500:
                    wrong.append(f"{method} {nowhere:.80}: {status}")
    assert wrong == [], "\n".join(wrong)
    assert sent > 500


def operations(schema: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(path, method, description)."""
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def addresses_of(path: str, full: World) -> list[str]:
    """That path with the objects of the world."""
    return [
        address
        for route in routes()
        if route.template.replace("{pk}", "{id}") == path
        for address in route.addresses(full)
    ]


def filled(base: dict[str, Any], names: tuple[str, ...], value: Any) -> dict[str, Any]:
    """`base` with one value at a path of names."""
    body = dict(base)
    inner = body
    for name in names[:-1]:
        inner[name] = inner = dict(inner.get(name, {}))
    inner[names[-1]] = value
    return body


def once(client: Client, method: str, address: str, body: dict[str, Any]) -> int:
    """The status; what it changed is taken back."""
    with transaction.atomic():
        if method == "get":
            status = client.get(address).status_code
        else:
            status = getattr(client, method)(
                address, json.dumps(body), content_type="application/json"
            ).status_code
        transaction.set_rollback(True)
    return int(status)


@pytest.mark.parametrize(
    "body", ["[" * 100_000, '{"name": ' + "9" * 5000 + "}", '{"name": NaN}', "{", '"\\ud800"', "\udcff"]
)
def test_bodies_that_are_none(callers: dict[str, dict[str, str]], body: str) -> None:
    client = Client(headers=callers["admin"])
    sent = body.encode(errors="surrogateescape")
    answer = client.post("/api/v1/service-accounts/", sent, content_type="application/json")
    assert answer.status_code == 400
    assert answer["Content-Type"] == "application/problem+json"
    odd = client.generic(
        "POST", "/api/v1/service-accounts/", b"{}", content_type="application/json; charset=nonsense"
    )
    assert odd.status_code == 400


def test_pages_that_are_asked_for_nonsense(full: World) -> None:
    """Every page and list with every parameter that any of them knows, as nonsense."""
    client = signed_in(full.owner)
    client.raise_request_exception = False
    wrong = []
    for route in routes():
        for address in route.addresses(full):
            for text in QUERIES[:2]:
                query = "&".join(
                    f"{name}={text}" for name in (*FILTERS, *NO_OBJECT, "q", "page", "next", "tab")
                )
                status = client.get(f"{address}?{query}").status_code
                if status >= 500 and not route.template.startswith("/accounts/"):
                    wrong.append(f"{address}: {status} for {text}")
    assert wrong == []
