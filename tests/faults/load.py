"""A light, constant load through the gateway. Every answer says which endpoint's replica gave it."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any

import httpx


@dataclass(frozen=True, slots=True)
class Answer:
    """One request. identity: "" unless it was answered by a replica; problem: "" if all of it came."""

    at: float
    endpoint: str
    identity: str = ""
    problem: str = ""


class Load:
    """Five requests a second to each endpoint that is told of; every fourth one takes a second and a half."""

    EVERY_S = 0.2

    def __init__(self, gateway: str) -> None:
        self._gateway = gateway
        self.answers: list[Answer] = []
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def add(self, endpoint: str, token: str = "") -> None:
        """Call this endpoint as well, from now on."""
        for slow in (False, True):
            thread = threading.Thread(target=self._run, args=(endpoint, token, slow), daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """No more requests; what is under way is awaited."""
        self._stop.set()
        for thread in self._threads:
            thread.join(15)

    def _run(self, endpoint: str, token: str, slow: bool) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        url = f"{self._gateway}/v1/{endpoint}/{'slow' if slow else 'identity'}"
        with httpx.Client(headers=headers, timeout=10, trust_env=False) as client:
            while not self._stop.wait(self.EVERY_S * (3 if slow else 1)):
                self.answers.append(_ask(client, url, endpoint))


def ask(url: str, token: str = "", timeout_s: float = 5) -> Answer:
    """One request to an endpoint's URL."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with httpx.Client(headers=headers, timeout=timeout_s, trust_env=False) as client:
        return _ask(client, f"{url}/identity", url.rpartition("/")[2])


def _ask(client: httpx.Client, url: str, endpoint: str) -> Answer:
    began = time.monotonic()
    try:
        answer = client.get(url)
        body: dict[str, Any] = answer.json()
    except (httpx.HTTPError, ValueError) as error:
        return Answer(began, endpoint, problem=f"{type(error).__name__}: {error}")
    if answer.status_code != 200 or "identity" not in body:
        return Answer(began, endpoint, problem=f"{answer.status_code} {answer.text[:300]}")
    return Answer(began, endpoint, identity=str(body["identity"]))
