"""Fetching an image, layer by layer."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import docker.errors

from runtimes.contract import PullProgress, RegistryAuth
from runtimes.docker_client import Client
from runtimes.docker_errors import explanation, from_pull, translated
from runtimes.errors import RuntimeFailure

_INTERVAL_S = 0.1
_SILENCE_S = (
    1.0  # so often `progress` is called although nothing moves: a pull that hangs can be given up, too
)
_END_S = 2.0

_Message = dict[str, Any]


def pull_image(
    api: Client,
    image: str,
    auth: RegistryAuth | None,
    progress: Callable[[PullProgress], None] | None,
) -> None:
    """Raises ImageMissing, ImageDenied, RegistryUnreachable, NoSpace, RuntimeUnreachable, or what `progress` does.

    The host's own `docker login` is never used: it is the operator's, and the image's name is a user's.
    """
    layers = _Layers()
    reported = time.monotonic()
    with contextlib.closing(api), _reading(api, image, auth) as messages:
        for message in messages:
            changed = message is not None and layers.note(message)
            quiet_s = time.monotonic() - reported
            if progress and quiet_s >= (_INTERVAL_S if changed else _SILENCE_S):
                reported = time.monotonic()
                progress(layers.sum())
    if progress and layers:
        progress(layers.sum())


@contextlib.contextmanager
def _reading(api: Client, image: str, auth: RegistryAuth | None) -> Iterator[Iterator[_Message | None]]:
    """The engine's messages as they come, None after a while without one.

    A thread reads them: reading blocks for as long as the registry says nothing, and leaving the block must end the
    transfer even then. The engine ends it once nobody is connected for it.
    """
    found: queue.SimpleQueue[_Message | BaseException | None] = queue.SimpleQueue()

    def read() -> None:
        try:
            for message in _messages(api, image, auth):
                found.put(message)
        except Exception as error:  # raised again where it belongs
            found.put(error)
        else:
            found.put(None)

    reader = threading.Thread(target=read, name="pull-reader", daemon=True)
    reader.start()
    try:
        yield _taken(found)
    finally:
        api.cut()
        # Before the engine's first word there is no answer to cut off; the thread ends at the engine's own limit.
        reader.join(_END_S)


def _taken(found: queue.SimpleQueue[_Message | BaseException | None]) -> Iterator[_Message | None]:
    while True:
        try:
            item = found.get(timeout=_SILENCE_S)
        except queue.Empty:
            yield None
            continue
        if item is None:
            return
        if isinstance(item, BaseException):
            raise item
        yield item


def _messages(api: Client, image: str, auth: RegistryAuth | None) -> Iterator[_Message]:
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


@dataclass
class _Layer:
    """Bytes of one layer. total: None while nobody has told it."""

    done: int = 0
    total: int | None = None

    def received(self, detail: dict[str, Any]) -> None:
        """After a broken line the engine counts only what was missing then (moby's distribution/pull_v2.go), and at
        the break it says that all has come (pkg/progress/progressreader.go): "all" is believed when it is checked.
        """
        came, of = int(detail.get("current") or 0), int(detail.get("total") or 0)
        self.total = max(self.total or 0, of, came)
        if came < of:
            self.done = self.total - of + came


class _Layers:
    """What the messages say about all layers. Unpacking comes after the bytes and is not counted."""

    def __init__(self) -> None:
        self._layers: dict[str, _Layer] = {}

    def __bool__(self) -> bool:
        return any(layer.total for layer in self._layers.values())

    def note(self, message: _Message) -> bool:
        """Keep what it says of its layer; True if the sum changed."""
        name, status = message.get("id"), message.get("status")
        if not name or status not in ("Pulling fs layer", "Waiting", "Downloading", *_DONE):
            return False
        before = self.sum()
        layer = self._layers.setdefault(name, _Layer())
        if status == "Downloading":
            layer.received(message.get("progressDetail") or {})
        elif status in _DONE:
            layer.done = layer.total = layer.total or 0  # one that came at a stroke never told its size
        return self.sum() != before

    def sum(self) -> PullProgress:
        """Over all layers."""
        layers = self._layers.values()
        return PullProgress(
            done=sum(layer.done for layer in layers),
            total=sum(layer.total or 0 for layer in layers),
            waiting=sum(layer.total is None for layer in layers),
        )


_DONE = ("Already exists", "Verifying Checksum", "Download complete", "Extracting", "Pull complete")
