"""Nobody notices a rolling update, a scale-down, a killed process of the platform or a killed idle replica.

The small size of `make bench ARGS=rollout`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import require
from tests.support_rollouts import Size, run
from tests.support_runtimes import engine_answers

pytestmark = [pytest.mark.engine, pytest.mark.redis, pytest.mark.envoy, pytest.mark.timeout(400)]
SMALL = Size(rollouts=2, requests=500, streams=60, stream_s=8, shorts=4, pause_s=0.3)


def test_no_request_is_lost(tmp_path: Path) -> None:
    require("docker engine", engine_answers(), "docker ping failed")
    outcome = run(tmp_path, SMALL)
    print(outcome.words())
    assert outcome.load.tally.failures == []
    assert outcome.load.tally.answered["stream"] >= outcome.load.tally.total / 4
    assert outcome.rollouts == SMALL.rollouts
