"""Which containers of an engine were given GPUs, and which of them compute there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from runtimes.contract import ALL_GPUS, LABEL_OWNER, LOCAL_NODE, GpuUse
from runtimes.gpus import GpuProcess, container_of, program_of


def gpus_given(facts: Mapping[str, Any]) -> tuple[str, ...]:
    """The GPUs that a container was made with, from the engine's inspect: UUIDs, indices, or ALL_GPUS.

    Asked for as a device request (`--gpus`), or through NVIDIA's own runtime by a variable.
    """
    host = facts.get("HostConfig") or {}
    given: list[str] = []
    for request in host.get("DeviceRequests") or []:
        if any("gpu" in group for group in request.get("Capabilities") or []):
            # A count says how many, not which; the first ones by index are what the hook takes.
            count = int(request.get("Count") or 0)
            given += request.get("DeviceIDs") or (
                [ALL_GPUS] if count < 0 else [str(index) for index in range(count)]
            )
    if host.get("Runtime") == "nvidia":
        given += _visible((facts.get("Config") or {}).get("Env") or [])
    return tuple(dict.fromkeys(given))


def _visible(environment: Iterable[str]) -> Iterator[str]:
    for item in environment:
        name, _, value = item.partition("=")
        if name == "NVIDIA_VISIBLE_DEVICES" and value not in ("", "void", "none"):
            yield from value.split(",")


def uses(
    containers: Iterable[Mapping[str, Any]],
    computing: Iterable[GpuProcess],
    owner: str,
    *,
    container_of: Callable[[int], str] = container_of,
    program_of: Callable[[int], str] = program_of,
) -> list[GpuUse]:
    """Running containers with the GPUs they were given, and the processes that compute on any. A process in a
    container counts as the container's.

    containers   the engine's inspect of each running one
    """
    rows = list(containers)
    by_id = {item["Id"]: item for item in rows}
    found = [
        GpuUse(LOCAL_NODE, gpu, _is_ours(item, owner), _name(item))
        for item in rows
        for gpu in gpus_given(item)
    ]
    for process in computing:
        item = by_id.get(container_of(process.pid))
        found.append(
            GpuUse(
                LOCAL_NODE,
                process.gpu,
                ours=item is not None and _is_ours(item, owner),
                name=_name(item) if item is not None else program_of(process.pid),
                pid=process.pid,
                memory_bytes=process.memory_bytes,
            )
        )
    return found


def _is_ours(facts: Mapping[str, Any], owner: str) -> bool:
    return (facts["Config"].get("Labels") or {}).get(LABEL_OWNER) == owner


def _name(facts: Mapping[str, Any]) -> str:
    return str(facts["Name"]).lstrip("/")
