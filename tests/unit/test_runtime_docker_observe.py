"""Why a container was killed: the engine may say so a moment after it has said that it ended."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from runtimes.docker import DockerRuntime
from runtimes.docker_observe import is_unexplained

NOW = datetime(2026, 11, 23, 8, 0, 1, tzinfo=UTC)


def facts(ended: datetime = NOW, **state: Any) -> dict[str, Any]:
    """Of an inspect."""
    said = {
        "Status": "exited",
        "ExitCode": 137,
        "OOMKilled": False,
        "FinishedAt": ended.isoformat()[:-6] + "Z",
    }
    return {
        "Id": "1",
        "Name": "/a",
        "State": said | state,
        "HostConfig": {"Memory": 2**26},
        "Config": {"Labels": {"berth.owner": "us"}},
        "NetworkSettings": {},
    }


@pytest.mark.parametrize(
    ("found", "unexplained"),
    [
        (facts(), True),
        (facts(NOW - timedelta(seconds=0.9)), True),
        (facts(NOW - timedelta(seconds=1)), False),
        (facts(NOW + timedelta(seconds=60)), False),  # an engine whose clock is another one
        (facts(OOMKilled=True), False),
        (facts(ExitCode=1), False),
        (facts(Status="running"), False),
        (facts() | {"HostConfig": {"Memory": 0}}, False),
    ],
)
def test_what_may_yet_be_explained(found: dict[str, Any], unexplained: bool) -> None:
    assert is_unexplained(found, NOW) is unexplained


def test_a_container_that_was_just_killed_is_looked_at_twice() -> None:
    told = [facts(datetime.now(UTC)), facts(OOMKilled=True)]

    class Engine(DockerRuntime):
        def _inspect(self, name: str) -> dict[str, Any] | None:
            return told.pop(0)

    seen = Engine("us", base_url="unix:///nowhere").observe("a")
    assert seen is not None
    assert (seen.oom_killed, told) == (True, [])
