"""An endpoint that sleeps, on a whole platform: what a caller does to it, and what is left of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import httpx
import openai
import psutil

from tests.support_days import Day
from tests.support_processes import eventually


@dataclass
class Sleeper:
    """One endpoint with min 0, and a token for it. statuses: of all answers that its callers got."""

    day: Day
    endpoint: str
    token: str
    statuses: list[int] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"http://localhost:{self.day.where.gateway_port}/v1/{self.endpoint}"

    @property
    def headers(self) -> dict[str, str]:
        """Of its callers."""
        return {"Authorization": f"Bearer {self.token}"}

    def sdk(self) -> openai.OpenAI:
        """A client that tries once."""
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=self.token, max_retries=0, timeout=120)

    def ask(self, timeout_s: float = 90) -> httpx.Response:
        """One plain completion."""
        return self._post("completions", {"model": "m", "prompt": "word", "max_tokens": 1}, timeout_s)

    def stream(self, timeout_s: float = 90) -> tuple[int, str]:
        """A streamed chat as it comes: status and the whole body."""
        messages = [{"role": "user", "content": "Hello"}]
        body = {"model": "m", "messages": messages, "stream": True, "max_tokens": 4}
        answer = self._post("chat/completions", body, timeout_s)
        return answer.status_code, answer.text

    def _post(self, path: str, body: dict[str, Any], timeout_s: float) -> httpx.Response:
        answer = httpx.post(
            f"{self.url}/v1/{path}", json=body, headers=self.headers, timeout=timeout_s, trust_env=False
        )
        self.statuses.append(answer.status_code)
        return answer

    def change(self, **changes: Any) -> str:
        """Code for the hand: a person's change of its settings."""
        return f"services.update_endpoint(actor=actor, endpoint=get({self.endpoint!r}), changes={changes!r})"

    def scale(self, count: int) -> None:
        """The autoscaler's word."""
        self.day.hand.do(f"services.scale(get({self.endpoint!r}), {count})")

    def asleep(self) -> int:
        """Put it to sleep; answers how many replicas it ever had. The last one may still drain, but nobody is sent to
        it any more."""
        self.scale(0)
        self.day.until(self.endpoint, "ASLEEP")
        applied = f"gateway_feed.route_state(get({self.endpoint!r}))[1]"
        eventually(lambda: self.day.hand.do(applied), "the gateway holds its requests", 10)
        return len(self.replicas())

    def one_more(self, before: int) -> None:
        """ACTIVE again, with one replica more than it had had, woken once for it."""
        self.day.until(self.endpoint, "ACTIVE")
        states = [state for state, *_ in self.replicas()]
        assert len(states) == before + 1
        assert states[-1] == "ready"
        assert set(states[:-1]) <= {"draining", "stopped", "failed"}

    def replicas(self) -> list[tuple[str, str, str]]:
        """State, name and process of every replica it ever had, in order."""
        row = self.day.row(self.endpoint)
        assert row is not None
        return [(state, name, runtime_id) for state, name, runtime_id in row["replicas"]]

    def live(self) -> list[str]:
        """The names of those that have not ended."""
        return [name for state, name, _ in self.replicas() if state not in ("stopped", "failed")]

    def held(self, count: int) -> None:
        """So many requests wait for it."""
        code = f"activation.waiting().get({self.endpoint!r}, 0)"
        eventually(lambda: self.day.hand.do(code) == count, f"{count} requests wait", 20)

    def decisions(self) -> list[tuple[str, str, int, int]]:
        """rule, blocker, before and after, in order."""
        rows = f"get({self.endpoint!r}).decisions.order_by('at', 'id')"
        code = f"[(d.rule, d.blocker, d.before, d.after) for d in {rows}]"
        return [tuple(one) for one in self.day.hand.do(code)]

    def processes(self) -> list[psutil.Process]:
        """All that runs for its replicas: each one's reaper and what that started."""
        names = [name for _, name, _ in self.replicas()]
        found: list[psutil.Process] = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                command = " ".join(process.cmdline())
                if any(name in command for name in names):
                    found += [process, *process.children(recursive=True)]
        return found


@dataclass
class Hammer:
    """Callers that begin one after the other, whatever became of those before."""

    sleeper: Sleeper
    every_s: float = 0.05
    failures: list[tuple[float, int, str]] = field(default_factory=list)
    slowest_s: float = 0.0
    answered: int = 0
    _threads: list[threading.Thread] = field(default_factory=list)

    def _one(self, client: httpx.Client, began: float, number: int) -> None:
        try:
            if number % 4:
                answer = client.get(f"{self.sleeper.url}/v1/models", headers=self.sleeper.headers)
            else:
                body = {"model": "m", "prompt": "a", "max_tokens": 1}
                answer = client.post(
                    f"{self.sleeper.url}/v1/completions", json=body, headers=self.sleeper.headers
                )
            status, text = answer.status_code, answer.text
        except httpx.HTTPError as error:
            status, text = 0, repr(error)
        self.slowest_s = max(self.slowest_s, time.monotonic() - began)
        self.sleeper.statuses.append(status)
        if status == 200:
            self.answered += 1
        else:
            self.failures.append((time.time(), status, text[:300]))

    @contextmanager
    def going(self) -> Iterator[Hammer]:
        """While the block runs; afterwards every request has its answer."""
        stop = threading.Event()
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
        with httpx.Client(timeout=60, trust_env=False, limits=limits) as client:

            def run() -> None:
                number = 0
                while not stop.wait(self.every_s):
                    number += 1
                    one = threading.Thread(
                        target=self._one, args=(client, time.monotonic(), number), daemon=True
                    )
                    one.start()
                    self._threads.append(one)

            driver = threading.Thread(target=run, daemon=True)
            driver.start()
            try:
                yield self
            finally:
                stop.set()
                driver.join(10)
                for one in self._threads:
                    one.join(70)


def runs(process: psutil.Process) -> bool:
    """Whether it has not ended; what nobody has buried yet has."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


@contextmanager
def frozen(name: str, day: Day) -> Iterator[None]:
    """One of the platform's processes stands still while the block runs; what it started goes on."""
    process = day.running.children()[name]
    process.suspend()
    try:
        yield
    finally:
        process.resume()


@contextmanager
def no_room(sleeper: Sleeper) -> Iterator[None]:
    """No machine takes a new replica while the block runs: nothing wakes."""
    hand = sleeper.day.hand
    hand.do("Node.objects.update(schedulable=False)")
    try:
        yield
    finally:
        hand.do("Node.objects.update(schedulable=True)")
        hand.do(f"reconcile_in({sleeper.endpoint!r}, 0)")


def prepared(day: Day, name: str = "sleeper", **changes: Any) -> Sleeper:
    """One that is ACTIVE, sleeps after an hour without anything else being said, and has a token."""
    values = {"min_replicas": 0, "max_replicas": 2, "idle_timeout_s": 3600, **changes}
    day.hand.do("from endpoints import activation, gateway_feed")
    day.hand.do("from endpoints.metrics import store; from endpoints.models import Node")
    day.hand.do("from endpoints.queue import reconcile_in")
    endpoint = day.create(name, **values)
    day.until(endpoint, "ACTIVE")
    return Sleeper(day, endpoint, day.token())
