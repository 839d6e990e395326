"""The part of the readings benchmark that runs with the platform's own settings. Prints one line of JSON."""

from __future__ import annotations

import json
import statistics
import sys
import time

import django

django.setup()

from endpoints.metrics.readings import Readings  # noqa: E402
from endpoints.metrics.sample import ReplicaFigures  # noqa: E402
from endpoints.models import Replica  # noqa: E402
from runtimes.contract import ContainerSpec, GpuLoad  # noqa: E402
from runtimes.fake import Container, FakeRuntime  # noqa: E402
from tests.bench.fleet_inside import actor, cpu_s, person  # noqa: E402
from tests.support_endpoints import load_data, new_endpoint  # noqa: E402
from tests.support_pages import handled, page_server, silent  # noqa: E402

ROUNDS = 5
PAUSE_S = 1.0


def fleet(runtime: FakeRuntime, count: int, port: int) -> list[Replica]:
    """So many ready replicas of one endpoint, each with a GPU, all served by one server."""
    load_data()
    endpoint = new_endpoint(actor(person()))
    rows = [
        Replica(
            endpoint=endpoint,
            revision_id=endpoint.revision_id,
            name=f"r{number}",
            host="127.0.0.1",
            port=port,
            cpus=1,
            memory_bytes=2**30,
            gpu_ids=[f"GPU-{number}"],
        )
        for number in range(count)
    ]
    seen = runtime.start(ContainerSpec("r0", "any", 8080))
    for row in rows:
        runtime.engine.containers[row.name] = Container(ContainerSpec(row.name, "any", 8080), seen)
        runtime.engine.works(row.name, cores=0.5, memory_bytes=2**28)
    runtime.engine.gpu_loads = {row.gpu_ids[0]: GpuLoad(50, 1, 2) for row in rows}
    return rows


def timed(readings: Readings, rows: list[Replica], runtime: FakeRuntime, asked: int) -> dict[str, float]:
    """Processor and wall seconds of one round, in which so many model servers answer."""
    cpu, wall = cpu_s(), time.perf_counter()
    found = readings.take(rows, runtime)
    spent = {"cpu": cpu_s() - cpu, "wall": time.perf_counter() - wall}
    answered = sum(item.queued is not None for item in found.values())
    if answered != asked:
        print(f"{answered} of {asked} model servers answered", file=sys.stderr)
    time.sleep(PAUSE_S)
    return spent


def main(count: int, hung: int) -> None:
    """Measure."""
    runtime, readings = FakeRuntime("bench"), Readings()
    with page_server() as good, handled(silent) as bad:
        rows = fleet(runtime, count, good)
        first = timed(readings, rows, runtime, count)
        rounds = [timed(readings, rows, runtime, count) for _ in range(ROUNDS)]
        last: ReplicaFigures = readings.take(rows, runtime)["r0"]
        assert None not in (last.cpu, last.memory, last.gpu, last.tokens_out), last
        for row in rows[:: count // hung]:
            row.port = bad
        hanging = timed(readings, rows, runtime, count - hung)
    readings.close()
    well = {key: statistics.median(item[key] for item in rounds) for key in first}
    print(json.dumps({"first": first, "well": well, "hung": hanging}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
