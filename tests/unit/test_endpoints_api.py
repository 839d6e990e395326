"""The management API's endpoints: shapes, errors, and who may what."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from endpoints import services
from endpoints.models import Endpoint
from iam.actors import Actor
from tests.support_endpoints import load_data, new_endpoint, ready_model

pytestmark = pytest.mark.django_db
URL = "/api/v1/endpoints/"


@pytest.fixture(autouse=True)
def _data(db: None) -> None:
    load_data()


def body_for(actor: Actor, **changes: Any) -> dict[str, Any]:
    """The contract's example, on a machine without a GPU."""
    model = ready_model(actor.project)
    autoscaling = {
        "cpu_percent": 70,
        "memory_percent": 80,
        "latency_ms": None,
        "in_flight": 8,
        "idle_timeout_s": None,
        "scale_up_after_s": 15,
        "scale_down_after_s": 120,
    }
    body: dict[str, Any] = {
        "name": "embed-01",
        "region": "HCM",
        "model": str(model.id),
        "instance_type": "local-cpu",
        "min_replicas": 1,
        "max_replicas": 3,
        "private": True,
        "autoscaling": autoscaling,
    }
    return {**body, **changes}


def test_create_answers_with_everything_the_contract_names(
    editor_client: Client, editor_actor: Actor
) -> None:
    sent = body_for(editor_actor)
    answer = editor_client.post(URL, sent, content_type="application/json")
    assert answer.status_code == 201, answer.content
    got = answer.json()
    assert {key: got[key] for key in sent if key != "autoscaling"} == {
        key: value for key, value in sent.items() if key != "autoscaling"
    }
    assert got["autoscaling"] == {**sent["autoscaling"], "gpu_percent": None}
    assert got["id"].startswith("me-")
    assert got["url"].endswith(f"/v1/{got['id']}")
    assert got["status"] == "PENDING"
    assert got["status_reason"]["code"] == "queued"
    assert got["replica_count"] == {"wanted": 1, "ready": 0}
    assert got["revision"] == 1
    assert editor_client.get(f"{URL}{got['id']}/").json() == got


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": "a/b"}, "name"),
        ({"name": ""}, "name"),
        ({"model": "nope"}, "model"),
        ({"min_replicas": "many"}, "min_replicas"),
        ({"min_replicas": 9}, "min_replicas"),
        ({"autoscaling": {"gpu_percent": 50}}, "autoscaling.gpu_percent"),
        ({"autoscaling": {"cpu_percent": 0}}, "autoscaling.cpu_percent"),
        ({"autoscaling": {"cpu_percent": 101}}, "autoscaling.cpu_percent"),
        ({"autoscaling": {"cpu_percent": 70.5}}, "autoscaling.cpu_percent"),
        ({"autoscaling": {"cpu_percent": "many"}}, "autoscaling.cpu_percent"),
        ({"autoscaling": {"latency_ms": 10**30}}, "autoscaling.latency_ms"),
        ({"autoscaling": {"in_flight": 0}}, "autoscaling.in_flight"),
        ({"autoscaling": {"scale_up_after_s": -1}}, "autoscaling.scale_up_after_s"),
        ({"autoscaling": {"scale_down_after_s": 3601}}, "autoscaling.scale_down_after_s"),
        ({"min_replicas": 0}, "autoscaling.idle_timeout_s"),
    ],
)
def test_bad_input_is_a_problem_with_its_field(
    editor_client: Client, editor_actor: Actor, changes: dict[str, Any], field: str
) -> None:
    answer = editor_client.post(URL, body_for(editor_actor, **changes), content_type="application/json")
    assert answer.status_code == 400
    assert answer["Content-Type"] == "application/problem+json"
    problem = answer.json()
    assert {"type", "title", "status", "detail"} <= set(problem)
    assert field in problem["errors"]


