"""What the engine's inspect says about a container, as an `Observation`. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from runtimes.contract import Address, ContainerState, Observation
from runtimes.docker_spec import LABEL_PORT

_KILLED = 137  # by SIGKILL
_EXPLAINED_WITHIN = timedelta(seconds=1)


def observation(facts: dict[str, Any]) -> Observation:
    state, engine_state = container_state(facts), facts["State"]
    exited = state is ContainerState.EXITED
    return Observation(
        name=facts["Name"].lstrip("/"),
        runtime_id=facts["Id"],
        state=state,
        labels=dict(facts["Config"].get("Labels") or {}),
        address=_address(facts) if state is ContainerState.RUNNING else None,
        exit_code=engine_state.get("ExitCode", 0) if exited else None,
        oom_killed=exited and bool(engine_state.get("OOMKilled")),
        error=str(engine_state.get("Error") or ""),
        started_at=_time(engine_state.get("StartedAt")),
        finished_at=_time(engine_state.get("FinishedAt")) if exited else None,
    )


def container_state(facts: dict[str, Any]) -> ContainerState:
    """A container that the engine made but could not start has ended: it carries the error and the exit code
    (127 no such program, 126 not executable, 128 otherwise).
    """
    status, error = facts["State"]["Status"], facts["State"].get("Error")
    if status == "created":
        return ContainerState.EXITED if error else ContainerState.CREATED
    if status in ("running", "paused", "restarting"):
        return ContainerState.RUNNING
    return ContainerState.EXITED


def is_unexplained(facts: dict[str, Any], now: datetime) -> bool:
    """Whether the engine may yet say that it was killed for its memory: that word and the end come to it apart."""
    state = facts["State"]
    ended = _time(state.get("FinishedAt"))
    if (
        container_state(facts) is not ContainerState.EXITED
        or state.get("ExitCode") != _KILLED
        or ended is None
    ):
        return False
    limited = bool((facts.get("HostConfig") or {}).get("Memory"))
    return limited and not state.get("OOMKilled") and timedelta() <= now - ended < _EXPLAINED_WITHIN


def _address(facts: dict[str, Any]) -> Address | None:
    """The published port if there is one, else the container's own address."""
    settings = facts["NetworkSettings"]
    port = (facts["Config"].get("Labels") or {}).get(LABEL_PORT, "")
    for binding in (settings.get("Ports") or {}).get(f"{port}/tcp") or []:
        return Address(binding["HostIp"], int(binding["HostPort"]))
    for network in (settings.get("Networks") or {}).values():
        if network.get("IPAddress") and port:
            return Address(network["IPAddress"], int(port))
    return None


def chosen_address(facts: dict[str, Any]) -> str:
    """The address that the container was made with, "" if the engine was to choose."""
    for network in (facts["NetworkSettings"].get("Networks") or {}).values():
        return str((network.get("IPAMConfig") or {}).get("IPv4Address") or "")
    return ""


def _time(text: str | None) -> datetime | None:
    """The engine writes nanoseconds, and year 1 for "never"."""
    if not text or text.startswith("0001-"):
        return None
    moment, _, _ = text.rstrip("Z").partition(".")
    fraction = text.rstrip("Z").partition(".")[2][:6].ljust(6, "0")
    return datetime.fromisoformat(f"{moment}.{fraction}+00:00")
