"""The rules for an import's fields. Form and API both come through here.

Every function adds what is wrong to `errors`, {field: [messages]}, and returns what is right.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.utils.translation import gettext as _

from iam.actors import Actor
from iam.roles import Permission
from registry import registries
from registry.errors import ImportFailure, reason
from registry.frameworks import FrameworkDefinition, validate_settings
from registry.importing.paths import head_of, locate
from registry.importing.sniff import HEAD_BYTES, is_gguf, kind_of
from registry.models import ModelTask, Source
from registry.variables import refusal

Errors = dict[str, list[str]]

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,79}")
# As huggingface_hub's validate_repo_id has it; importing that here would cost every web process 30 MB.
_REPO_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?"
_REPO_ID = re.compile(rf"{_REPO_PART}(?:/{_REPO_PART})?")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/@+-]{0,199}")
_HEALTH_PATH = re.compile(r"/[!-~]{0,199}")
# A reference as https://pkg.go.dev/github.com/distribution/reference writes its grammar.
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_DOMAIN_PART = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = rf"(?:{_DOMAIN_PART}(?:\.{_DOMAIN_PART})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?"
_IMAGE = re.compile(
    rf"(?:{_DOMAIN}/)?{_COMPONENT}(?:/{_COMPONENT})*(?::[\w][\w.-]{{0,127}})?(?:@[A-Za-z][\w.+-]*:[0-9a-fA-F]{{32,}})?",
    re.ASCII,
)
_MOST_VARIABLES, _LONGEST_VALUE = 200, 32_768


def add(errors: Errors, field: str, message: str) -> None:
    """One more message at `field`."""
    errors.setdefault(field, []).append(message)


def clean_name(name: str, errors: Errors) -> str:
    """A model's name. It is also what clients send as `model` unless a setting says otherwise."""
    name = name.strip()
    if not name:
        add(errors, "name", _("Enter a name."))
    elif not NAME.fullmatch(name):
        message = _(
            "Use 1 to 80 letters, digits and . _ : / @ + - without spaces; begin with a letter or a digit."
        )
        add(errors, "name", message)
    return name


def clean_task(task: str, definition: FrameworkDefinition, errors: Errors) -> str:
    """ "" lets the import find out."""
    if task and task not in ModelTask.values:
        add(errors, "task", _("Choose one of: %(choices)s.") % {"choices": ", ".join(ModelTask.values)})
    elif task and task not in definition.tasks:
        message = _("%(framework)s does not serve this task. It serves: %(tasks)s.")
        add(errors, "task", message % {"framework": definition.name, "tasks": ", ".join(definition.tasks)})
    return task


def clean_settings(
    values: Mapping[str, Any], definition: FrameworkDefinition, errors: Errors
) -> dict[str, Any]:
    """Framework settings; their errors stand at `settings.<key>`."""
    try:
        return validate_settings(definition, values)
    except ValidationError as error:
        for key, messages in error.message_dict.items():
            errors[f"settings.{key}"] = messages
        return {}


def clean_source(source: str, definition: FrameworkDefinition, errors: Errors) -> None:
    """Whether the framework can serve what comes from there."""
    if source not in Source.values:
        add(errors, "source", _("Choose one of: %(choices)s.") % {"choices": ", ".join(Source.values)})
    elif (source == Source.IMAGE) != ("image" in definition.accepts):
        message = (
            _("%(framework)s brings its own image. Choose “Custom container” to run yours.")
            if source == Source.IMAGE
            else _("%(framework)s needs a container image as the source.")
        )
        add(errors, "framework", message % {"framework": definition.name})


def clean_path(path: str, definition: FrameworkDefinition, errors: Errors) -> str:
    """A file or folder under the models root. Checked again, for good, when it is imported."""
    path = path.strip()
    if not path:
        add(
            errors,
            "path",
            _("Enter the path of a file or folder under %(root)s.") % {"root": settings.BERTH_MODELS_ROOT},
        )
        return path
    try:
        _look_at(Path(settings.BERTH_MODELS_ROOT), path, definition)
    except ImportFailure as failure:
        told = reason(failure.code, failure.params)
        add(errors, "path", f"{told.message} {told.action}")
    return path


def _look_at(root: Path, path: str, definition: FrameworkDefinition) -> None:
    real = locate(root, path)
    if real.is_dir():
        return
    if "gguf" in definition.accepts:
        head = head_of(root, real, HEAD_BYTES)
        if not is_gguf(head):
            raise ImportFailure("not_gguf", file=real.name, found=kind_of(head))
    elif "image" not in definition.accepts:
        raise ImportFailure("folder_needed", framework=definition.name, path=path)