def test_patch_of_counts_makes_no_revision_and_of_the_instance_type_does(
    editor_client: Client, editor_actor: Actor
) -> None:
    endpoint = new_endpoint(editor_actor)
    url = f"{URL}{endpoint.id}/"
    counts = {"max_replicas": 5, "autoscaling": {"latency_ms": 400}}
    got = editor_client.patch(url, counts, content_type="application/json").json()
    assert (got["max_replicas"], got["autoscaling"]["latency_ms"], got["revision"]) == (5, 400, 1)
    got = editor_client.patch(
        url, {"instance_type": "a1-standard-2x8"}, content_type="application/json"
    ).json()
    assert (got["instance_type"], got["revision"]) == ("a1-standard-2x8", 2)
    history = editor_client.get(f"{url}revisions/").json()["results"]
    assert [item["number"] for item in history] == [2, 1]


def test_times_of_scaling_have_defaults_that_null_brings_back(
    editor_client: Client, editor_actor: Actor
) -> None:
    body = body_for(editor_actor)
    del body["autoscaling"]
    made = editor_client.post(URL, body, content_type="application/json").json()
    times = ("scale_up_after_s", "scale_down_after_s")
    assert [made["autoscaling"][name] for name in times] == [15, 300]
    url = f"{URL}{made['id']}/"

    def patched(**changes: Any) -> Any:
        return editor_client.patch(url, {"autoscaling": changes}, content_type="application/json").json()[
            "autoscaling"
        ]

    got = patched(scale_up_after_s=0, scale_down_after_s=60, in_flight=4)
    assert (got["scale_up_after_s"], got["scale_down_after_s"], got["in_flight"]) == (0, 60, 4)
    got = patched(scale_up_after_s=None)
    assert (got["scale_up_after_s"], got["scale_down_after_s"], got["in_flight"]) == (15, 60, 4)
    assert Endpoint.objects.get().revisions.count() == 1


def test_the_region_of_an_endpoint_stays(editor_client: Client, editor_actor: Actor) -> None:
    endpoint = new_endpoint(editor_actor)
    answer = editor_client.patch(f"{URL}{endpoint.id}/", {"region": "HAN"}, content_type="application/json")
    assert answer.status_code == 400
    assert "region" in answer.json()["errors"]


def test_list_searches_filters_orders_and_pages(editor_client: Client, editor_actor: Actor) -> None:
    model = ready_model(editor_actor.project)
    for name in ("beta", "alpha", "gamma"):
        new_endpoint(editor_actor, model, name=name)

    def names(query: str) -> list[str]:
        return [item["name"] for item in editor_client.get(f"{URL}?{query}").json()["results"]]

    assert names("ordering=name") == ["alpha", "beta", "gamma"]
    assert names("search=amm") == ["gamma"]
    assert names("status=ACTIVE") == []
    assert names("region=HCM&ordering=-name") == ["gamma", "beta", "alpha"]
    first = editor_client.get(f"{URL}?ordering=name&page_size=2").json()
    assert len(first["results"]) == 2
    second = editor_client.get(first["next"]).json()
    assert [item["name"] for item in second["results"]] == ["gamma"]


def test_listing_costs_the_same_at_any_size(
    editor_client: Client, editor_actor: Actor, django_assert_max_num_queries: Any
) -> None:
    model = ready_model(editor_actor.project)
    for number in range(30):
        new_endpoint(editor_actor, model, name=f"e{number}")
    with django_assert_max_num_queries(12):
        assert len(editor_client.get(URL).json()["results"]) == 30


def test_switches_and_deletion(editor_client: Client, editor_actor: Actor) -> None:
    endpoint = new_endpoint(editor_actor)
    url = f"{URL}{endpoint.id}/"
    for name in ("pause", "resume", "restart"):
        assert editor_client.post(f"{url}{name}/", {}, content_type="application/json").status_code == 200
    kinds = [item["kind"] for item in editor_client.get(f"{url}events/").json()["results"]]
    assert kinds == ["endpoint.restarted", "endpoint.resumed", "endpoint.paused", "endpoint.created"]
    assert editor_client.get(f"{url}replicas/").json()["results"] == []
    assert editor_client.delete(url).status_code == 202
    endpoint.refresh_from_db()
    assert endpoint.deleting_at is not None
    assert editor_client.post(f"{url}pause/").status_code == 409


