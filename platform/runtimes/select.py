"""Which runtime this installation uses, and why: BERTH_RUNTIME (contract §1)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from runtimes import images
from runtimes.contract import Runtime
from runtimes.docker import DEFAULT_POOL, DockerRuntime
from runtimes.errors import RuntimeFailure, RuntimeNotPermitted, RuntimeUnreachable, UnknownRuntime
from runtimes.process import ProcessRuntime

_ANSWER_WITHIN_S = 5  # while choosing only; a busy engine is slower than an absent one, but not that much


@dataclass(frozen=True, slots=True)
class Choice:
    """The driver, and one sentence for the operator on why it is this one."""

    runtime: Runtime
    why: str


def choose(kind: str, *, home: Path, owner: str, subnet_pool: str = DEFAULT_POOL) -> Choice:
    """The driver for `auto`, `docker` or `process`. Raises UnknownRuntime for everything else.

    `docker` is taken at its word: an engine that does not answer now may do so later. `auto` asks the engine, and
    builds our llama.cpp image if it lacks it (seconds), as only then can a model be served without a registry.
    """
    if kind == "process":
        return Choice(ProcessRuntime(home, owner), "BERTH_RUNTIME says so")
    if kind == "docker":
        problem = _problem(owner)
        why = (
            f"{problem} Endpoints wait until then." if problem else _good_news(owner, "BERTH_RUNTIME says so")
        )
        return Choice(DockerRuntime(owner, subnet_pool=subnet_pool), why)
    if kind == "auto":
        problem = _problem(owner)
        if not problem:
            return Choice(
                DockerRuntime(owner, subnet_pool=subnet_pool), _good_news(owner, "a Docker Engine answers")
            )
        return Choice(ProcessRuntime(home, owner), problem)
    if kind == "swarm":
        raise UnknownRuntime("BERTH_RUNTIME=swarm does not exist yet; use docker, process or auto")
    raise UnknownRuntime(f"BERTH_RUNTIME={kind} is none of auto, docker, process")


def _problem(owner: str) -> str:
    """Why Docker cannot be used now and what to do about it, or ""."""
    try:
        images.ensure_llama_cpp(DockerRuntime(owner, timeout_s=_ANSWER_WITHIN_S))
    except RuntimeNotPermitted as error:
        return (
            f"a Docker Engine is there, but may not be used: {error.evidence}."
            " Add the user to the docker group, or run as one who may."
        )
    except RuntimeUnreachable as error:
        return f"no engine answers: {error.evidence}. Start the Docker Engine to use it."
    except RuntimeFailure as error:
        return f"the Docker Engine can't be used: {error.evidence}."
    return ""


def _good_news(owner: str, reason: str) -> str:
    """`reason` with the engine's version, and its weakness where it has one."""
    try:
        info = DockerRuntime(owner, timeout_s=_ANSWER_WITHIN_S).info()
    except RuntimeFailure:
        return reason
    return " ".join(filter(None, [f"{reason} (version {info.version}).", info.isolation]))
