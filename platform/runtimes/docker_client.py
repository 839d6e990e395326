"""Connections to the engine: where it listens, and no call without a time limit."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import docker
from docker.utils import kwargs_from_env


class Client(docker.APIClient):
    """docker-py turns the time limit off for what may take long; this one bounds the silence instead.

    silence_s   seconds without a byte from the engine in such a call; None: wait for ever (logs, events)
    ask_s       the limit of a mere question, which even a busy engine answers soon: one that hangs must be known as
                such well before a reconcile's lease ends
    """

    silence_s: float | None = None
    ask_s: float = 8
    _streaming: Any = None

    def cut(self) -> None:
        """End the long call that another thread is reading; the engine gives up what was only for that call."""
        response = self._streaming
        if response is not None:
            with suppress(OSError, ValueError, RuntimeError):  # it has ended already
                response.raw.shutdown()

    def _stream_helper(self, response: Any, decode: bool = False) -> Any:
        self._streaming = response
        return super()._stream_helper(response, decode)  # type: ignore[misc]  # the stubs lack it

    def _get(self, url: str, **kwargs: Any) -> Any:
        kwargs.setdefault("timeout", min(self.ask_s, self.timeout))
        return super()._get(url, **kwargs)  # type: ignore[misc]  # the stubs lack it

    def _set_request_timeout(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        kwargs.setdefault("timeout", self.timeout)
        if kwargs["timeout"] is None:
            kwargs["timeout"] = self.silence_s
        return kwargs


def connect(base_url: str | None, timeout_s: int) -> Client:
    """Asks the engine for its API's version. Raises what docker-py raises."""
    return Client(version="auto", timeout=timeout_s, **_engine_address(base_url))


def is_local_socket(base_url: str | None) -> bool:
    return "unix:" in str(_engine_address(base_url)["base_url"])


def _engine_address(base_url: str | None) -> dict[str, Any]:
    """DOCKER_HOST and its companions; without them the first local socket there is.

    Docker Desktop, Colima, OrbStack and rootless engines may put theirs into the user's own folders.
    """
    if base_url is not None:
        return {"base_url": base_url}
    given = kwargs_from_env()
    if "base_url" in given:
        return {**given}
    home = Path.home()
    sockets = [
        Path("/var/run/docker.sock"),
        Path(os.environ.get("XDG_RUNTIME_DIR", "/nonexistent")) / "docker.sock",
        home / ".docker/run/docker.sock",
        home / ".colima/default/docker.sock",
        home / ".orbstack/run/docker.sock",
    ]
    found = next((path for path in sockets if path.exists()), sockets[0])
    return {"base_url": f"unix://{found}"}
