"""A whole platform for tests and benchmarks: `manage.py up` or `demo` in a home and on ports of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from tests.support_postgres import new_database
from tests.support_processes import Running, free_ports, python, started


@dataclass(frozen=True, slots=True)
class Place:
    """Where one platform lives. database: its DATABASE_URL, "" for SQLite in its home."""

    home: Path
    port: int
    gateway_port: int
    runtime: str = "process"
    database: str = ""

    @property
    def console(self) -> str:
        """The console's address."""
        return f"http://localhost:{self.port}"

    @property
    def database_name(self) -> str:
        """Its name on the PostgreSQL server, "" on SQLite."""
        return urlsplit(self.database).path[1:]

    @property
    def env(self) -> dict[str, str]:
        """What makes `manage.py` use this place; nothing of the caller's surroundings leaks in."""
        return {
            "BERTH_HOME": str(self.home),
            "BERTH_PORT": str(self.port),
            "BERTH_GATEWAY_PORT": str(self.gateway_port),
            "BERTH_PUBLIC_URL": self.console,
            "BERTH_GATEWAY_URL": f"http://localhost:{self.gateway_port}",
            "BERTH_RUNTIME": self.runtime,
            "BERTH_IMAGE_REGISTRIES": "public,127.0.0.1:*",  # registries of the tests' own
            "DJANGO_SETTINGS_MODULE": "config.settings.dev",
            "REDIS_URL": "",
            "DATABASE_URL": self.database,
        }


def place(folder: Path, runtime: str = "process") -> Place:
    """A new home below `folder`, two free ports, and in the pass on PostgreSQL a new database there."""
    port, gateway_port = free_ports(2)
    return Place(folder / "home", port, gateway_port, runtime, new_database())


@contextmanager
def platform(where: Place, *arguments: str, env: Mapping[str, str] | None = None) -> Iterator[Running]:
    """`manage.py up` (or other arguments) while the block runs; nothing is left afterwards.

    env   added to what `where` says
    """
    command = python("manage.py", *(arguments or ("up",)))
    with started(command, where.home, {**where.env, **(env or {})}) as running:
        yield running
