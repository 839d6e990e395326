"""A day: quiet, ramp, spike, flat, silence. On the real stack it ends with the decisions that the policy predicts from
the load alone, with no failed request, and with a page that tells the story."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.support import require
from tests.support_processes import eventually
from tests.support_runtimes import engine_answers
from tests.support_scaling_day import predicted, theatre

pytestmark = [pytest.mark.engine, pytest.mark.redis, pytest.mark.envoy, pytest.mark.timeout(500)]

# Worked out by hand, four requests in flight being what one replica should have:
BY_HAND = [
    ("above", 1, 2),  # ramp to 6: 6 / 4 = 1.5, so 2
    ("above", 2, 3),  # ramp to 10: 10 / 4 = 2.5, so 3
    ("above", 3, 4),  # spike of 24: 24 / 4 = 6, of which max allows 4
    ("below", 4, 3),  # flat at 10: 3 again
    ("below", 3, 1),  # silence: none would do, and one stays until the idle time is over
    ("idle", 1, 0),  # 25 s without a request
]


def test_the_simulator_predicts_what_is_worked_out_by_hand() -> None:
    assert predicted() == BY_HAND


def test_the_day_goes_as_predicted(tmp_path: Path) -> None:
    require("docker engine", engine_answers(), "docker ping failed")
    with theatre(tmp_path) as stage:
        played = stage.play()
        eventually(lambda: len(stage.steps()) >= len(BY_HAND), f"the last decisions after {played.steps}", 30)
        assert stage.steps() == predicted() == BY_HAND
        assert played.failures == []
        assert played.answered > 300
        asleep = stage.day.until(stage.endpoint, "ASLEEP")
        assert [state for state, *_ in asleep["replicas"] if state not in ("stopped", "failed")] == []

        # The next request wakes it, and is answered.
        answer = httpx.get(
            f"{stage.url}/short/morning/500",
            headers={"Authorization": f"Bearer {stage.day.token()}"},
            timeout=60,
            trust_env=False,
        )
        assert (answer.status_code, len(answer.content)) == (200, 500)
        assert stage.steps() == [*BY_HAND, ("woken", 0, 1)]

        story = stage.day.hand.do(_PAGE.format(stage.endpoint, stage.day.where.port))
        for words in ("1 → 2", "2 → 3", "3 → 4", "4 → 3", "3 → 1", "1 → 0", "0 → 1"):
            assert words in story
        assert "max is 4" in story


_PAGE = """
(lambda client: (client.force_login(actor.user), client.get('/inference/{0}/scaling/').content.decode())[1])(
    __import__('django.test', fromlist=['Client']).Client(HTTP_HOST='localhost:{1}')
)
"""
