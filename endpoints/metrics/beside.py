"""A question that may hang, asked in a thread of its own, so that what waits for the answer can go on without it."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from runtimes.errors import RuntimeFailure

log = logging.getLogger(__name__)
Answer = TypeVar("Answer")

OLD_S = 15.0  # an answer to a question of so long ago is not about now


class Beside(Generic[Answer]):
    """One question at a time. what: for the log, "the replicas' CPU and memory"."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._answers: queue.SimpleQueue[Answer | Exception] = queue.SimpleQueue()
        self._calls: queue.SimpleQueue[Callable[[], Answer] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._open = False
        self._asked_at = 0.0
        self._failing = False

    def ask(self, call: Callable[[], Answer]) -> None:
        """Begin; nothing while the question before is still unanswered, or its answer not fetched."""
        if self._open and (self._answers.empty() or time.monotonic() - self._asked_at < OLD_S):
            return
        if self._open:
            self._answers.get()
        self._open, self._asked_at = True, time.monotonic()
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name=self._what, daemon=True)
            self._thread.start()
        self._calls.put(call)

    def answer(self, within_s: float) -> Answer | None:
        """The answer, to an earlier question where that took longer; None if there is none in time, or if the call
        failed. Says so in the log, once until it is well again."""
        try:
            found = self._answers.get(timeout=max(0.0, within_s))
        except queue.Empty:
            self._tell(f"no answer within {within_s:.1f} s")
            return None
        self._open = False
        if isinstance(found, RuntimeFailure):
            self._tell(found.evidence or found.code)
            return None
        if isinstance(found, Exception):
            raise found
        self._tell("")
        return found

    def close(self) -> None:
        """End the thread once it is free."""
        self._calls.put(None)

    def _serve(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                self._answers.put(call())
            except Exception as error:  # raised again by whoever fetches the answer
                self._answers.put(error)

    def _tell(self, problem: str) -> None:
        if problem and not self._failing:
            log.warning("%s are not known: %s", self._what, problem)
        elif self._failing and not problem:
            log.info("%s are known again", self._what)
        self._failing = bool(problem)
