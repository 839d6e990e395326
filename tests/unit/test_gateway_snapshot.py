"""What the gateways are told, from the targets alone."""

from __future__ import annotations

import copy
import json
import random
from dataclasses import replace
from typing import Any

import pytest

from gateway import clusters, consistency, filters, names, snapshot
from gateway.answers import MESSAGE_LIMIT
from gateway.targets import EndpointTarget, GatewayTargets, ReplicaTarget, Serving, TokenPolicy

JWK = {"kty": "RSA", "kid": "k1", "n": "AQAB", "e": "AQAB", "d": "secret", "p": "secret", "alg": "PS256"}
CONTROL = {"127.0.0.1:8000"}
TOKENS = TokenPolicy("http://iam.test", "aud", json.dumps({"keys": [JWK]}), ("aiplatform.user",))


def ready(name: str, *ports: int, **fields: Any) -> EndpointTarget:
    replicas = tuple(ReplicaTarget(f"r-{p}", "10.0.0.1", p) for p in ports)
    return EndpointTarget(name, "p1", True, Serving.READY, "ACTIVE", replicas=replicas, **fields)


def asleep(name: str, **fields: Any) -> EndpointTarget:
    values: dict[str, Any] = {
        "status": "DEPLOYING",
        "reason_code": "pulling_image",
        "reason": "Pulling.",
        **fields,
    }
    return EndpointTarget(name, "p1", True, Serving.UNAVAILABLE, **values)


def targets(*endpoints: EndpointTarget, **changes: Any) -> GatewayTargets:
    return replace(GatewayTargets(endpoints, TOKENS, ("127.0.0.1", 8000), "http://localhost:8000"), **changes)


def addresses(built: snapshot.Snapshot) -> frozenset[str]:
    return clusters.addresses(built.resources[names.CLUSTERS], built.resources[names.ASSIGNMENTS])


def leaf(built: snapshot.Snapshot, key: str) -> dict[str, Any]:
    tree = built.resources[names.ROUTES]["resources"][0]["virtual_hosts"][0]["matcher"]["on_no_match"][
        "matcher"
    ]["matcher_tree"]
    return dict(tree["prefix_match_map"]["map"][key]["action"]["typed_config"])


def test_same_content_in_any_order_is_the_same_version() -> None:
    endpoints = [ready(f"me-{i}", 1, 2, 3) for i in range(20)]
    shuffled = [replace(e, replicas=tuple(reversed(e.replicas))) for e in endpoints]
    random.Random(1).shuffle(shuffled)
    assert snapshot.build(targets(*endpoints)) == snapshot.build(targets(*shuffled))


@pytest.mark.parametrize(
    "change",
    [
        {"project": "p2"},
        {"private": False},
        {"replicas": (ReplicaTarget("r-9", "10.0.0.9", 9),)},
        {"replicas": ()},
        {"serving": Serving.UNAVAILABLE},
    ],
)
def test_every_change_of_an_endpoint_changes_version_and_its_digest_alone(change: dict[str, Any]) -> None:
    before = snapshot.build(targets(ready("me-a", 1), ready("me-b", 1)))
    after = snapshot.build(targets(replace(ready("me-a", 1), **change), ready("me-b", 1)))
    assert before.version != after.version
    assert before.endpoints["me-a"] != after.endpoints["me-a"]
    assert before.endpoints["me-b"] == after.endpoints["me-b"]


def test_a_digest_needs_no_snapshot() -> None:
    target = ready("me-a", 2, 1)
    assert snapshot.build(targets(target)).endpoints == {"me-a": snapshot.endpoint_digest(target)}


def test_a_ready_endpoint_without_replicas_is_unavailable() -> None:
    built = snapshot.build(targets(ready("me-a")))
    assert "direct_response" in leaf(built, "/v1/me-a")
    assert [c["name"] for c in built.resources[names.CLUSTERS]["resources"]] == [names.CONTROL_PLANE]


