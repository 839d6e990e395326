"""A load step beyond a threshold: when the new replica takes traffic, its container's own start left out."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from tests.bench.result import Result
from tests.support_processes import eventually
from tests.support_rollouts import stage
from tests.support_steady import Load

NOTICED_S, STABLE_S = 15, 15
STEPS = 3
SETTINGS = {
    "min_replicas": 1,
    "max_replicas": 2,
    "in_flight": 4,
    "scale_up_after_s": STABLE_S,
    "scale_down_after_s": 5,
}


def run() -> list[Result]:
    """The longest of a few steps that come at different moments of the rounds in which is measured."""
    above, starts, failures = [], [], 0
    with (
        tempfile.TemporaryDirectory(prefix="berth-bench-") as folder,
        stage(Path(folder), **SETTINGS) as (today, endpoint),
    ):
        url = f"http://localhost:{today.where.gateway_port}/v1/{endpoint}"
        second = f"get({endpoint!r}).replicas.filter(slot=2, state='ready').exclude(routed_at=None)"
        alone = (
            f"not get({endpoint!r}).replicas.filter(slot=2).exclude(state__in=['stopped', 'failed']).exists()"
        )
        for number in range(STEPS):
            time.sleep(number * 1.7)
            load = Load(url, today.token(), streams=8, stream_s=1, shorts=0, pause_s=0)
            began = time.time()
            with load:
                eventually(lambda: today.hand.do(f"{second}.count()"), "a second replica serves", 120)
                routed, started, ready = today.hand.do(
                    f"[t.timestamp() for t in {second}.values_list('routed_at', 'started_at', 'ready_at').get()]"
                )
                starts.append(ready - started)
                above.append(routed - began - starts[-1])
            failures += len(load.tally.failures)
            eventually(lambda: today.hand.do(alone), "one replica again", 120)
    goal = NOTICED_S + STABLE_S
    return [
        Result("load step → new replica takes traffic, its start left out, longest", round(max(above), 1), "s",
               f"<= {goal}", max(above) <= goal),
        Result("  the container's own start, longest", round(max(starts), 1), "s", "", None),
        Result("  failed requests meanwhile", failures, "", "0", not failures),
    ]  # fmt: skip