def clean_hub(
    repo_id: str, revision: str, files: Sequence[str], errors: Errors
) -> tuple[str, str, tuple[str, ...]]:
    """A repository id (or its page's address), a revision, and name patterns."""
    repo_id = _repo_of_url(repo_id.strip())
    allowed = _REPO_ID.fullmatch(repo_id) and not re.search(r"--|\.\.|\.git$", repo_id)
    if not allowed or any(len(part) > 96 for part in repo_id.split("/")):
        add(errors, "repo_id", _("Enter a repository as owner/name, for example Qwen/Qwen2.5-0.5B-Instruct."))
    revision = revision.strip() or "main"
    if not _REVISION.fullmatch(revision) or ".." in revision:
        add(errors, "revision", _("Enter a branch, a tag or a commit, for example main."))
    patterns = tuple(pattern.strip() for pattern in files if pattern.strip())
    if len(patterns) > 50 or any(len(p) > 200 or p.startswith("/") or ".." in p for p in patterns):
        add(errors, "files", _("Enter file names or patterns such as *Q4_K_M.gguf, separated by commas."))
    return repo_id, revision, patterns


def _repo_of_url(text: str) -> str:
    """`https://hub/owner/name/tree/main` → `owner/name`."""
    for prefix in (f"{settings.HF_ENDPOINT.rstrip('/')}/", "https://huggingface.co/", "huggingface.co/"):
        if text.startswith(prefix):
            return "/".join(text.removeprefix(prefix).strip("/").split("/")[:2])
    return text


def clean_image(image: str, port: object, health_path: str, errors: Errors) -> tuple[str, int, str]:
    """An image reference, the port its server listens on, and the path that answers 2xx when it is ready."""
    image = image.strip()
    if not image:
        add(errors, "image", _("Enter an image, for example registry.example.com/team/server:1.0."))
    elif len(image) > 500 or not _IMAGE.fullmatch(image):
        add(
            errors,
            "image",
            _("This is no image reference. It looks like registry.example.com/team/server:1.0."),
        )
    elif refused := registries.refusal(image, look_up=False):
        add(errors, "image", refused)
    number = _port(port)
    if number is None:
        add(errors, "port", _("Enter the port that the server listens on, 1 to 65535."))
    health_path = health_path.strip() or "/health"
    if not _HEALTH_PATH.fullmatch(health_path):
        add(errors, "health_path", _("Enter a path that begins with /, without spaces, for example /health."))
    return image, number or 0, health_path


def _port(value: object) -> int | None:
    if isinstance(value, bool) or not re.fullmatch(r"\d{1,5}", str(value).strip(), re.ASCII):
        return None
    number = int(str(value))
    return number if 0 < number < 65536 else None


def clean_command(command: Sequence[str], errors: Errors) -> list[str]:
    """Arguments for the image's entrypoint; [] leaves the image's own."""
    words = [str(word) for word in command]
    if len(words) > 200 or any(len(word) > _LONGEST_VALUE or "\0" in word for word in words):
        add(errors, "command", _("Use at most 200 arguments of at most 32768 characters."))
    return words


def clean_environment(environment: Mapping[str, Any], errors: Errors) -> dict[str, str]:
    """Variables for the container."""
    cleaned: dict[str, str] = {}
    if len(environment) > _MOST_VARIABLES:
        add(errors, "environment", _("Use at most %(most)s variables.") % {"most": _MOST_VARIABLES})
    for key, value in environment.items():
        if refused := refusal(str(key)):
            add(errors, "environment", refused)
        elif not isinstance(value, str) or len(value) > _LONGEST_VALUE or "\0" in value:
            add(
                errors,
                "environment",
                _("The value of %(key)s must be a text of at most 32768 characters.") % {"key": key},
            )
        else:
            cleaned[str(key)] = value
    return cleaned


def clean_credentials(actor: Actor, username: str, password: str, errors: Errors) -> tuple[str, str]:
    """A registry's sign-in: both or none, and only an admin's to give (contract §7)."""
    username = username.strip()
    if (username or password) and not actor.may(Permission.ADMINISTER):
        add(errors, "registry_username", _("Only a project admin may store registry credentials."))
    if bool(username) != bool(password):
        field = "registry_password" if username else "registry_username"
        add(errors, field, _("Enter both the registry's user name and its password, or neither."))
    return username, password