ACTIVATOR = {"activator": "unix:/run/activator.sock", "activator_secret": "s3cret"}


def sleeping(name: str) -> EndpointTarget:
    return EndpointTarget(name, "p1", True, Serving.HOLD, "")


def test_requests_to_what_sleeps_go_to_the_activator_in_its_name() -> None:
    built = snapshot.build(targets(sleeping("me-a"), sleeping("me-b"), ready("me-c", 1), **ACTIVATOR))
    assert consistency.check(built.resources) == []
    route, served = leaf(built, "/v1/me-a"), leaf(built, "/v1/me-c")
    assert route["route"]["cluster"] == names.ACTIVATOR
    assert route["route"]["regex_rewrite"] == leaf(built, "/v1/me-c")["route"]["regex_rewrite"]
    told = {item["header"]["key"]: item["header"]["value"] for item in route["request_headers_to_add"]}
    assert told == {names.ENDPOINT_HEADER: "me-a", names.SECRET_HEADER: "s3cret"}
    assert route["request_headers_to_remove"] == served["request_headers_to_remove"]
    guard, other = (json.dumps(item["typed_per_filter_config"]) for item in (route, served))
    assert guard.replace("me-a", "me-c") == other
    assert "request_headers_to_add" not in served
    (cluster,) = [c for c in built.resources[names.CLUSTERS]["resources"] if c["name"] == names.ACTIVATOR]
    assert "outlier_detection" not in cluster
    assert built.addresses == {"10.0.0.1:1"} == addresses(built) - CONTROL
    assert "s3cret" not in repr(targets(**ACTIVATOR))


@pytest.mark.parametrize("where", ["10.0.0.7:8081", "[fd00::7]:8081"])
def test_an_activator_may_be_on_another_machine(where: str) -> None:
    built = snapshot.build(targets(sleeping("me-a"), activator=where, activator_secret="s"))
    assert where.replace("[", "").replace("]", "") in addresses(built)
    assert built.addresses == frozenset()


def test_a_route_that_holds_in_another_endpoints_name_is_found() -> None:
    built = snapshot.build(targets(sleeping("me-a"), **ACTIVATOR))
    broken = copy.deepcopy(built.resources)
    tree = broken[names.ROUTES]["resources"][0]["virtual_hosts"][0]["matcher"]["on_no_match"]["matcher"]
    route = tree["matcher_tree"]["prefix_match_map"]["map"]["/v1/me-a"]["action"]["typed_config"]
    route["request_headers_to_add"][0]["header"]["value"] = "me-b"
    assert consistency.check(broken) == ["route me-a leads to the cluster of activator"]


def test_falling_asleep_and_failing_elsewhere_changes_routes_alone() -> None:
    before = snapshot.build(targets(sleeping("me-a"), **ACTIVATOR))
    after = snapshot.build(targets(asleep("me-a"), **ACTIVATOR))
    changed = [name for name in names.FILES if before.resources[name] != after.resources[name]]
    assert changed == [names.ROUTES]


def test_without_an_activator_what_sleeps_is_refused() -> None:
    built = snapshot.build(targets(sleeping("me-a")))
    assert leaf(built, "/v1/me-a")["direct_response"]["status"] == 503
    assert [c["name"] for c in built.resources[names.CLUSTERS]["resources"]] == [names.CONTROL_PLANE]


def test_an_unavailable_endpoint_says_why() -> None:
    target = asleep("me-a", reason='Pulling "x" \n 50%\r\nX-Evil: 1', retry_after_s=5)
    route = leaf(snapshot.build(targets(target)), "/v1/me-a")
    body = json.loads(route["direct_response"]["body"]["inline_string"])
    assert body == {
        "error": {
            "message": 'The endpoint is still being deployed: Pulling "x" 50% X-Evil: 1',
            "type": "server_error",
            "code": "pulling_image",
            "status": "DEPLOYING",
        }
    }
    headers = {h["header"]["key"]: h["header"]["value"] for h in route["response_headers_to_add"]}
    assert headers == {"content-type": "application/json", "Retry-After": "5"}


