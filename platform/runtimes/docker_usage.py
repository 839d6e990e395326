"""What an engine's containers have used: from the kernel's files where they are this machine's, else from the engine.

The engine measures once a second, and answers a question about one container with its next measurement: up to a
second each, so all are asked side by side.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import docker.errors

from runtimes import cgroups
from runtimes.contract import Usage
from runtimes.docker_client import Client, is_local_socket
from runtimes.docker_errors import is_missing, translated
from runtimes.errors import RuntimeFailure, RuntimeUnreachable

AT_ONCE = 48


class Usages:
    """One engine's containers. Their files are looked for once each.

    api        this thread's client; called from several threads
    base_url   the engine's address, as `connect` takes it
    """

    def __init__(self, api: Callable[[], Client], base_url: str | None) -> None:
        self._api = api
        self._base_url = base_url
        self._files: dict[str, cgroups.Files | None] = {}
        self._pool: ThreadPoolExecutor | None = None

    def read(self, label: str, names: Collection[str] | None) -> dict[str, Usage]:
        """By name, of the running containers that carry the label. Raises RuntimeUnreachable."""
        with translated():
            rows = self._api().containers(filters={"label": [label]})
            running = {_name(row["Names"]): str(row["Id"]) for row in rows}
            if names is not None:
                running = {name: running[name] for name in names if name in running}
            self._learn(running.values(), {str(row["Id"]) for row in rows})
        found: dict[str, Usage] = {}
        asked: dict[str, str] = {}
        for name, container in running.items():
            files = self._files.get(container)
            if files is None:
                asked[name] = container
            elif usage := files.read():
                found[name] = usage
        return found | self._ask(asked)

    def _learn(self, containers: Iterable[str], present: Collection[str]) -> None:
        local = sys.platform == "linux" and is_local_socket(self._base_url)
        self._files = {key: files for key, files in self._files.items() if key in present}
        for container in containers:
            if container not in self._files:
                self._files[container] = self._find(container) if local else None

    def _find(self, container: str) -> cgroups.Files | None:
        try:
            facts = self._api().inspect_container(container)
        except docker.errors.APIError as error:
            if is_missing(error, "container"):
                return None
            raise
        return cgroups.files_of(int(facts["State"].get("Pid") or 0), container)

    def _ask(self, containers: Mapping[str, str]) -> dict[str, Usage]:
        if not containers:
            return {}
        if self._pool is None:
            self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="usage")
        answers = zip(containers, self._pool.map(self._one, containers.values()), strict=True)
        return {name: usage for name, usage in answers if usage is not None}

    def _one(self, container: str) -> Usage | None:
        """None if it is gone, or if the engine fails to measure this one."""
        try:
            with translated():
                answer = self._api().stats(container, decode=None, stream=False, one_shot=True)
        except RuntimeUnreachable:
            raise
        except RuntimeFailure:
            return None
        return usage_of(answer, time.monotonic())


def usage_of(answer: Mapping[str, Any], at: float) -> Usage | None:
    """From the engine's GET /containers/{id}/stats, the memory as its command line counts it
    (https://docs.docker.com/reference/cli/docker/container/stats/); None where the container has ended."""
    memory = answer.get("memory_stats") or {}
    details = memory.get("stats") or {}
    with contextlib.suppress(KeyError, TypeError, ValueError):
        cpu = int(answer["cpu_stats"]["cpu_usage"]["total_usage"])
        used = int(memory["usage"])
        inactive = int(details.get("total_inactive_file", details.get("inactive_file", 0)))
        return Usage(cpu / 1e9, used - inactive if inactive < used else used, at)
    return None


def _name(names: Iterable[str]) -> str:
    """Its own: the others, with a second slash, are what linked containers call it."""
    return next((name[1:] for name in names if name.count("/") == 1), "")