def _calls(endpoint: Endpoint) -> list[tuple[str, str, bool]]:
    """(method, path, does it change something) for everything there is."""
    one = f"{URL}{endpoint.id}/"
    reads = [URL, one, f"{one}events/", f"{one}replicas/", f"{one}revisions/"]
    changes = [("post", URL), ("patch", one), ("delete", one)]
    changes += [("post", f"{one}{name}/") for name in ("pause", "resume", "restart")]
    return [("get", path, False) for path in reads] + [(method, path, True) for method, path in changes]


def test_who_may_what(
    viewer_client: Client, outsider_client: Client, editor_actor: Actor, client: Client
) -> None:
    endpoint = new_endpoint(editor_actor)
    for method, path, is_change in _calls(endpoint):
        anonymous = getattr(client, method)(path, {}, content_type="application/json")
        assert anonymous.status_code == 401, (method, path)
        viewer = getattr(viewer_client, method)(
            path, {} if is_change else None, content_type="application/json"
        )
        assert viewer.status_code == (403 if is_change else 200), (method, path)
        if path != URL:
            outsider = getattr(outsider_client, method)(
                path, {} if is_change else None, content_type="application/json"
            )
            assert outsider.status_code == 404, (method, path)
    assert outsider_client.get(URL).json()["results"] == []


def test_regions_and_instance_types(viewer_client: Client) -> None:
    regions = viewer_client.get("/api/v1/regions/").json()["results"]
    assert {"code": "HCM", "name": "Ho Chi Minh City"} in regions
    types = viewer_client.get("/api/v1/instance-types/").json()["results"]
    by_name = {item["name"]: item for item in types}
    assert by_name["g1-standard-4x16-1rtx2080ti"]["price_month"] == "4944500.00"
    assert len(by_name) == 19


def test_schema_names_the_endpoints(client: Client) -> None:
    schema = client.get("/api/schema/", HTTP_ACCEPT="application/json").json()
    assert (
        "/api/v1/endpoints/{id}/pause/" in schema["paths"]
        or "/api/v1/endpoints/{pk}/pause/" in schema["paths"]
    )


def test_an_endpoint_being_deleted_takes_no_changes(editor_client: Client, editor_actor: Actor) -> None:
    endpoint = new_endpoint(editor_actor)
    services.delete_endpoint(actor=editor_actor, endpoint=endpoint)
    answer = editor_client.patch(f"{URL}{endpoint.id}/", {"name": "x"}, content_type="application/json")
    assert answer.status_code == 409


def test_logs_of_a_failed_replica_are_kept(editor_client: Client, editor_actor: Actor) -> None:
    endpoint = new_endpoint(editor_actor)
    url = f"{URL}{endpoint.id}/logs/"
    assert editor_client.get(url).status_code == 404
    replica = endpoint.replicas.create(
        revision=endpoint.revision, slot=1, name="r1", state="failed", evidence={"logs": "one\ntwo\nthree"}
    )
    assert editor_client.get(f"{url}?tail=2").json() == {
        "replica": str(replica.id),
        "name": "r1",
        "lines": ["two", "three"],
    }
    assert editor_client.get(f"{url}?replica={replica.id}").json()["lines"] == ["one", "two", "three"]
    assert editor_client.get(f"{url}?replica={endpoint.id[3:]}").status_code == 404
    assert "tail" in editor_client.get(f"{url}?tail=0").json()["errors"]
    assert "replica" in editor_client.get(f"{url}?replica=../etc").json()["errors"]
