"""Fetching an image, layer by layer."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator
from typing import Any

import docker
import docker.errors

from runtimes.contract import PullProgress, RegistryAuth
from runtimes.docker_errors import explanation, from_pull, translated
from runtimes.errors import RuntimeFailure

_INTERVAL_S = 0.1


def pull_image(
    api: docker.APIClient,
    image: str,
    auth: RegistryAuth | None,
    progress: Callable[[PullProgress], None] | None,
) -> None:
    """Raises ImageMissing, ImageDenied, RegistryUnreachable, NoSpace, RuntimeUnreachable, or what `progress` does.

    The host's own `docker login` is never used: it is the operator's, and the image's name is a user's.
    """
    layers: dict[str, tuple[int, int]] = {}
    reported = 0.0
    # `progress` runs outside `translated()`: what it raises is the caller's own business.
    with contextlib.closing(api), contextlib.closing(_messages(api, image, auth)) as messages:
        for message in messages:
            changed = _note(layers, message)
            if progress and changed and time.monotonic() - reported >= _INTERVAL_S:
                reported = time.monotonic()
                progress(_sum(layers))
    if progress and layers:
        progress(_sum(layers))


def _messages(
    api: docker.APIClient, image: str, auth: RegistryAuth | None
) -> Generator[dict[str, Any], None, None]:
    credentials = {"username": auth.username, "password": auth.password} if auth else {}
    with translated():
        try:
            stream = api.pull(image, stream=True, decode=True, auth_config=credentials)
        except docker.errors.APIError as error:
            raise from_pull(explanation(error)) from error
        for message in stream:
            if "error" in message:
                raise from_pull(str((message.get("errorDetail") or {}).get("message") or message["error"]))
            yield message
        try:
            api.inspect_image(image)  # type: ignore[no-untyped-call]
        except docker.errors.APIError as error:
            raise RuntimeFailure(
                f"the pull of {image} ended without an error and without an image"
            ) from error


def _note(layers: dict[str, tuple[int, int]], message: dict[str, Any]) -> bool:
    """Keep one layer's bytes (done, total); True if they changed. Unpacking comes after and is not counted."""
    layer, status = message.get("id"), message.get("status")
    if not layer:
        return False
    before = layers.get(layer)
    if status == "Downloading":
        detail = message.get("progressDetail") or {}
        done = int(detail.get("current") or 0)
        layers[layer] = (done, max(int(detail.get("total") or 0), done))
    elif status in ("Download complete", "Pull complete") and before:
        layers[layer] = (before[1], before[1])
    return layers.get(layer) != before


def _sum(layers: dict[str, tuple[int, int]]) -> PullProgress:
    return PullProgress(sum(done for done, _ in layers.values()), sum(total for _, total in layers.values()))
