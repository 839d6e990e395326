"""A real container that prints as fast as it can, beside one that says a line a moment: who pays for it, and what is
kept of either."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
from asgiref.sync import async_to_sync

from endpoints import log_tail, replica_logs
from endpoints.watching.logs import Follower, Followers, Outbox
from runtimes.contract import Runtime
from tests.contract.drivers import DockerDriver
from tests.support_processes import eventually

pytestmark = [pytest.mark.engine, pytest.mark.redis]

MEASURED_S = 15.0


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[DockerDriver]:
    driver = DockerDriver(tmp_path)
    yield driver
    driver.close()


@pytest.fixture
def home(settings: Any, tmp_path: Path) -> Path:
    settings.BERTH_HOME = tmp_path / "home"
    return Path(settings.BERTH_HOME)


class Reader:
    """Reads on from its place, as a socket does; notes when each line came."""

    def __init__(self, name: str) -> None:
        self.name, self.seen = name, log_tail.Seen()
        self.came: list[tuple[float, str]] = []

    def read(self) -> None:
        news = async_to_sync(log_tail.read)(self.name, self.seen)
        self.seen = news.seen
        self.came += [(time.monotonic(), line) for line in news.lines]


def engine_cpu() -> float:
    """Seconds of processor time that engines on this machine have used; 0 where they can't be seen."""
    times = [item.cpu_times() for item in psutil.process_iter() if item.name() == "dockerd"]
    return sum(found.user + found.system for found in times)


def test_a_container_that_prints_without_end_hurts_nobody(
    driver: DockerDriver, redis_server: redis.Redis, home: Path
) -> None:
    loud, quiet = driver.spec("loud", "flood"), driver.spec("quiet", "tick")
    outbox = Outbox()
    threading.Thread(target=outbox.run, daemon=True).start()
    for spec in (loud, quiet):
        driver.runtime.start(spec)
        Follower(driver.another(), spec.name, outbox).thread.start()
    readers = [Reader(loud.name), Reader(quiet.name)]
    eventually(lambda: [reader.read() for reader in readers] and all(r.came for r in readers), "lines", 20)

    process = psutil.Process()
    for reader in readers:
        reader.came.clear()
    cpu, memory, engine, began = (
        time.process_time(),
        process.memory_info().rss,
        engine_cpu(),
        time.monotonic(),
    )
    while time.monotonic() - began < MEASURED_S:
        for reader in readers:
            reader.read()
        time.sleep(0.1)
    seconds = time.monotonic() - began
    share = (time.process_time() - cpu) / seconds
    growth = process.memory_info().rss - memory
    engine_share = (engine_cpu() - engine) / seconds

    lines = [line for _, line in readers[0].came]
    numbers = [int(line.split()[0]) for line in lines if line[0].isdigit()]
    gaps = [line for line in lines if "left out" in line]
    printed = numbers[-1] - numbers[0]
    late = max(at - float(line) for at, line in _ticks(readers[1]))
    print(
        f"\nprinted {printed / seconds:,.0f} lines/s ({printed * 100 / seconds / 1e6:.0f} MB/s),"
        f" shown {len(lines) / seconds:,.0f} lines/s with {len(gaps)} gaps;"
        f" watcher and reader {share:.1%} of a core, {growth / 1e6:+.1f} MB; engine {engine_share:.0%} of a core;"
        f" the other replica's lines are at most {late:.2f} s late"
    )
    assert len(lines) / seconds <= 2 * log_tail.LINES
    assert gaps, "what is missing is said"
    said = sum(int(line.split()[2].replace(",", "")) for line in gaps if "about" in line)
    print(f"said to be left out: {said / printed:.0%} of what was")
    assert printed * 0.2 < said < printed * 5, "and in what order of magnitude"
    assert share <= 0.30
    assert growth < 30e6
    assert late < 5, "a flood holds up no other container, also beside other work"
    assert len(readers[1].came) > MEASURED_S / 0.5 * 0.8, "every line of the other one came"

    began = time.monotonic()
    driver.runtime.stop(loud.name, grace_s=5)
    stopped = time.monotonic() - began
    replica_logs.keep(driver.runtime, loud.name)
    kept = time.monotonic() - began - stopped
    path = replica_logs.kept_file(loud.name)
    assert path is not None
    size = path.stat().st_size
    print(f"stopped within {stopped:.2f} s, {size / 1e6:.1f} MB of its log kept within {kept:.2f} s")
    assert stopped < 5
    assert kept < replica_logs.LIMIT_S + 3
    assert 3_000_000 < size <= 10_000_000
    text = path.read_text()
    *whole, _last = text.splitlines()  # the printer was ended in the middle of one
    assert {len(line) for line in whole} == {99}
    last = int(whole[-1].split()[0])
    assert last >= numbers[-1], "its last words are among them"


