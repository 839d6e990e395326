"""The order in which files are replaced: no moment in which a route leads nowhere."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from gateway import consistency, files, names, snapshot
from gateway.agent import parse
from gateway.apply import steps
from gateway.control import Control
from gateway.targets import EndpointTarget
from tests.unit.test_gateway_snapshot import JWK, TOKENS, asleep, ready, targets

STATES: list[tuple[EndpointTarget, ...]] = [
    (),
    (ready("me-a", 1),),
    (ready("me-a", 1), ready("me-b", 2)),
    (ready("me-a", 3), ready("me-c", 4)),
    (asleep("me-a"), ready("me-b", 2)),
    (ready("me-b", 2), asleep("me-c")),
]


@pytest.mark.parametrize(("before", "after"), list(itertools.product(STATES, STATES)))
def test_every_moment_between_two_snapshots_is_whole(
    before: tuple[EndpointTarget, ...], after: tuple[EndpointTarget, ...]
) -> None:
    old, new = snapshot.build(targets(*before)).resources, snapshot.build(targets(*after)).resources
    on_disk: dict[str, Any] = dict(old)
    for name, content in steps(old, new):
        assert content["version_info"] != on_disk[name]["version_info"]
        on_disk[name] = content
        assert consistency.check(on_disk) == []
    assert on_disk == new


def test_an_unchanged_snapshot_writes_nothing() -> None:
    resources = snapshot.build(targets(ready("me-a", 1))).resources
    assert steps(resources, resources) == []


def test_a_removal_touches_clusters_only_after_routes() -> None:
    old = snapshot.build(targets(ready("me-a", 1), ready("me-b", 2))).resources
    new = snapshot.build(targets(ready("me-a", 1))).resources
    assert [name for name, _ in steps(old, new)] == [names.ROUTES, names.CLUSTERS]


def test_new_keys_touch_nothing_else() -> None:
    old = snapshot.build(targets(ready("me-a", 1))).resources
    other = json.dumps({"keys": [{**JWK, "kid": "k2"}]})
    tokens = type(TOKENS)(TOKENS.issuer, TOKENS.audience, other, TOKENS.invoke_roles)
    new = snapshot.build(targets(ready("me-a", 1), tokens=tokens)).resources
    assert [name for name, _ in steps(old, new)] == [names.TOKENS]


def test_files_are_private_and_damaged_ones_are_no_snapshot(tmp_path: Path) -> None:
    resources = snapshot.build(targets(ready("me-a", 1))).resources
    assert files.read_snapshot(tmp_path) is None
    for name in names.FILES:
        files.write_json(tmp_path / name, resources[name])
    assert files.read_snapshot(tmp_path) == resources
    assert {p.stat().st_mode & 0o777 for p in tmp_path.iterdir()} == {0o600}
    (tmp_path / names.ROUTES).write_text((tmp_path / names.ROUTES).read_text()[:-10])
    assert files.read_snapshot(tmp_path) is None


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
