"""What tokens say of what they allow, and what the gateway looks for in it."""

from __future__ import annotations

import pytest

from gateway import access_claim

PROJECTS = ("prj-1", "prj-12", "rj-1", "aiplatform.user")
ROLES = ("aiplatform.user", "aiplatform.users", "user")
ENDPOINTS = ("me-1", "me-12", "e-1")


@pytest.mark.parametrize("project", PROJECTS)
@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("endpoint", [None, *ENDPOINTS])
def test_nothing_is_found_that_was_not_said(project: str, role: str, endpoint: str | None) -> None:
    claim = access_claim.text(project, [role], None if endpoint is None else [endpoint])
    assert [p for p in PROJECTS if claim.startswith(access_claim.beginning(p))] == [project]
    assert [r for r in ROLES if access_claim.piece(r) in claim] == [role]
    assert [e for e in ENDPOINTS if access_claim.piece(e) in claim] == ([endpoint] if endpoint else [])
    assert (access_claim.piece(access_claim.ALL) in claim) == (endpoint is None)


def test_narrowed_to_nothing_names_nothing() -> None:
    assert access_claim.text("prj-1", [], []) == "prj-1,"


@pytest.mark.parametrize("item", ["", "a,b", ",", "a b", "a\n", "ä", "*"])
def test_what_could_be_mistaken_is_not_written(item: str) -> None:
    for parts in ((item, [], None), ("p", [item], None), ("p", [], [item])):
        with pytest.raises(ValueError, match="not to be written"):
            access_claim.text(*parts)
