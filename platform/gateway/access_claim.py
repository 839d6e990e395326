"""What a token allows, as one text: the claim `access`.

    prj-1,aiplatform.user,*,              the project; the roles; all of its endpoints
    prj-1,aiplatform.user,me-1,me-2,      these endpoints alone

The gateway's guards look for pieces of it. Lists of claims they find, too, but then each request copies the whole token
(gateway.filters), which took a tenth of all that a request costs. Each item ends with a comma, and so no item is found
within another one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

ALL = "*"
_ITEM = re.compile(r"[A-Za-z0-9._:-]+")


def text(project: str, roles: Iterable[str], endpoints: Iterable[str] | None) -> str:
    """The claim. endpoints: ids, None for all of the project. Raises ValueError for what is no id and no role."""
    items = [project, *roles, *(() if endpoints is None else endpoints)]
    strange = [item for item in items if not _ITEM.fullmatch(item)]
    if strange:
        raise ValueError(f"not to be written into a token: {strange!r}")
    return ",".join([*items, *([ALL] if endpoints is None else []), ""])


def beginning(project: str) -> str:
    """How the claim of a project's tokens begins, and no other project's."""
    return f"{project},"


def piece(item: str) -> str:
    """What a claim contains that has this role, names this endpoint, or ALL."""
    return f",{item},"
