"""The part of the metrics benchmark that runs with the platform's own settings. Prints one line of JSON."""

from __future__ import annotations

import json
import math
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import django

django.setup()

from django.db import connection  # noqa: E402
from django.db.models import F  # noqa: E402

from endpoints.metrics import prometheus, query, rows, store, text_format, told  # noqa: E402
from endpoints.metrics.sample import RESOLUTIONS, ReplicaFigures, Sample, merge  # noqa: E402
from endpoints.models import (  # noqa: E402
    Decision,
    Endpoint,
    MetricSample,
    MetricSeries,
    Replica,
    ScaleState,
)
from endpoints.watching.metering import AFTER_S, Metering  # noqa: E402
from gateway.figures import EndpointFigures, Told, bin_of  # noqa: E402
from iam.models import Project  # noqa: E402
from runtimes.contract import GpuLoad  # noqa: E402
from runtimes.fake import FakeRuntime  # noqa: E402
from tests.bench.fleet_inside import actor, cpu_s, person, timed  # noqa: E402
from tests.support_fleet import big_engine, serving  # noqa: E402
from tests.support_pages import page_server  # noqa: E402

REQUESTS_PER_S = 20
CHARTS, SCRAPES = 20, 3
DAY = 86_400
GROWING = 20  # one of so many endpoints is above a threshold all the time
PAUSE_S = 0.2  # between two rounds: what a replica used is a rate
ALONE = 10  # endpoints whose samples are laid out to weigh them
# For how long each resolution is laid out. The coarsest, six times as large as both others, is read by neither a round
# nor a chart of a day, and would take 4 GB.
FILLED_S = {5: 3600, 60: DAY, 900: 3600}


def busy(at: int, names: Iterable[str], seed: int = 0) -> Sample:
    """Five seconds of 20 requests a second and a stream or two on GPUs, answered within a fifth of a decade."""
    chance = random.Random(f"{at} {seed}")
    count = 5 * REQUESTS_PER_S

    def times(middle: float) -> dict[int, float]:
        bins: dict[int, float] = {}
        for _ in range(count):
            number = bin_of(chance.lognormvariate(0, 0.4) * middle)
            bins[number] = bins.get(number, 0) + 1
        return bins

    figures = {name: ReplicaFigures(*(round(chance.uniform(1, 99), 1) for _ in range(9))) for name in names}
    answered = {"2xx": count - 2, "4xx": 1, "5xx": 1}
    size = len(figures)
    return Sample(
        at, 5.0, answered, times(900), times(120), {}, 7.4, 12, size, size, 1, 10, size * 5.0, figures
    )


def idle(at: int, names: Iterable[str], seed: int = 0) -> Sample:
    """Five seconds without a request, on one replica without a GPU."""
    chance = random.Random(f"{at} {seed}")
    figures = {name: ReplicaFigures(round(chance.uniform(0, 0.5), 1), 34.2) for name in list(names)[:1]}
    return Sample(at, 5.0, wanted=1, ready=1.0, low=1, high=3, replica_seconds=5.0, replicas=figures)


def round_seconds(names: dict[str, list[str]], runtime: FakeRuntime, now: int) -> dict[str, float]:
    """Processor seconds of a whole round (drain, read, store, roll up, decide) at each slot of two minutes, once all
    tables are full: the median, and the most (the first one, one that rolls up a minute, or the one in which every
    endpoint above its threshold grows)."""
    with as_in_a_round(runtime):
        metering, spent = Metering(runtime), []
        for number, at in enumerate(range(now, now + 120, 5)):
            tell(names, number, at)
            began = cpu_s()
            metering.round(at + AFTER_S)
            spent.append(cpu_s() - began)
            time.sleep(PAUSE_S)
    _check(names, now)
    return {"median": statistics.median(spent), "most": max(spent)}


@contextmanager
def as_in_a_round(runtime: FakeRuntime) -> Iterator[None]:
    """Every replica works, has a GPU and a model server that prints its figures; every endpoint has all thresholds,
    and one of GROWING is above one of them."""
    Endpoint.objects.update(
        max_replicas=10, cpu_percent=80, memory_percent=90, gpu_percent=80, latency_ms=5000, in_flight=8
    )
    rows = list(Replica.objects.order_by("endpoint_id", "name"))
    loads = {}
    with page_server() as port:
        for number, row in enumerate(rows):
            row.host, row.port, row.gpu_ids = "127.0.0.1", port, [f"GPU-{number}"]
            grows = number % (3 * GROWING) < 3
            runtime.engine.works(row.name, cores=row.cpus * (0.95 if grows else 0.7), memory_bytes=2**31)
            loads[row.gpu_ids[0]] = GpuLoad(60.0, 2**33, 2**34)
        runtime.engine.gpu_loads = loads
        Replica.objects.bulk_update(rows, ["host", "port", "gpu_ids"], batch_size=300)
        yield


def tell(names: dict[str, list[str]], number: int, at: int) -> None:
    """What one gateway counted of all endpoints in a slot."""
    figures = {}
    for seed, (key, mine) in enumerate(names.items()):
        drawn = busy(at % 20, mine, seed % 50)
        figures[key] = EndpointFigures(drawn.answered, drawn.duration, drawn.first_byte, {30: 1}, 7)
    assert told.push(Told("bench", number, 5.0, figures))


