"""The rules by which a failure's own words are understood: `rules.toml`, read and checked once."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

# What a rule refines unless it says otherwise: a replica that ended by itself, or never got healthy.
ENDS = ("container_exited", "container_died", "health_timeout")
FILE = Path(__file__).with_name("rules.toml")
_FLAGS = re.IGNORECASE | re.MULTILINE


@dataclass(frozen=True, slots=True)
class Rule:
    """One way in which a failure speaks; see the head of rules.toml."""

    code: str
    where: Literal["logs", "error"]
    pattern: re.Pattern[str]
    source: str
    seen: bool
    of: tuple[str, ...] = ENDS

    def match(self, code: str, logs: str, error: str) -> dict[str, Any] | None:
        """The parameters it finds, {} for none; None if it does not speak of this."""
        if code not in self.of:
            return None
        found = self.pattern.search(logs if self.where == "logs" else error)
        if found is None:
            return None
        # A pattern may name one thing in two places only under two names: `file` and `file_2`.
        groups = {
            name.removesuffix("_2"): text for name, text in found.groupdict().items() if text is not None
        }
        return {name: _value(name, text) for name, text in groups.items()}


_NUMBERS = frozenset({"asked", "fits"})
LONGEST = 200


def _value(name: str, text: str) -> int | str:
    if name in _NUMBERS:
        return int(text.replace(",", ""))
    return text.strip()[:LONGEST]


@lru_cache(maxsize=1)
def rules() -> tuple[Rule, ...]:
    """All rules, in order."""
    return tuple(_rule(item) for item in tomllib.loads(FILE.read_text())["rules"])


def _rule(item: Mapping[str, Any]) -> Rule:
    assert item["where"] in ("logs", "error"), item
    assert item["source"], item
    return Rule(
        code=item["code"],
        where=item["where"],
        pattern=re.compile(item["pattern"], _FLAGS),
        source=item["source"],
        seen=item["seen"],
        of=tuple(item.get("of", ENDS)),
    )
