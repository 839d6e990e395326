"""What a test platform left on the Docker Engine: seen and removed from outside, not through our driver."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import docker
import docker.errors

from tests.support_platform import Place


def engine_answers() -> bool:
    """Whether there is an engine to test on."""
    try:
        with closing(docker.from_env()) as engine:
            return bool(engine.ping())
    except docker.errors.DockerException:
        return False


def owner(where: Place) -> str:
    """The label value of everything that this platform made."""
    return (where.home / "keys" / "owner").read_text().strip()[:32]


def containers(where: Place) -> list[Any]:
    """Its containers, dead ones included."""
    return containers_of(owner(where))


def containers_of(installation: str) -> list[Any]:
    """The containers with this owner label, dead ones included."""
    with closing(docker.from_env()) as engine:
        found: list[Any] = engine.containers.list(all=True, filters={"label": f"berth.owner={installation}"})
        return found


def clean_up(where: Place) -> None:
    """Remove its containers and networks, if it ever got as far as making some."""
    if (where.home / "keys" / "owner").exists():
        remove_all(owner(where))


def remove_all(installation: str) -> None:
    """Remove every container and network with this owner label."""
    for container in containers_of(installation):
        container.remove(force=True)
    with closing(docker.from_env()) as engine:
        for network in engine.networks.list(filters={"label": f"berth.owner={installation}"}):
            network.remove()
