"""What a deployment that is under way can be told already: its server listens, but not where it is asked.

Only a hint. A server may open the port that it is asked on last, so the deployment goes on, and the hint goes as soon
as it is wrong.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from typing import Any

from django.core.cache import cache
from redis.exceptions import RedisError

from endpoints.causes import HINT_AFTER_S, early_hint
from endpoints.models import Replica, ReplicaState
from endpoints.specs import health_check
from runtimes.contract import ContainerState, Observation, Runtime
from runtimes.errors import RuntimeFailure

log = logging.getLogger(__name__)
LOOK_EVERY_S = 5


def look(
    replicas: Iterable[Replica],
    found: Mapping[str, Observation],
    healthy: Collection[str],
    runtime: Runtime,
    now: datetime,
) -> dict[str, dict[str, Any]]:
    """By name, the hint for each replica that was looked at: {"code", …}, or {} if there is nothing to tell.

    One that is not in the answer was not looked at: too young, healthy, or looked at a moment ago.
    """
    hints = {}
    for replica in replicas:
        container = found.get(replica.name)
        if replica.state != ReplicaState.STARTING or replica.name in healthy or replica.started_at is None:
            continue
        age_s = (now - replica.started_at).total_seconds()
        if container is None or container.state is not ContainerState.RUNNING or age_s < HINT_AFTER_S:
            continue
        if not _my_turn(replica.name):
            continue
        try:
            listening = runtime.listening(replica.name)
        except RuntimeFailure as failure:
            log.info("%s: its ports could not be read (%s)", replica.name, failure.evidence)
            continue
        hints[replica.name] = early_hint(listening, health_check(replica.revision).port, age_s) or {}
    return hints


def _my_turn(name: str) -> bool:
    try:
        return bool(cache.add(f"ports-seen:{name}", 1, timeout=LOOK_EVERY_S))
    except (RedisError, OSError):
        return False