def test_a_long_reason_is_cut() -> None:
    route = leaf(snapshot.build(targets(asleep("me-a", reason="x" * 100_000))), "/v1/me-a")
    assert len(route["direct_response"]["body"]["inline_string"]) < MESSAGE_LIMIT + 200


def test_only_public_rsa_members_reach_a_gateway() -> None:
    keys = json.loads(filters.public_keys(json.dumps({"keys": [JWK, {"kty": "oct", "k": "secret"}]})))["keys"]
    assert keys == [{"kty": "RSA", "use": "sig", "alg": "RS256", "kid": "k1", "n": "AQAB", "e": "AQAB"}]
    assert "secret" not in snapshot.build(targets(ready("me-a", 1))).body().decode()


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"keys": 1}', '{"keys": [1]}', "null"])
def test_no_jwk_set_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="JWK set"):
        filters.public_keys(text)


def test_a_thousand_endpoints_are_consistent() -> None:
    built = snapshot.build(
        targets(*(ready(f"me-{i}", 1, 2, 3) for i in range(500)), *(asleep(f"me-z{i}") for i in range(500)))
    )
    assert consistency.check(built.resources) == []
    assert len(built.endpoints) == 1000
    assert json.loads(built.body())["version"] == built.version == snapshot.version_of(built.resources)


# --- consistency ------------------------------------------------------------------------------------------


def broken(change: Any) -> list[str]:
    resources = copy.deepcopy(snapshot.build(targets(ready("me-a", 1), ready("me-b", 2))).resources)
    assert consistency.check(resources) == []
    change(resources)
    return consistency.check(resources)


def routes_of(resources: dict[str, Any]) -> dict[str, Any]:
    tree = resources[names.ROUTES]["resources"][0]["virtual_hosts"][0]["matcher"]["on_no_match"]["matcher"][
        "matcher_tree"
    ]
    return {k: v["action"]["typed_config"] for k, v in tree["prefix_match_map"]["map"].items()}


def test_a_route_without_its_cluster_is_found() -> None:
    found = broken(lambda r: r[names.CLUSTERS]["resources"].pop())
    assert "route me-b leads to the cluster me-b, which is not there" in found


def test_a_cluster_that_is_there_twice_is_found() -> None:
    found = broken(lambda r: r[names.CLUSTERS]["resources"].append(r[names.CLUSTERS]["resources"][1]))
    assert found == ["cluster me-a is there 2 times"]


def test_a_route_to_another_endpoint_is_found() -> None:
    found = broken(lambda r: routes_of(r)["/v1/me-a"]["route"].update(cluster="me-b"))
    assert found == ["route me-a leads to the cluster of me-b"]


def test_an_unguarded_route_is_found() -> None:
    found = broken(lambda r: routes_of(r)["/v1/me-a"].pop("typed_per_filter_config"))
    assert found == ["route me-a is neither guarded nor declared public"]


def test_a_cluster_without_an_address_is_found() -> None:
    def empty(resources: dict[str, Any]) -> None:
        resources[names.CLUSTERS]["resources"][1]["load_assignment"]["endpoints"][0]["lb_endpoints"] = []

    assert broken(empty) == ["cluster me-a has no address"]


def test_missing_and_unknown_files_are_found() -> None:
    assert broken(lambda r: r.pop(names.TOKENS)) == ["files are missing: tokens.json"]
    assert broken(lambda r: r.update({"../evil.json": {}})) == ["files are unknown: ../evil.json"]


@pytest.mark.parametrize(
    "junk", [None, [], "x", 1, {"resources": None}, {"resources": [1], "version_info": "1"}]
)
def test_junk_is_a_finding_and_no_exception(junk: Any) -> None:
    for name in names.FILES:
        assert broken(lambda r, name=name: r.update({name: junk}))
