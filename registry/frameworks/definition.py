"""The shape of a framework's definition, and the checks that a file must pass to become one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar, get_args

from registry.frameworks.kinds import Accepts, DeviceKind, SettingType, TaskName
from registry.models import Framework

# What `{name}` and `when` may name besides the definition's own settings.
#   model      where the replica finds its weights: the entry file, or the folder
#   weights    the folder that the weights are mounted at
#   name       the model's name in the registry
#   host port  replaced by the driver, which alone knows them
#   gpu_count  GPUs of the instance type
#   embedding, chat   (for `when` only) what the model is for
VARIABLES = frozenset({"model", "weights", "name", "host", "port", "gpu_count"})
CONDITIONS = frozenset({"embedding", "chat", "gpu_count", "model"})
PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")

T = TypeVar("T")
_SLUG = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
_KEY = re.compile(r"[a-z][a-z0-9_]{0,39}")
_PATH = re.compile(r"/[!-~]*")
_SERIES = re.compile(r"[A-Za-z_:][A-Za-z0-9_:]*")  # https://prometheus.io/docs/concepts/data_model/
TEXT = r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,199}"  # what a text setting may be unless it says otherwise


class DefinitionError(ValueError):
    """A definition that can't be used; the message names the field and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Argument:
    """Some words of the command line.

    when     included only if this setting is set (a bool: is on), or this condition holds; "" always
    source   the page of this version's documentation that these words are from
    """

    args: tuple[str, ...]
    source: str
    when: str = ""


@dataclass(frozen=True, slots=True)
class Setting:
    """One knob that a user may turn.

    default     None: left to the framework
    at_most     a fact of the model ("context_length") that the value is lowered to where the fact is known
    endpoint_only  the import form does not ask for it: it has a field of its own
    pattern     what a text must match whole; the default refuses spaces, braces and a leading hyphen
    """

    key: str
    label: str
    type: SettingType
    help: str
    default: int | str | bool | None = None
    min: int | None = None
    max: int | None = None
    choices: tuple[str, ...] = ()
    pattern: str = TEXT
    at_most: str = ""
    endpoint_only: bool = False


@dataclass(frozen=True, slots=True)
class Metrics:
    """Where the model server tells how it does, in Prometheus' text format, and what it calls things. Of several names,
    and of one with several sets of labels, the sum counts (of `kv_cache` the mean); () where it does not tell.

    port            0: the same as the definition's
    source          the page or file of this version that the names are from
    running         requests that are computed
    queued          requests that wait inside the server
    kv_cache        how full the cache is; `kv_cache_full` is the value of a full one
    tokens_in, tokens_out   tokens read from prompts and generated since the server started
    """

    path: str
    source: str
    port: int = 0
    running: tuple[str, ...] = ()
    queued: tuple[str, ...] = ()
    kv_cache: tuple[str, ...] = ()
    kv_cache_full: float = 1.0
    tokens_in: tuple[str, ...] = ()
    tokens_out: tuple[str, ...] = ()


_SERIES_OF = ("running", "queued", "kv_cache", "tokens_in", "tokens_out")


@dataclass(frozen=True, slots=True)
class FrameworkDefinition:
    """Everything the platform knows of a framework.

    image         "" where the model names its own; images: by GPU model, or "gpu" for any GPU
    program       the process runtime's program, "" if it cannot run without a container
    entrypoint    None: the image's own
    metrics     None: the server tells nothing
    weights_target  where the model's files are mounted, "" if the image carries them
    """

    slug: str
    name: str
    version: str
    documentation: str
    image: str
    port: int
    health_path: str
    accepts: tuple[Accepts, ...]
    device_kinds: tuple[DeviceKind, ...]
    tasks: tuple[TaskName, ...]
    summary: str = ""
    images: Mapping[str, str] = field(default_factory=dict)
    program: str = ""
    entrypoint: tuple[str, ...] | None = None
    arguments: tuple[Argument, ...] = ()
    metrics: Metrics | None = None
    start_timeout_s: int = 600
    stop_grace_s: int = 10
    weights_target: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    read_only_root: bool = True
    tmpfs: Mapping[str, int] = field(default_factory=dict)
    shm_bytes: int = 0
    user: str | None = None
    settings: tuple[Setting, ...] = ()

    def setting(self, key: str) -> Setting | None:
        """The setting of that key."""
        return next((setting for setting in self.settings if setting.key == key), None)

    def fits(self, gpu_count: int) -> bool:
        """Whether it runs on an instance type with that many GPUs."""
        return ("gpu" if gpu_count else "cpu") in self.device_kinds


def definition_of(framework: Framework) -> FrameworkDefinition:
    """The framework's definition. Raises DefinitionError if someone edited it into something else."""
    return parse({**framework.definition, "slug": framework.slug})


