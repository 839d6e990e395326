"""A process's own connections, told from its clients' and from everybody else's."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from gateway import connections
from gateway.connections import Counts, count

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_who_is_connected_where(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as server:
        port = server.getsockname()[1]
        other = f"{host}:{port}"
        with socket.create_connection((host, port)), socket.create_connection((host, port)) as second:
            mine = second.getsockname()[1]
            found = count(os.getpid(), 1, frozenset())
            assert found is not None
            assert found[other] == 2
            inside = count(os.getpid(), 1, {other})
            assert inside is not None
            assert other not in inside
            own = count(os.getpid(), mine, frozenset())
            assert own is not None
            assert own[other] == 1
            with subprocess.Popen(["sleep", "60"]) as stranger:
                assert count(stranger.pid, 1, frozenset()) == {}
                stranger.kill()
            assert count(stranger.pid, 1, frozenset()) == {}  # it has ended
        left = count(os.getpid(), 1, frozenset())
        assert left is not None
        assert other not in left


def test_a_kernel_that_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_SOCK_DIAG_BY_FAMILY", 99)
    assert count(os.getpid(), 1, frozenset()) is None


def test_counts_keep_their_distance() -> None:
    counts = Counts(1)
    assert counts.due(None, frozenset()) == (True, {})
    assert counts.due(None, frozenset()) == (False, None)


def test_what_has_been_nothing_for_a_while_is_not_counted_at_each_poll(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """But soon after replicas left: a request may have been about to connect to one of them."""
    now, found, made = [100.0], dict[str, int](), []

    def counted(*of: object) -> dict[str, int]:
        made.append(of)
        return found

    monkeypatch.setattr(connections, "count", counted)
    monkeypatch.setattr(connections.time, "monotonic", lambda: now[0])
    counts = Counts(1)

    def poll(seconds: float, inside: frozenset[str] = frozenset("a")) -> int:
        """How often it was counted meanwhile; every poll has an answer."""
        made.clear()
        for _ in range(int(seconds * 4)):
            now[0] += 0.25
            assert counts.due(7, inside) == (True, found)
        return len(made)

    assert poll(2.5) == 10
    assert poll(25) == 5
    assert poll(2.5, frozenset("b")) == 10
    found["gone:80"] = 1
    now[0] += 6
    assert poll(5, frozenset("b")) == 20
