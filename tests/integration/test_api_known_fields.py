"""No call of the management API passes over a name that nobody knows, and each takes back what it has answered.

The calls are those of the API's own table, so that a new one is asked by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from drf_spectacular.generators import SchemaGenerator
from rest_framework.serializers import BaseSerializer

from config.known_fields import KnownFields
from iam.models import AuditEvent
from tests.conftest import signed_in
from tests.support_endpoints import load_data
from tests.support_tenancy import World, world

pytestmark = pytest.mark.django_db
JSON = "application/json"
API = "/api/v1"


@pytest.fixture(scope="module")
def writes() -> dict[str, type[BaseSerializer[Any]]]:
    """Operation → what reads its body."""
    return dict(_writes())


def _writes() -> Iterator[tuple[str, type[BaseSerializer[Any]]]]:
    generator: Any = SchemaGenerator()
    generator._initialise_endpoints()
    for path, _pattern, method, view in generator._get_paths_and_endpoints():
        if method not in ("POST", "PUT", "PATCH"):
            continue
        view.schema.view, view.schema.method, view.schema.path = view, method, path
        shape = view.schema.get_request_serializer()
        if shape is not None:
            yield f"{method} {path}", shape if isinstance(shape, type) else type(shape)


def test_whatever_reads_a_body_knows_its_fields(writes: dict[str, type[BaseSerializer[Any]]]) -> None:
    assert len(writes) > 12
    assert [name for name, shape in writes.items() if not issubclass(shape, KnownFields)] == []


@pytest.fixture
def full() -> World:
    load_data()
    return world("zzalpha")


def addresses(full: World) -> dict[str, str]:
    """Of what can be read and then changed."""
    return {
        kind: f"{API}/{kind}/{full.ids[name]}/"
        for kind, name in (
            *(("endpoints", "endpoint"), ("models", "model"), ("service-accounts", "account")),
            ("members", "member"),
        )
    }


def test_unknown_names_are_400_and_say_what_may_be_meant(full: World) -> None:
    client = signed_in(full.owner)
    for address in addresses(full).values():
        answer = client.patch(address, {"naem": "x", "rolle": "y", "quux": 1}, content_type=JSON)
        assert answer.status_code == 400, (address, answer.content)
        errors = answer.json()["errors"]
        assert set(errors) == {"naem", "rolle", "quux"}
        assert errors["quux"][0].startswith("There is no such field. Known are: ")
    assert errors["rolle"] == ["There is no such field. Nearest to it: role."]
    nested = client.patch(addresses(full)["endpoints"], {"limits": {"tokens_a_month": 1}}, content_type=JSON)
    assert nested.status_code == 400
    assert nested.json()["errors"] == {
        "limits.tokens_a_month": [
            "There is no such field. Nearest to it: tokens_per_month, tokens_per_minute."
        ]
    }
    created = {
        "endpoints": {"name": "n"}, "models": {"name": "n"}, "service-accounts": {"name": "n", "roles": []},
        "api-keys": {"name": "n"}, "members": {"email": "a@b.example"}, "invitations": {},
    }  # fmt: skip
    for kind, body in created.items():
        answer = client.post(f"{API}/{kind}/", {**body, "quux": 1}, content_type=JSON)
        assert (answer.status_code, "quux" in answer.json()["errors"]) == (400, True), (kind, answer.content)


def test_what_was_answered_can_be_sent_back(full: World) -> None:
    client = signed_in(full.owner)
    events = AuditEvent.objects.count()
    for kind, address in addresses(full).items():
        got = client.get(address).json()
        answer = client.patch(address, got, content_type=JSON)
        assert answer.status_code == 200, (kind, answer.content)
        again = answer.json()
        for moment in ("updated_at", "deployment"):
            got.pop(moment, None), again.pop(moment, None)
        assert again == got
    assert AuditEvent.objects.count() == events, "nothing has changed"
    fixed = client.patch(addresses(full)["models"], {"framework": "vllm"}, content_type=JSON)
    assert set(fixed.json()["errors"]) == {"framework"}
    moved = client.patch(addresses(full)["endpoints"], {"region": "HAN"}, content_type=JSON)
    assert set(moved.json()["errors"]) == {"region"}


def test_the_answer_to_a_creation_can_be_sent_back_with_its_secret(full: World) -> None:
    client = signed_in(full.owner)
    made = client.post(
        f"{API}/service-accounts/", {"name": "n", "roles": ["aiplatform.user"]}, content_type=JSON
    ).json()
    assert made["client_secret"]
    answer = client.patch(f"{API}/service-accounts/{made['id']}/", made, content_type=JSON)
    assert answer.status_code == 200, answer.content
    assert "client_secret" not in answer.json()
