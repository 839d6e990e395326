"""What is wrong with one file holds up no other; and control planes, agents and disks of different versions."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from gateway import consistency, defaults, names, snapshot
from tests.unit.test_gateway_snapshot import ready, targets

WHOLE = snapshot.build(targets(ready("me-a", 1), ready("me-b", 2), revoked=("sa-1:1",))).resources
JUNK: tuple[Any, ...] = (None, [], "x", 1, {}, {"resources": None}, {"resources": [1], "version_info": "1"})


def group_of(file: str) -> tuple[str, ...]:
    (found,) = [group for group in names.GROUPS if file in group]
    return found


@pytest.mark.parametrize("file", names.FILES)
def test_what_is_wrong_with_a_file_is_said_of_nothing_else(file: str) -> None:
    assert consistency.problems(WHOLE) == {}
    for junk in JUNK:
        found = consistency.problems({**WHOLE, file: junk})
        assert file in found
        assert found.keys() <= set(group_of(file))


def provider(resources: dict[str, Any]) -> dict[str, Any]:
    found = resources[names.TOKENS]["resources"][0]["typed_config"]["providers"]["iam"]
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize(
    ("file", "change"),
    [
        (names.CLUSTERS, lambda r: r[names.CLUSTERS]["resources"][1].update(name="me-z")),
        (names.ACCESS, lambda r: r[names.ACCESS]["resources"][0].update(name="berth.tokens")),
        (names.TOKENS, lambda r: r[names.TOKENS].update(version_info="")),
        (names.TOKENS, lambda r: provider(r)["claim_to_headers"].pop()),
        (names.LIMITS, lambda r: r[names.LIMITS]["resources"].append({"subject": "sa-1", "kind": "x"})),
    ],
)
def test_neither_is_a_subtler_fault(file: str, change: Callable[[dict[str, Any]], None]) -> None:
    broken = copy.deepcopy(WHOLE)
    change(broken)
    assert set() != consistency.problems(broken).keys() <= set(group_of(file))


def test_every_file_has_something_closed_to_stand_in_or_is_essential() -> None:
    assert set(defaults.ESSENTIAL) == {names.TOKENS, names.CLUSTERS, names.ROUTES}
    essential = {name: WHOLE[name] for name in defaults.ESSENTIAL}
    alone = defaults.complete(essential, {})
    assert consistency.problems(alone) == {}
    assert names.POLICY_UNTOLD in str(alone[names.ACCESS])


@pytest.mark.parametrize("file", [name for name in names.FILES if name not in names.ROUTING])
def test_what_a_snapshot_lacks_stays_as_it_is(file: str) -> None:
    given = {**WHOLE, "quota.json": {}}
    kept = {file: given.pop(file)}
    assert defaults.complete(given, kept) == WHOLE
    (newer, older) = defaults.oddities(given, kept)
    assert "'quota.json'. The control plane is newer" in newer
    assert f"the snapshot lacks '{file}'; of those lie on the disk and go on: '{file}'" in older


def test_there_is_nothing_to_say_of_what_is_known() -> None:
    assert defaults.oddities(WHOLE, {}) == []


def test_names_from_outside_are_safe_to_log() -> None:
    (text,) = defaults.oddities({**WHOLE, "a\nb" + "x" * 1000: {}, **{f"{n}": {} for n in range(50)}}, {})
    assert "\n" not in text
    assert len(text) < 400
