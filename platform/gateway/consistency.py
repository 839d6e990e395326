"""Is a snapshot whole? Checked by the agent before it writes one, file by file: what is wrong with one of them must not
hold up the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from gateway import assignments, names

Json = dict[str, Any]


def check(resources: Mapping[str, Json]) -> list[str]:
    """What is wrong with a snapshot's resources, one sentence each; an empty list if nothing is.

    Never raises, whatever `resources` holds: an agent reads it from the network and from its disk.
    """
    missing = [name for name in names.FILES if name not in resources]
    if missing:
        return [f"files are missing: {', '.join(missing)}"]
    unexpected = sorted(set(resources) - set(names.FILES))
    unknown = [f"files are unknown: {', '.join(unexpected)}"] if unexpected else []
    return unknown + [text for found in problems(resources).values() for text in found]


def problems(resources: Mapping[str, Json]) -> dict[str, list[str]]:
    """What is wrong with a whole snapshot, by file; one that leads into another stands for both. Never raises."""
    found: dict[str, list[str]] = {}
    checks: dict[str, Callable[[Json], Iterator[str]]] = {
        **{file: partial(_filter_problems, name) for file, name in _FILTERS.items()},
        names.TOKENS: _token_problems,
        names.AT_ONCE: _at_once_problems,
        names.ASSIGNMENTS: assignments.problems,
        names.CLUSTERS: partial(_cluster_problems, resources),
        names.ROUTES: partial(_route_problems, resources),
        names.LIMITS: _limit_problems,
    }
    for file, check in checks.items():
        try:
            texts = [*_version_problems(resources[file]), *check(resources[file])]
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            texts = [f"it does not have the expected shape: {type(error).__name__}: {error}"]
        if texts:
            found[file] = texts
    return found


_FILTERS = {
    names.ACCESS: names.ACCESS_FILTER,
    names.BODY_LIMIT: names.BODY_LIMIT_FILTER,
}


def _version_problems(document: Json) -> Iterator[str]:
    if not isinstance(document["version_info"], str) or not document["version_info"]:
        yield "it has no version"


def _filter_problems(name: str, document: Json) -> Iterator[str]:
    if [item["name"] for item in document["resources"]] != [name]:
        yield f"it does not hold exactly {name}"


def _token_problems(document: Json) -> Iterator[str]:
    yield from _filter_problems(names.TOKEN_FILTER, document)
    needed = {names.SUBJECT_HEADER, names.GRANT_HEADER, names.ACCESS_HEADER}
    for name, provider in document["resources"][0]["typed_config"]["providers"].items():
        if not needed <= {claim["header_name"] for claim in provider["claim_to_headers"]}:
            yield f"the filters that refuse callers learn too little of the tokens of {name}"


def _at_once_problems(document: Json) -> Iterator[str]:
    if [item["name"] for item in document["resources"]] != [names.AT_ONCE_LAYER]:
        yield f"it does not hold exactly {names.AT_ONCE_LAYER}"


def _cluster_problems(resources: Mapping[str, Json], document: Json) -> Iterator[str]:
    clusters = document["resources"]
    assigned = assignments.versions(resources[names.ASSIGNMENTS])
    counts = Counter(str(c["name"]) for c in clusters)
    yield from (f"cluster {name} is there {n} times" for name, n in counts.items() if n > 1)
    for cluster in clusters:
        name = str(cluster["name"])
        if "load_assignment" in cluster:
            if not _has_address(cluster):
                yield f"cluster {name} has no address"
        elif cluster["eds_cluster_config"] != assignments.source(name)["eds_cluster_config"]:
            yield f"cluster {name} has its replicas elsewhere"
        elif name not in assigned:
            yield f"cluster {name} has no replicas assigned"


def _limit_problems(document: Json) -> Iterator[str]:
    for entry in document["resources"]:
        numbers = all(entry[w] is None or isinstance(entry[w], int) for w in (names.MINUTE, names.MONTH))
        if not numbers or entry["kind"] not in (names.CALLER, names.ENDPOINT):
            yield f"the token limits of {entry['subject']} are no numbers"


def _has_address(cluster: Json) -> bool:
    return any(group["lb_endpoints"] for group in cluster["load_assignment"]["endpoints"])


def _route_problems(resources: Mapping[str, Json], document: Json) -> Iterator[str]:
    clusters = _clusters(resources)
    configs = document["resources"]
    if [c["name"] for c in configs] != [names.ROUTE_CONFIG]:
        yield f"routes do not hold exactly {names.ROUTE_CONFIG}"
        return
    for host in configs[0]["virtual_hosts"]:
        tree = host["matcher"]["on_no_match"]["matcher"]["matcher_tree"]
        for key, leaf in tree["prefix_match_map"]["map"].items():
            yield from _leaf_problems(key, leaf["action"]["typed_config"], clusters)


def _clusters(resources: Mapping[str, Json]) -> dict[str, bool]:
    """Name → whether it leads anywhere."""
    assigned = assignments.with_addresses(resources[names.ASSIGNMENTS])
    clusters = resources[names.CLUSTERS]["resources"]
    return {str(c["name"]): "load_assignment" in c or str(c["name"]) in assigned for c in clusters}


def _is_its_own(route: Json, endpoint_id: str) -> bool:
    """To its replicas, or to the activator in its name."""
    if route["route"]["cluster"] != names.ACTIVATOR:
        return bool(route["route"]["cluster"] == endpoint_id)
    told = {item["header"]["key"]: item["header"]["value"] for item in route["request_headers_to_add"]}
    return told.get(names.ENDPOINT_HEADER) == endpoint_id and bool(told.get(names.SECRET_HEADER))


def _leaf_problems(key: str, route: Json, clusters: Mapping[str, bool]) -> Iterator[str]:
    name = route["name"]
    if "direct_response" not in route and not clusters.get(cluster := route["route"]["cluster"]):
        what = "has no address" if cluster in clusters else "is not there"
        yield f"route {name} leads to the cluster {cluster}, which {what}"
    if key.startswith("/v1/") and key != "/v1/":
        endpoint_id = key.removeprefix("/v1/")
        if name != endpoint_id or "/" in endpoint_id:
            yield f"the path {key} belongs to the route {name}"
        elif "route" in route and not _is_its_own(route, endpoint_id):
            yield f"route {name} leads to the cluster of {route['route']['cluster']}"
        filters = route.get("typed_per_filter_config", {})
        if not _is_guarded(filters) and names.TOKEN_FILTER not in filters:
            yield f"route {name} is neither guarded nor declared public"


def _is_guarded(filters: Json) -> bool:
    """By all that its guard must ask, in a file of whatever version."""
    if names.RBAC_FILTER not in filters:
        return False
    asked = filters[names.RBAC_FILTER]["rbac"]["rules"]["policies"]
    return {names.POLICY_PROJECT, names.POLICY_SCOPE, names.POLICY_ROLE} <= set(asked)
