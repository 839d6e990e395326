"""From zero and back as its users meet it: a whole platform with real llama.cpp, where things also go wrong."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from tests.support_activator import in_threads, joined
from tests.support_days import Day, day
from tests.support_platform import place
from tests.support_processes import eventually
from tests.support_sleep import Hammer, Sleeper, frozen, no_room, prepared, runs

pytestmark = [pytest.mark.redis, pytest.mark.envoy, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def today(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Day]:
    with day(place(tmp_path_factory.mktemp("zero"))) as found:
        yield found


@pytest.fixture(scope="module")
def sleeper(today: Day) -> Sleeper:
    """The tests below follow one another."""
    return prepared(today)


_SHOWN = """
(lambda client: (client.force_login(actor.user), [
    client.get('/inference/{0}/').content.decode(),
    client.get('/inference/{0}/scaling/').content.decode(),
    client.get('/api/v1/endpoints/{0}/').json(),
])[1])(__import__('django.test', fromlist=['Client']).Client(HTTP_HOST='localhost:{1}'))
"""


def test_it_falls_asleep_by_itself_and_nothing_of_it_is_left(today: Day, sleeper: Sleeper) -> None:
    assert sleeper.ask().status_code == 200
    model_server = sleeper.processes()
    assert len(model_server) > 1
    today.hand.do(sleeper.change(in_flight=4))
    silent = ("hold", "silent", 1, 1)
    with frozen("gateway", today):  # nobody tells what Envoy counts: it could be much
        eventually(lambda: sleeper.decisions() == [silent], "the ledger says so", 20)
        today.hand.do(sleeper.change(idle_timeout_s=5))
        time.sleep(6)
        assert sleeper.decisions() == [silent]
    asleep = today.until(sleeper.endpoint, "ASLEEP", "asleep", 30)
    assert "the next request wakes it" in asleep["action"]
    eventually(lambda: not sleeper.live(), "its replica has ended", 30)
    eventually(lambda: not any(map(runs, model_server)), "its processes have ended", 10)
    assert today.hand.do(f"get({sleeper.endpoint!r}).replicas.filter(claimed=True).count()") == 0
    assert sleeper.decisions() == [silent, ("idle", "", 1, 0)]
    page, decisions, api = today.hand.do(_SHOWN.format(sleeper.endpoint, today.where.port))
    assert asleep["words"] in page
    assert "1 → 0" in decisions
    assert (api["status"], api["status_reason"]["code"]) == ("ASLEEP", "asleep")
    today.hand.do(sleeper.change(idle_timeout_s=3600, in_flight=None))
    began = time.monotonic()
    answer = sleeper.sdk().completions.create(model="m", prompt="word", max_tokens=1)
    print(f"woken and answered after {time.monotonic() - began:.1f} s")
    assert answer.choices[0].finish_reason
    sleeper.statuses.append(200)
    sleeper.one_more(1)


def test_a_slow_wake_holds_them_all_and_starts_one_replica(today: Day, sleeper: Sleeper) -> None:
    before, told = sleeper.asleep(), len(sleeper.decisions())
    messages: Any = [{"role": "user", "content": "Hello"}]

    def by_sdk(_: int) -> list[Any]:
        chat = sleeper.sdk().chat.completions
        return list(chat.create(model="m", messages=messages, stream=True, max_tokens=4))

    with no_room(sleeper):
        threads, plain = in_threads(50, lambda _: sleeper.ask().status_code)
        more, streams = in_threads(2, lambda n: by_sdk(n) if n else sleeper.stream())
        sleeper.held(52)
        time.sleep(6)  # longer than a stream is silent
    joined([*threads, *more], 60)
    assert plain == [200] * 50
    (status, raw), parts = streams
    assert status == 200
    comments = [line for line in raw.split("\n") if line.startswith(":")]
    assert comments[0].startswith(": waking: ")
    assert raw.rstrip().endswith("data: [DONE]")
    assert parts[-1].choices[0].finish_reason
    sleeper.statuses.append(200)
    sleeper.one_more(before)
    assert sleeper.decisions()[told:] == [("woken", "", 0, 1)]
    most = (
        f"max(s.in_flight_max for s in store.window({sleeper.endpoint!r}, time.time() - 60, time.time(), 5))"
    )
    assert today.hand.do(most) == 52


def test_a_wake_that_fails_tells_its_cause_and_what_is_mended_serves(today: Day, sleeper: Sleeper) -> None:
    before = sleeper.asleep()
    weights = today.where.home / "weights" / "tiny" / "tiny.gguf"
    away = weights.with_name("away")
    weights.rename(away)
    with no_room(sleeper):
        threads, answers = in_threads(2, lambda n: sleeper.stream() if n else sleeper.ask())
        sleeper.held(2)
        time.sleep(5.5)
    joined(threads)
    failed = today.until(sleeper.endpoint, "FAILED")
    plain, (status, raw) = answers
    error = plain.json()["error"]
    assert plain.status_code == 503
    assert (error["code"], error["status"]) == (failed["reason"], "FAILED")
    assert failed["words"] in error["message"]
    assert status == 200
    assert [json.loads(line[6:]) for line in raw.split("\n") if line.startswith("data: ")] == [
        {"error": error}
    ]
    page, _, api = today.hand.do(_SHOWN.format(sleeper.endpoint, today.where.port))
    assert failed["words"] in page
    assert api["status_reason"]["code"] == failed["reason"]

    def refused() -> bool:
        began = time.monotonic()
        answer = sleeper.ask(5)
        return answer.status_code == 503 and time.monotonic() - began < 1

    eventually(refused, "it is refused at once")
    assert len(sleeper.replicas()) <= before + 2
    away.rename(weights)
    today.hand.do(f"services.retry_endpoint(actor=actor, endpoint=get({sleeper.endpoint!r}))")
    eventually(lambda: sleeper.ask().status_code == 200, "it serves again", 30)
    today.until(sleeper.endpoint, "ACTIVE")


def test_whoever_comes_while_it_falls_asleep_or_wakes_is_answered(today: Day, sleeper: Sleeper) -> None:
    hammer = Hammer(sleeper)
    with hammer.going():
        for pause in (0.3, 0.0, 1.5, 0.1):
            time.sleep(pause)
            before = len(sleeper.replicas())
            sleeper.scale(0)
            eventually(lambda: len(sleeper.replicas()) > before, "it is woken", 15)  # noqa: B023
            today.until(sleeper.endpoint, "ACTIVE", timeout_s=15)
    print(f"{hammer.answered} answered, the slowest after {hammer.slowest_s:.1f} s")
    assert hammer.failures == []


def test_a_pause_tells_those_who_wait(today: Day, sleeper: Sleeper) -> None:
    sleeper.asleep()
    with no_room(sleeper):
        threads, answers = in_threads(3, lambda _: sleeper.ask(20))
        sleeper.held(3)
        began = time.monotonic()
        today.hand.do(f"services.pause_endpoint(actor=actor, endpoint=get({sleeper.endpoint!r}))")
        joined(threads, 10)
        assert time.monotonic() - began < 10
    for answer in answers:
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["status"]) == (503, "paused", "INACTIVE")
    today.until(sleeper.endpoint, "INACTIVE", "paused")
    assert sleeper.ask(5).status_code == 503
    today.hand.do(f"services.resume_endpoint(actor=actor, endpoint=get({sleeper.endpoint!r}))")
    today.until(sleeper.endpoint, "ACTIVE")


def test_every_answer_that_its_callers_got_is_in_the_metrics(today: Day, sleeper: Sleeper) -> None:
    ended = Counter(f"{status // 100}xx" for status in sleeper.statuses)
    code = f"[s.answered for s in store.window({sleeper.endpoint!r}, time.time() - 900, time.time(), 5)]"
    counts: list[Counter[str]] = []

    def counted() -> bool:
        total: Counter[str] = Counter()
        for answered in today.hand.do(code):
            total.update(answered)
        counts.append(total)
        return total == ended

    try:
        eventually(counted, "all of them are counted", 20)
    except AssertionError as error:
        raise AssertionError(f"{error}: {ended} came, and {counts[-1]} were counted") from None
    figures = today.hand.do(_FIGURES.format(sleeper.endpoint, today.where.port))["series"]
    # Not the CPU: a rate takes two readings, and these replicas are often gone before the second one.
    for name in ("requests_per_s", "errors_5xx_per_s", "first_byte_p95_ms", "ready", "memory"):
        assert any(figures[name]), name
    assert all(value >= 0 for values in figures.values() for value in values if value is not None)


_FIGURES = """
(lambda client: (client.force_login(actor.user), client.get(
    '/api/v1/endpoints/{0}/metrics/?range=1h').json())[1])(
    __import__('django.test', fromlist=['Client']).Client(HTTP_HOST='localhost:{1}')
)
"""


def test_the_platforms_processes_end_while_requests_wait(today: Day, sleeper: Sleeper) -> None:
    def back(name: str, old: int) -> bool:
        found = today.running.children().get(name)
        return found is not None and found.pid != old

    before = sleeper.asleep()
    with no_room(sleeper):
        threads, answers = in_threads(
            10, lambda n: sleeper.stream(120)[0] if n % 2 else sleeper.ask(120).status_code
        )
        sleeper.held(10)
        for name in ("activator", "watcher", "web", "redis", "worker"):
            process = today.running.children()[name]
            process.kill()
            eventually(partial(back, name, process.pid), f"{name} is back", 30)
    joined(threads, 90)
    assert answers == [200] * 10
    sleeper.one_more(before)
