"""Which tag an image of ours has. Images of others carry theirs in the framework's definition."""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from types import ModuleType

from django.conf import settings

OURS = "berth/"


def resolve(image: str) -> str:
    """`image` with its tag. One of ours without a tag gets the tag that its build script would build now.

    The scripts live in platform/images/<name>/build.py, which offers `tag() -> str` ("name:tag"); a name with a
    dash is no package, so the file is loaded by its path.
    """
    if not image.startswith(OURS) or ":" in image:
        return image
    return _tag_of(image)


@lru_cache(maxsize=16)
def _tag_of(image: str) -> str:
    script = _build_script(image.removeprefix(OURS))
    return str(script.tag()) if script else f"{image}:latest"


def _build_script(name: str) -> ModuleType | None:
    path = settings.ROOT / "platform" / "images" / name / "build.py"
    if not path.is_file():
        return None
    spec = importlib.util.spec_from_file_location(f"berth_image_{name.replace('-', '_')}", path)
    if spec is None or spec.loader is None:
        return None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