def _ticks(reader: Reader) -> list[tuple[float, str]]:
    """Lines of `tick` hold the machine's monotonic clock."""
    return [(at, line) for at, line in reader.came if line[0].isdigit()]


def test_a_page_sees_every_line_once_though_the_watcher_is_killed_and_redis_is_emptied(
    driver: DockerDriver, redis_server: redis.Redis
) -> None:
    spec = driver.spec("a", "slowly", "80")
    driver.runtime.start(spec)
    reader = Reader(spec.name)

    def lines() -> list[str]:
        reader.read()
        return [line for _, line in reader.came]

    killed = Outbox()
    Follower(driver.runtime, spec.name, killed).thread.start()
    eventually(lambda: killed.send() or len(lines()) >= 10, "the first lines", 20)
    # From here on the first watcher is as good as dead: what it still reads is told to nobody.
    time.sleep(1)
    outbox = Outbox()
    followers = Followers(driver.another(), outbox)
    followers.by_name[spec.name] = Follower(followers.runtime, spec.name, outbox)
    followers.by_name[spec.name].thread.start()
    eventually(lambda: outbox.send() or len(lines()) >= 40, "more lines", 20)
    assert lines() == [f"line {number}" for number in range(len(lines()))]

    redis_server.flushall()
    eventually(lambda: outbox.send() or outbox.lost, "the loss is noticed", 20)
    followers.restore()
    late = Reader(spec.name)
    late.read()
    shown = [line for _, line in late.came]
    assert shown == [f"line {number}" for number in range(len(shown))]
    assert len(shown) > 40, "who opens the page now sees what was printed before"


def test_what_was_printed_last_outlives_the_container(driver: DockerDriver, home: Path) -> None:
    spec = driver.spec("a", "colours")
    driver.runtime.start(spec)
    eventually(lambda: "done" in driver.runtime.logs(spec.name), "it has printed", 20)
    replica_logs.keep(driver.runtime, spec.name)
    driver.runtime.remove(spec.name)
    replica_logs.keep(driver.runtime, spec.name)  # gone: what was kept stays
    path = replica_logs.kept_file(spec.name)
    assert path is not None
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert path.read_text() == "red\n100%\ntitle \ufffd\ufffd done\n"
    assert [item.name for item in path.parent.iterdir()] == [path.name]


def test_an_engine_that_hangs_does_not_hold_a_reconcile(
    driver: DockerDriver, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow:
        def __init__(self, runtime: Runtime) -> None:
            self.runtime = runtime

        def whole_log(self, name: str) -> Iterator[bytes]:
            for piece in self.runtime.whole_log(name):
                time.sleep(0.02)
                yield piece

        def logs(self, name: str, *, tail: int = 200) -> str:
            return self.runtime.logs(name, tail=tail)

    monkeypatch.setattr(replica_logs, "LIMIT_S", 0.5)
    spec = driver.spec("a", "lines", "3000")
    driver.runtime.start(spec)
    eventually(lambda: "line 2999" in driver.runtime.logs(spec.name), "it has printed", 20)
    began = time.monotonic()
    replica_logs.keep(Slow(driver.runtime), spec.name)  # type: ignore[arg-type]
    assert time.monotonic() - began < 3
    path = replica_logs.kept_file(spec.name)
    assert path is not None
    assert path.read_text().splitlines() == [f"line {number}" for number in range(1000, 3000)]
