"""Everything in Redis is gone: queued tasks, caches, locks, what the gateways said."""

from __future__ import annotations

import redis

from config.places import socket_dir
from tests.faults.story import Story


def strike(story: Story) -> None:
    """FLUSHALL."""
    socket = socket_dir(story.world.where.home) / "redis.sock"
    with redis.Redis(unix_socket_path=str(socket)) as client:
        client.flushall()
