"""The runtime of this installation. Only worker and watcher call it; web never does."""

from __future__ import annotations

from functools import lru_cache

from django.conf import settings

from config.keyfiles import read_or_create
from runtimes.contract import Runtime
from runtimes.select import choose


def owner() -> str:
    """This installation's id: the label that tells our containers from everybody else's."""
    return read_or_create(settings.BERTH_HOME / "keys" / "owner")[:32]


@lru_cache(maxsize=1)
def current_runtime() -> Runtime:
    """The driver that BERTH_RUNTIME names, made once a process."""
    choice = choose(
        settings.BERTH_RUNTIME,
        home=settings.BERTH_HOME,
        owner=owner(),
        subnet_pool=settings.BERTH_SUBNET_POOL,
    )
    return choice.runtime
