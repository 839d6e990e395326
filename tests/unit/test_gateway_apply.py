"""The order in which files are replaced: no moment in which a route leads nowhere."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from gateway import consistency, files, names, snapshot
from gateway.admin import Admin
from gateway.apply import Applier, Resources, steps
from gateway.control import Control, Fetched
from gateway.options import parse
from gateway.shelf import Shelf
from gateway.taking import Taking
from gateway.targets import EndpointTarget
from tests.unit.test_gateway_snapshot import JWK, TOKENS, asleep, ready, targets


def plan(old: Resources, new: Resources) -> list[tuple[str, Any]]:
    return [step for group in names.GROUPS for step in steps(old, new, group)]


STATES: list[tuple[EndpointTarget, ...]] = [
    (),
    (ready("me-a", 1),),
    (ready("me-a", 1), ready("me-b", 2)),
    (ready("me-a", 3), ready("me-c", 4)),
    (asleep("me-a"), ready("me-b", 2)),
    (ready("me-b", 2), asleep("me-c")),
    (ready("me-a", 1, max_concurrency=3), ready("me-b", 2)),
    (ready("me-a", 3, max_concurrency=4), ready("me-b", 2, max_concurrency=1)),
    (asleep("me-a", max_concurrency=3), ready("me-c", 4, max_concurrency=1)),
]


@pytest.mark.parametrize(("before", "after"), list(itertools.product(STATES, STATES)))
def test_every_moment_between_two_snapshots_is_whole(
    before: tuple[EndpointTarget, ...], after: tuple[EndpointTarget, ...]
) -> None:
    old, new = snapshot.build(targets(*before)).resources, snapshot.build(targets(*after)).resources
    on_disk: dict[str, Any] = dict(old)
    for name, content in plan(old, new):
        assert content["version_info"] != on_disk[name]["version_info"]
        on_disk[name] = content
        assert consistency.check(on_disk) == []
    assert on_disk == new


def test_an_unchanged_snapshot_writes_nothing() -> None:
    resources = snapshot.build(targets(ready("me-a", 1))).resources
    assert plan(resources, resources) == []


def test_a_removal_touches_clusters_only_after_routes() -> None:
    old = snapshot.build(targets(ready("me-a", 1), ready("me-b", 2))).resources
    new = snapshot.build(targets(ready("me-a", 1))).resources
    assert [name for name, _ in plan(old, new)] == [names.ROUTES, names.CLUSTERS]


def test_new_keys_touch_nothing_else() -> None:
    old = snapshot.build(targets(ready("me-a", 1))).resources
    other = json.dumps({"keys": [{**JWK, "kid": "k2"}]})
    tokens = type(TOKENS)(TOKENS.issuer, TOKENS.audience, other, TOKENS.invoke_roles)
    new = snapshot.build(targets(ready("me-a", 1), tokens=tokens)).resources
    assert [name for name, _ in plan(old, new)] == [names.TOKENS]


def test_who_may_call_waits_for_no_route() -> None:
    old = snapshot.build(targets(ready("me-a", 1))).resources
    new = snapshot.build(targets(ready("me-b", 1), revoked=("sa-1:1",))).resources
    assert [name for name, _ in plan(old, new)] == [
        names.ACCESS,
        names.CLUSTERS,
        names.ROUTES,
        names.CLUSTERS,
    ]


# --- what lies on the disk --------------------------------------------------------------------------------


def shelf(home: Path) -> Shelf:
    found = Shelf(home)
    found.read()
    return found


def put(found: Shelf, resources: Resources, *files: str) -> None:
    for name in files or names.FILES:
        found.put(name, resources[name])


ONE = snapshot.build(targets(ready("me-a", 1))).resources
OTHER = snapshot.build(targets(ready("me-b", 2), revoked=("sa-1:1",))).resources


@pytest.mark.parametrize("damage", [b"", b"{", b"null", b'{"version_info": "1", "resources": []}'])
def test_files_are_private_and_damaged_ones_are_not_there(tmp_path: Path, damage: bytes) -> None:
    assert not shelf(tmp_path).is_whole
    put(shelf(tmp_path), ONE)
    assert shelf(tmp_path).present == ONE
    xds = tmp_path / "xds"
    assert {p.stat().st_mode & 0o777 for p in xds.iterdir() if p.is_file()} == {0o600}
    files.write(xds / names.ROUTES, damage)
    assert not shelf(tmp_path).can_start


@pytest.mark.parametrize("has_links", [True, False])
def test_in_place_of_what_is_damaged_stands_what_was_there_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_links: bool
) -> None:
    if not has_links:
        monkeypatch.setattr("os.link", lambda *_: Path("/none").read_bytes())
    first = shelf(tmp_path)
    put(first, ONE)
    first.call(ONE, "v1")
    first.took(names.FILES)
    first.call(OTHER, "v2")
    put(first, OTHER)
    files.write(tmp_path / "xds" / names.ROUTES, "{")
    second = shelf(tmp_path)
    assert second.present == {**OTHER, names.CLUSTERS: ONE[names.CLUSTERS], names.ROUTES: ONE[names.ROUTES]}
    assert second.version == "v1"


def test_a_version_is_that_of_the_routing_alone(tmp_path: Path) -> None:
    first = shelf(tmp_path)
    put(first, ONE)
    first.call(ONE, "v1")
    first.took(names.FILES)
    first.put(names.ACCESS, OTHER[names.ACCESS])
    first.call(OTHER, "v2")
    assert shelf(tmp_path).version == "v1"  # killed here
    seen = []
    for name, content in steps(first.good, OTHER, names.ROUTING):
        first.put(name, content)
        seen.append(shelf(tmp_path).version)
    assert seen == ["", "", "v2"]
    first.took(names.FILES)
    first.call(OTHER, "v3")
    assert shelf(tmp_path).version == "v3"
    assert list(json.loads((tmp_path / "versions.json").read_text()).values()) == ["v3"]


# --- an Envoy that takes its time --------------------------------------------------------------------------


class StuckOnRoutes(Admin):
    """Takes every file at once, but routes."""

    def __init__(self, directory: Path) -> None:
        super().__init__("nowhere")
        self.directory = directory

    def versions(self) -> dict[str, str]:
        present = {name: files.read_json(self.directory / name) for name in names.ENVOY_FILES}
        return {name: found["version_info"] for name, found in present.items() if name != names.ROUTES}

    def rejections(self) -> dict[str, int]:
        return dict.fromkeys(names.ENVOY_FILES, 0)


def test_a_revocation_does_not_wait_for_routes_that_envoy_takes_its_time_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.apply._PATIENCE_S", 0.1)
    lying = shelf(tmp_path)
    put(lying, ONE)
    lying.took(names.FILES)
    applier = Applier(lying, StuckOnRoutes(tmp_path / "xds"), lambda: "")
    taking = Taking(lying, applier)
    moved = snapshot.build(targets(ready("me-b", 2)))
    newer = snapshot.build(targets(ready("me-b", 3), revoked=("sa-1:1",)))
    seen = []

    def meanwhile() -> None:
        taking.hurry(Fetched(newer.version, newer.resources))
        seen.append(files.read_json(tmp_path / "xds" / names.ACCESS) == newer.resources[names.ACCESS])

    applier.meanwhile = meanwhile
    taking.take(Fetched(moved.version, moved.resources), envoy_runs=True)
    assert seen[0]
    assert [refusal.file for refusal in taking.refused] == [names.ROUTES]
    assert lying.present == {**ONE, names.ACCESS: newer.resources[names.ACCESS]}


ARGUMENTS = ["--control", "http://c", "--token-file", "t", "--home", "h", "--id", "i"]


def test_command_line() -> None:
    options = parse([*ARGUMENTS, "--listen", "[::1]:8080"])
    assert (options.host, options.port, options.tls) == ("::1", 8080, None)
    assert options.home == Path("h").resolve()


@pytest.mark.parametrize(
    "wrong",
    [
        ["--listen", "8080"],
        ["--listen", "h:0"],
        ["--listen", "h:x"],
        ["--listen", "h:80", "--tls-cert", "c"],
        [],
    ],
)
def test_wrong_command_lines_end_with_two(wrong: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse([*ARGUMENTS, *wrong])
    assert ended.value.code == 2


@pytest.mark.parametrize("url", ["", "ftp://x", "http://", "localhost:8000"])
def test_a_control_address_is_an_http_url(url: str) -> None:
    with pytest.raises(ValueError, match="--control"):
        Control(url, Path("t"), "gw")