def parse(data: Mapping[str, Any]) -> FrameworkDefinition:
    """A checked definition from the content of a TOML file or of the database. Raises DefinitionError."""
    values = dict(data)
    values["settings"] = tuple(_setting(item) for item in values.get("settings", ()))
    values["arguments"] = tuple(_argument(item) for item in values.get("arguments", ()))
    values["metrics"] = _metrics(values["metrics"]) if values.get("metrics") is not None else None
    # Files that were written for the version before `metrics` named them; nothing ever read them.
    for key in ("metrics_path", "metrics_port"):
        values.pop(key, None)
    for key in ("accepts", "device_kinds", "tasks", "entrypoint"):
        if isinstance(values.get(key), list):
            values[key] = tuple(values[key])
    definition = _build(FrameworkDefinition, values, "definition")
    _check(definition)
    return definition


def _setting(data: Any) -> Setting:
    values = dict(data) if isinstance(data, Mapping) else {}
    values["choices"] = tuple(values.get("choices", ()))
    setting = _build(Setting, values, "settings")
    _require(_KEY.fullmatch(setting.key), "settings.key", f"{setting.key!r} is no lower-case word")
    where = f"settings.{setting.key}"
    _require(setting.key not in VARIABLES | CONDITIONS, where, "this name is taken by a variable")
    _require(setting.type in get_args(SettingType), f"{where}.type", f"one of {get_args(SettingType)}")
    _require(
        (setting.type == "choice") == bool(setting.choices),
        f"{where}.choices",
        "for type choice, and only there",
    )
    try:
        re.compile(setting.pattern)
    except re.error as error:
        raise DefinitionError(f"{where}.pattern: {error}") from error
    return setting


def _metrics(data: Any) -> Metrics:
    values = dict(data) if isinstance(data, Mapping) else {}
    for key in _SERIES_OF:
        names = values.get(key, [])
        _require(isinstance(names, list | tuple), f"metrics.{key}", "a list of names")
        for name in names:
            known = isinstance(name, str) and _SERIES.fullmatch(name)
            _require(known, f"metrics.{key}", f"{name!r} is no name of a series")
        values[key] = tuple(names)
    metrics = _build(Metrics, values, "metrics")
    _require(
        isinstance(metrics.path, str) and _PATH.fullmatch(metrics.path), "metrics.path", "must start with /"
    )
    _require(isinstance(metrics.port, int) and 0 <= metrics.port < 65536, "metrics.port", "0 to 65535")
    _require(str(metrics.source).startswith("https://"), "metrics.source", "cite the documentation")
    _require(metrics.kv_cache_full in (1, 100), "metrics.kv_cache_full", "1 or 100")
    _require(any(getattr(metrics, key) for key in _SERIES_OF), "metrics", "names nothing")
    return metrics


def _argument(data: Any) -> Argument:
    values = dict(data) if isinstance(data, Mapping) else {}
    values["args"] = tuple(values.get("args", ()))
    argument = _build(Argument, values, "arguments")
    _require(
        argument.args and all(isinstance(a, str) for a in argument.args), "arguments.args", "a list of texts"
    )
    _require(
        argument.source.startswith("https://"), "arguments.source", f"{argument.args}: cite its documentation"
    )
    return argument


def _check(definition: FrameworkDefinition) -> None:
    _require(
        _SLUG.fullmatch(definition.slug),
        "slug",
        f"{definition.slug!r} must be lower case, digits and hyphens",
    )
    for name, kinds in (("accepts", Accepts), ("device_kinds", DeviceKind), ("tasks", TaskName)):
        chosen = getattr(definition, name)
        _require(chosen and set(chosen) <= set(get_args(kinds)), name, f"some of {get_args(kinds)}")
    _require(0 < definition.port < 65536, "port", "1 to 65535")
    _require(_PATH.fullmatch(definition.health_path), "health_path", "must start with /")
    _require(
        bool(definition.image) != (definition.accepts == ("image",)),
        "image",
        "needed unless it accepts images only",
    )
    keys = [setting.key for setting in definition.settings]
    _require(len(keys) == len(set(keys)), "settings", "a key stands there twice")
    for argument in definition.arguments:
        for word in argument.args:
            unknown = set(PLACEHOLDER.findall(word)) - VARIABLES - set(keys)
            _require(
                not unknown, "arguments.args", f"{word!r} names the unknown {', '.join(sorted(unknown))}"
            )
            _require(
                "{" not in PLACEHOLDER.sub("", word), "arguments.args", f"{word!r}: a brace without a name"
            )
        known = not argument.when or argument.when in CONDITIONS or argument.when in keys
        _require(known, "arguments.when", f"{argument.when!r} is no setting and no condition")


def _build(shape: type[T], values: dict[str, Any], where: str) -> T:
    known = {item.name for item in fields(shape)}  # type: ignore[arg-type]
    unknown = set(values) - known
    _require(not unknown, where, f"unknown {', '.join(sorted(unknown))}")
    try:
        return shape(**values)
    except TypeError as error:
        raise DefinitionError(f"{where}: {error}") from error


def _require(condition: object, where: str, problem: str) -> None:
    if not condition:
        raise DefinitionError(f"{where}: {problem}")