def _check(names: dict[str, list[str]], now: int) -> None:
    """Whether the rounds did what they are measured for."""
    found = store.latest(names, now + 120)
    replicas = [figures for sample in found.values() for figures in sample.replicas.values()]
    assert len(found) == len(names)
    assert len(replicas) == sum(map(len, names.values()))
    assert all(None not in (one.cpu, one.memory, one.gpu, one.queued, one.tokens_out) for one in replicas)
    assert ScaleState.objects.count() == len(names)
    grown = Decision.objects.filter(after__gt=F("before")).values("endpoint_id").distinct().count()
    assert grown == math.ceil(len(names) / GROWING), grown


def fill(names: dict[str, list[str]], now: int) -> None:
    """The table as it is when every endpoint has been busy for as long as samples are kept."""
    series = dict(MetricSeries.objects.values_list("endpoint_id", "pk"))
    for resolution, span in FILLED_S.items():
        end = now // resolution * resolution
        slots = range(end - span, end, resolution)
        packed = {
            key: rows.pack(coarse(busy, mine, resolution, n), key)
            for n, (key, mine) in enumerate(names.items())
        }
        with connection.cursor() as cursor:
            cursor.execute("CREATE TEMP TABLE drawn (series_id integer, figures text)")
            cursor.executemany(
                "INSERT INTO drawn VALUES (%s, %s)", [(series[key], text) for key, text in packed.items()]
            )
            cursor.execute(
                f"INSERT OR IGNORE INTO {MetricSample._meta.db_table} (resolution, at, series_id, figures) "
                "WITH RECURSIVE slots(at) AS (VALUES (%s) UNION ALL SELECT at + %s FROM slots WHERE at + %s < %s) "
                "SELECT %s, at, series_id, figures FROM slots CROSS JOIN drawn",
                [slots[0], resolution, resolution, end, resolution],
            )
            cursor.execute("DROP TABLE drawn")


def coarse(kind: Callable[..., Sample], names: Iterable[str], resolution: int, seed: int) -> Sample:
    """What a slot of that resolution holds."""
    return merge(0, [kind(at, names, seed) for at in range(0, min(resolution, 120), 5)])


def chart(endpoint: Endpoint, now: float) -> dict[str, float]:
    """A chart of 24 hours, of which each minute is there: medians, s."""

    def one() -> None:
        drawn = query.chart(endpoint, now - DAY, now, now=now)
        assert sum(value is not None for value in drawn["series"]["cpu"]) > 400

    return timed(one, CHARTS)


def scrape(project: Project, now: float) -> dict[str, float]:
    """What Prometheus is told of the whole fleet: medians, s."""
    return timed(lambda: text_format.text(prometheus.families(project, now)), SCRAPES)


def bytes_of(kind: Callable[..., Sample], resolution: int, replicas: int) -> float:
    """What one sample takes in the file, its index included: of as many as ALONE endpoints have in some hours."""
    MetricSample.objects.all().delete()
    connection.cursor().execute("VACUUM")
    before, count = _file_bytes(), 600
    names = [f"~v1-r{number}-1" for number in range(1, replicas + 1)]
    begin = int(time.time()) // resolution * resolution - count * resolution
    rows.save(
        MetricSample(
            series_id=1000 + number,
            resolution=resolution,
            at=begin + at * resolution,
            figures=rows.pack(coarse(kind, names, resolution, at * ALONE + number)),
        )
        for at in range(count)
        for number in range(ALONE)
    )
    return (_file_bytes() - before) / count / ALONE


def _file_bytes() -> int:
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA page_count")
        pages = cursor.fetchone()[0]
        cursor.execute("PRAGMA page_size")
        return int(pages * cursor.fetchone()[0])


def growth(kind: Callable[..., Sample], replicas: int) -> dict[str, float]:
    """Bytes of one endpoint: those that a day adds and keeps, and all of them once nothing grows any more."""
    each = {resolution: bytes_of(kind, resolution, replicas) for resolution in RESOLUTIONS}
    whole = sum(each[resolution] * age / resolution for resolution, age in RESOLUTIONS.items())
    return {"day": each[max(RESOLUTIONS)] * DAY / max(RESOLUTIONS), "whole": whole}


def main(endpoints: int, replicas: int) -> None:
    """Make the fleet and measure."""
    runtime = FakeRuntime("bench", big_engine(endpoints * replicas))
    fleet = serving(actor(person()), runtime, endpoints, replicas)
    names: dict[str, list[str]] = {}
    for key, name in Replica.objects.values_list("endpoint_id", "name"):
        names.setdefault(key, []).append(name)
    now = int(datetime.now(UTC).timestamp()) // 900 * 900
    store.write({key: idle(now - 5, mine) for key, mine in names.items()})
    began = time.monotonic()
    fill(names, now)
    print(f"filled in {time.monotonic() - began:.0f} s, {_file_bytes() / 1e6:.0f} MB", file=sys.stderr)
    spent = round_seconds(names, runtime, now)
    print(
        json.dumps(
            {
                "round": spent,
                "chart": chart(fleet[len(fleet) // 2], now + 120),
                "scrape": scrape(fleet[0].project, now + 120),
                "idle": growth(idle, 1),
                "busy": growth(busy, replicas),
            }
        )
    )


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
