"""Files into rows: idempotent, called at every start."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.conf import settings

from registry.frameworks.definition import DefinitionError, parse
from registry.models import Framework

SHIPPED = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Loaded:
    """What `load` did: slugs by outcome."""

    created: tuple[str, ...]
    changed: tuple[str, ...]
    unchanged: tuple[str, ...]


def read_folder(folder: Path) -> dict[str, dict[str, Any]]:
    """The checked content of every *.toml in `folder`, by slug. Raises DefinitionError naming the file."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("*.toml")):
        try:
            data = tomllib.loads(path.read_text(encoding="utf-8"))
            parse(data)
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, DefinitionError) as error:
            raise DefinitionError(f"{path.name}: {error}") from error
        found[str(data["slug"])] = data
    return found


def load() -> Loaded:
    """Put the shipped definitions and the operator's own (`<BERTH_HOME>/frameworks`, which win) into the database.

    `enabled` is the admin's and is kept. A row without a file is left alone: models may use it.
    """
    wanted = read_folder(SHIPPED) | read_folder(settings.BERTH_HOME / "frameworks")
    present = {framework.slug: framework for framework in Framework.objects.all()}
    created, changed, unchanged = [], [], []
    for slug, data in wanted.items():
        row = present.get(slug)
        values = {"name": data["name"], "version": data["version"], "definition": data}
        if row is None:
            Framework.objects.create(slug=slug, **values)
            created.append(slug)
        elif any(getattr(row, key) != value for key, value in values.items()):
            for key, value in values.items():
                setattr(row, key, value)
            row.save(update_fields=[*values, "updated_at"])
            changed.append(slug)
        else:
            unchanged.append(slug)
    return Loaded(tuple(created), tuple(changed), tuple(unchanged))
