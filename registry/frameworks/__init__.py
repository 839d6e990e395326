"""What serves a model, as data: the definitions in *.toml beside this file, their checks and their settings.

A new framework is a new file, here or in `<BERTH_HOME>/frameworks/`; `manage.py load_frameworks` puts it into the
database. Nothing in a definition is ever run through a shell or a template language: `{name}` in an argument is
replaced by a value of VARIABLES or of one of the definition's settings, and that is all.
"""

from registry.frameworks.definition import (
    Argument,
    DefinitionError,
    FrameworkDefinition,
    Metrics,
    Setting,
    definition_of,
    parse,
)
from registry.frameworks.loading import load, read_folder
from registry.frameworks.settings import effective_settings, validate_settings

__all__ = [
    "Argument",
    "DefinitionError",
    "FrameworkDefinition",
    "Metrics",
    "Setting",
    "definition_of",
    "effective_settings",
    "load",
    "parse",
    "read_folder",
    "validate_settings",
]
