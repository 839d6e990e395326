"""Revisions, roll-back, restart and variables in the management API."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.test import Client

from endpoints import services
from endpoints.models import Endpoint
from iam.actors import Actor
from iam.oauth import tokens
from iam.oauth.validator import client_for
from iam.roles import Role
from iam.services import create_service_account
from tests.conftest import seen_before
from tests.support_endpoints import crowded_endpoint, load_data, new_endpoint, ready_model

pytestmark = pytest.mark.django_db
URL = "/api/v1/endpoints/"
SECRET = "hunter2-very-secret"


@pytest.fixture(autouse=True)
def _data(db: None) -> None:
    load_data()


@pytest.fixture
def endpoint(editor_actor: Actor) -> Endpoint:
    """With two revisions and a secret."""
    made = new_endpoint(editor_actor, environment={"TOKEN": SECRET})
    services.update_endpoint(actor=editor_actor, endpoint=made, changes={"instance_type": "a1-standard-2x8"})
    return Endpoint.objects.get(pk=made.pk)


def send(client: Client, method: str, path: str, body: Any = None, **extra: Any) -> Any:
    data = None if body is None else json.dumps(body)
    return client.generic(method, path, data or "", content_type="application/json", **extra)


def one(endpoint: Endpoint, call: str = "") -> str:
    return f"{URL}{endpoint.id}/{call}"


def test_a_revision_as_the_api_shows_it(
    endpoint: Endpoint, editor_client: Client, editor_actor: Actor
) -> None:
    Endpoint.objects.filter(pk=endpoint.pk).update(revision=endpoint.revisions.get(number=1))
    failed = endpoint.revisions.get(number=2)
    failed.failed_code, failed.failed_params = "out_of_memory", {"memory": "8 GiB", "logs": "x"}
    failed.save()
    rows = editor_client.get(one(endpoint, "revisions/")).json()["results"]
    assert [row["number"] for row in rows] == [2, 1]
    assert rows[0].pop("created_at")
    assert rows[0] == {
        "number": 2,
        "state": "failed",
        "model": str(failed.model_id),
        "instance_type": "a1-standard-2x8",
        "settings": {},
        "environment_names": ["TOKEN"],
        "allow_interruption": False,
        "restores": None,
        "failed": {
            "code": "out_of_memory",
            "message": "The container needed more than its 8 GiB of memory and was ended by the kernel.",
            "action": "Choose a bigger instance type, or a shorter context.",
            "params": {"memory": "8 GiB"},
        },
        "diff": [
            {
                "field": "instance_type",
                "kind": "changed",
                "before": "local-cpu",
                "after": "a1-standard-2x8",
            }
        ],
        "author": "editor@example.org",
    }
    assert (rows[1]["state"], rows[1]["diff"], rows[1]["failed"]) == ("current", [], None)


def test_revisions_page_by_page_with_their_differences(
    endpoint: Endpoint, editor_client: Client, editor_actor: Actor, django_assert_max_num_queries: Any
) -> None:
    for number in range(6):
        change = {"settings": {"max_context": 512 + number}}
        services.update_endpoint(actor=editor_actor, endpoint=endpoint, changes=change)
    seen_before(editor_client)
    url: str | None = one(endpoint, "revisions/?page_size=3")
    seen: list[tuple[int, int]] = []
    while url:
        with django_assert_max_num_queries(8):
            answer = editor_client.get(url).json()
        seen += [(row["number"], len(row["diff"])) for row in answer["results"]]
        url = answer["next"]
    assert seen == [(8, 1), (7, 1), (6, 1), (5, 1), (4, 1), (3, 1), (2, 1), (1, 0)]


def test_patch_answers_with_the_new_revision_and_never_with_a_value(
    endpoint: Endpoint, editor_client: Client
) -> None:
    change = {"environment": {"TOKEN": None, "KEY": f"{SECRET}-2", "EMPTY": ""}}
    answer = send(editor_client, "PATCH", one(endpoint), change)
    assert (answer.status_code, answer.json()["revision"]) == (200, 3)
    assert answer.json()["environment_names"] == ["EMPTY", "KEY"]
    everything = answer.content.decode()
    for call in ("", "revisions/", "events/", "replicas/"):
        everything += editor_client.get(one(endpoint, call)).content.decode()
    everything += editor_client.get(URL).content.decode()
    assert SECRET not in everything
    again = send(editor_client, "PATCH", one(endpoint), {"environment": {"EMPTY": "", "TOKEN": None}})
    assert again.json()["revision"] == 3


def test_variables_come_with_the_first_revision_too(editor_client: Client, editor_actor: Actor) -> None:
    model = ready_model(editor_actor.project)
    body = {
        "name": "fresh",
        "region": "HCM",
        "model": str(model.id),
        "instance_type": "local-cpu",
        "environment": {"TOKEN": SECRET},
        "allow_interruption": True,
    }
    answer = send(editor_client, "POST", URL, body)
    assert answer.status_code == 201, answer.content
    assert answer.json()["environment_names"] == ["TOKEN"]
    assert SECRET not in answer.content.decode()
    revision = Endpoint.objects.get(name="fresh").revision
    assert revision is not None
    assert revision.environment == {"TOKEN": SECRET}


@pytest.mark.parametrize(
    "environment", [{"NVIDIA_VISIBLE_DEVICES": "all"}, {"A": "\0"}, {"A": {}}, {"A-": "x"}, ["A"], "A=1"]
)
def test_bad_variables_are_a_problem_at_their_field(
    endpoint: Endpoint, editor_client: Client, environment: Any
) -> None:
    answer = send(editor_client, "PATCH", one(endpoint), {"environment": environment})
    assert answer.status_code == 400
    assert answer["Content-Type"] == "application/problem+json"
    assert any(field.startswith("environment") for field in answer.json()["errors"])


def test_rolling_back(endpoint: Endpoint, editor_client: Client) -> None:
    answer = send(editor_client, "POST", one(endpoint, "rollback/"), {"revision": 1})
    assert (answer.status_code, answer.json()["revision"]) == (200, 3)
    assert answer.json()["instance_type"] == "local-cpu"
    newest = editor_client.get(one(endpoint, "revisions/")).json()["results"][0]
    assert (newest["restores"], newest["environment_names"]) == (1, ["TOKEN"])
    events = editor_client.get(one(endpoint, "events/")).json()["results"]
    assert events[0]["message"] == "Rolled back to revision 1, as revision 3"


@pytest.mark.parametrize(
    "body", [{}, {"revision": 0}, {"revision": "x"}, {"revision": 99}, {"revision": 2**40}]
)
def test_a_rollback_needs_a_revision_that_is_there(
    endpoint: Endpoint, editor_client: Client, body: dict[str, Any]
) -> None:
    answer = send(editor_client, "POST", one(endpoint, "rollback/"), body)
    assert answer.status_code == 400
    assert set(answer.json()["errors"]) == {"revision"}
    assert endpoint.revisions.count() == 2


def test_restarting_and_what_forbids_it(endpoint: Endpoint, editor_client: Client) -> None:
    assert send(editor_client, "POST", one(endpoint, "restart/")).status_code == 200
    endpoint.refresh_from_db()
    assert (endpoint.epoch, endpoint.revisions.count()) == (1, 2)
    send(editor_client, "POST", one(endpoint, "pause/"))
    answer = send(editor_client, "POST", one(endpoint, "restart/"))
    assert answer.status_code == 409
    assert answer["Content-Type"] == "application/problem+json"
    assert answer.json()["type"] == "urn:berth:problem:paused"
    send(editor_client, "DELETE", one(endpoint))
    assert send(editor_client, "POST", one(endpoint, "restart/")).status_code == 409
    assert send(editor_client, "POST", one(endpoint, "rollback/"), {"revision": 1}).status_code == 409


@pytest.fixture
def crowded(editor_actor: Actor) -> Endpoint:
    return crowded_endpoint(editor_actor)


CROWDED_CALLS: list[tuple[str, str, dict[str, Any]]] = [
    ("PATCH", "", {"settings": {"max_context": 1024}}),
    ("POST", "restart/", {}),
    ("POST", "rollback/", {"revision": 1}),
]


@pytest.mark.parametrize(("method", "call", "body"), CROWDED_CALLS)
def test_an_interruption_is_a_problem_of_its_own_until_it_is_allowed(
    crowded: Endpoint, editor_client: Client, method: str, call: str, body: dict[str, Any]
) -> None:
    answer = send(editor_client, method, one(crowded, call), body)
    assert answer.status_code == 409
    problem = answer.json()
    assert problem["type"] == "urn:berth:problem:needs-interruption"
    assert "needs 1 GPU more (rtx2080ti: 0 free of 1 in HCM)" in problem["detail"]
    assert "503 from when the present replica stops" in problem["detail"]
    figures = problem["params"]
    assert (figures["kind"], figures["needs"]["gpus"], figures["free"], figures["of"]) == ("gpus", 1, 0, 1)
    before = Endpoint.objects.get(pk=crowded.pk)
    assert before.epoch == 0
    answer = send(editor_client, method, one(crowded, call), {**body, "allow_interruption": True})
    assert answer.status_code == 200
    after = Endpoint.objects.get(pk=crowded.pk)
    assert after.generation == before.generation + 1
    assert after.revision is not None
    assert after.revision.allow_interruption is True


def _calls(endpoint: Endpoint) -> list[tuple[str, str, dict[str, Any] | None]]:
    return [
        ("GET", one(endpoint, "revisions/"), None),
        ("PATCH", one(endpoint), {"environment": {"A": "1"}}),
        ("POST", one(endpoint, "rollback/"), {"revision": 1}),
        ("POST", one(endpoint, "restart/"), {}),
    ]


def test_who_may_what(
    endpoint: Endpoint,
    owner_client: Client,
    owner_actor: Actor,
    viewer_client: Client,
    outsider_client: Client,
    client: Client,
) -> None:
    viewing, _ = create_service_account(owner_actor, "reader", [Role.VIEWER])
    editing, _ = create_service_account(owner_actor, "deployer", [Role.EDITOR])
    for method, path, body in _calls(endpoint):
        reads = method == "GET"
        assert send(client, method, path, body).status_code == 401, path
        assert send(viewer_client, method, path, body).status_code == (200 if reads else 403), path
        assert send(outsider_client, method, path, body).status_code == 404, path
        assert send(owner_client, method, path, body).status_code == 200, path
        for account, expected in ((viewing, 200 if reads else 403), (editing, 200)):
            bearer = {"Authorization": f"Bearer {tokens.issue(client_for(account))}"}
            answer = send(Client(), method, path, body, headers=bearer)
            assert answer.status_code == expected, (path, account.name)


def test_the_schema_describes_it(client: Client) -> None:
    schema = client.get("/api/schema/", headers={"accept": "application/json"}).json()
    paths = {path: item for path, item in schema["paths"].items() if "/endpoints/{" in path}
    by_end = {path.rstrip("/").rsplit("/", 1)[1]: item for path, item in paths.items()}
    parts = schema["components"]["schemas"]

    def body(item: dict[str, Any]) -> dict[str, Any]:
        ref = item["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        found: dict[str, Any] = parts[ref.rsplit("/", 1)[1]]
        return found

    assert body(by_end["rollback"])["required"] == ["revision"]
    assert set(body(by_end["restart"])["properties"]) == {"allow_interruption"}
    listed = by_end["revisions"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert "Revision" in json.dumps(listed)
    assert {"state", "diff", "failed", "restores", "environment_names"} <= set(
        parts["Revision"]["properties"]
    )
    assert "environment" not in parts["Revision"]["properties"]
    assert parts["Endpoint"]["properties"]["environment"]["writeOnly"] is True
