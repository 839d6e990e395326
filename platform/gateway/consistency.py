"""Is a snapshot whole? Checked by the control plane before it serves one and by the agent before it writes one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from gateway import names

Json = dict[str, Any]


def check(resources: Mapping[str, Json]) -> list[str]:
    """What is wrong with a snapshot's resources, one sentence each; an empty list if nothing is.

    Never raises, whatever `resources` holds: an agent reads it from the network and from its disk.
    """
    try:
        return list(_problems(resources))
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        return [f"the snapshot does not have the expected shape: {type(error).__name__}: {error}"]


def _problems(resources: Mapping[str, Json]) -> Iterator[str]:
    missing = [name for name in names.FILES if name not in resources]
    if missing:
        yield f"files are missing: {', '.join(missing)}"
        return
    unexpected = sorted(set(resources) - set(names.FILES))
    if unexpected:
        yield f"files are unknown: {', '.join(unexpected)}"
    for name in names.FILES:
        if not isinstance(resources[name]["version_info"], str) or not resources[name]["version_info"]:
            yield f"{name} has no version"
    clusters = resources[names.CLUSTERS]["resources"]
    counts = Counter(str(c["name"]) for c in clusters)
    yield from (f"cluster {name} is there {n} times" for name, n in counts.items() if n > 1)
    yield from (f"cluster {c['name']} has no address" for c in clusters if not _has_address(c))
    yield from _route_problems(resources[names.ROUTES], set(counts))
    yield from (
        f"the token limits of {entry['subject']} are no numbers"
        for entry in resources[names.LIMITS]["resources"]
        if not all(entry[w] is None or isinstance(entry[w], int) for w in (names.MINUTE, names.MONTH))
        or entry["kind"] not in (names.CALLER, names.ENDPOINT)
    )
    for file, filter_name in (
        (names.TOKENS, names.TOKEN_FILTER),
        (names.ACCESS, names.ACCESS_FILTER),
        (names.ROLES, names.ROLES_FILTER),
        (names.BODY_LIMIT, names.BODY_LIMIT_FILTER),
        (names.CORS, names.CORS_FILTER),
    ):
        if [r["name"] for r in resources[file]["resources"]] != [filter_name]:
            yield f"{file} does not hold exactly {filter_name}"


def _has_address(cluster: Json) -> bool:
    return any(group["lb_endpoints"] for group in cluster["load_assignment"]["endpoints"])


def _route_problems(document: Json, clusters: set[str]) -> Iterator[str]:
    configs = document["resources"]
    if [c["name"] for c in configs] != [names.ROUTE_CONFIG]:
        yield f"routes do not hold exactly {names.ROUTE_CONFIG}"
        return
    for host in configs[0]["virtual_hosts"]:
        tree = host["matcher"]["on_no_match"]["matcher"]["matcher_tree"]
        for key, leaf in tree["prefix_match_map"]["map"].items():
            yield from _leaf_problems(key, leaf["action"]["typed_config"], clusters)


def _is_its_own(route: Json, endpoint_id: str) -> bool:
    """To its replicas, or to the activator in its name."""
    if route["route"]["cluster"] != names.ACTIVATOR:
        return bool(route["route"]["cluster"] == endpoint_id)
    told = {item["header"]["key"]: item["header"]["value"] for item in route["request_headers_to_add"]}
    return told.get(names.ENDPOINT_HEADER) == endpoint_id and bool(told.get(names.SECRET_HEADER))


def _leaf_problems(key: str, route: Json, clusters: set[str]) -> Iterator[str]:
    name = route["name"]
    if "direct_response" not in route and route["route"]["cluster"] not in clusters:
        yield f"route {name} leads to the cluster {route['route']['cluster']}, which is not there"
    if key.startswith("/v1/") and key != "/v1/":
        endpoint_id = key.removeprefix("/v1/")
        if name != endpoint_id or "/" in endpoint_id:
            yield f"the path {key} belongs to the route {name}"
        elif "route" in route and not _is_its_own(route, endpoint_id):
            yield f"route {name} leads to the cluster of {route['route']['cluster']}"
        filters = route.get("typed_per_filter_config", {})
        if names.RBAC_FILTER not in filters and names.TOKEN_FILTER not in filters:
            yield f"route {name} is neither guarded nor declared public"
