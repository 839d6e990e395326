"""Tokens a minute and a month, of callers and endpoints: counted by the agent, refused by Envoy.

Every gateway counts what its own access log says, and hears from the control plane what the others have counted. The
counts are kept on disk together with the position in the log up to which they go, in one file that is replaced as a
whole: whoever is killed, each line counts once. Who has reached a limit is refused until its window ends, also while
the control plane is away.

The control plane knows as well what this gateway itself has counted and shipped. Of the two the greater one holds:

- Neither is ever more than was used. Ours is the sum of lines that are read, each once. The control plane's is the sum
  of lines that were shipped, each once, and it is heard only when ours has been counted up to where that goes (`hear`).
- What is counted from then on is added to the greater one, once: it lies behind both.
- In normal life ours is it: all that was shipped is counted here, and some more. A home that was lost, a file that was
  damaged, a month that was forgotten while the clock was ahead make ours too small. What the control plane has may lack
  the lines of the last moments, but no more as soon as these were shipped: then it is all that was ever used.

A window is a minute or a calendar month, UTC; a request belongs to the one in which it ended.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from gateway import files, names
from gateway.access_logs import START, Position
from gateway.control import Heard
from gateway.denial_file import DenialFile
from gateway.denials import Denial
from gateway.request_line import NOBODY, Used

Json = dict[str, Any]
Counts = dict[str, dict[str, int]]  # window → subject → tokens

FILE = "budgets.json"
_KEPT_MINUTES = 3  # what a restart may still be told of

log = logging.getLogger("gateway")


def minute_of(at: float) -> str:
    """ "2026-11-22T10:15", of a time in seconds since 1970."""
    return time.strftime("%Y-%m-%dT%H:%M", time.gmtime(at))


class Budgets:
    """Those of one gateway. Used by one thread, but for `limit`.

    home   where the counts are kept
    xds    where Envoy reads its denials
    clock  seconds since 1970
    """

    def __init__(self, home: Path, xds: Path, clock: Callable[[], float] = time.time) -> None:
        self.denials = DenialFile(xds / names.DENIALS)
        self._file = home / FILE
        self._clock = clock
        self._position = START
        self._counts: Counts = {}
        self._elsewhere: Counts = {}
        self._early: Heard | None = None  # told of lines that are not counted here yet
        self._is_kept = True
        self._read()
        self._limits: tuple[Json, ...] | None = None  # not told yet
        self._judged: tuple[Any, str] | None = None  # by which limits, and in which minute
        self._changed: set[str] = set()  # subjects that were not judged since
        self._known: dict[str, Json] = {}  # limits by subject
        self._denials: dict[str, tuple[Denial, ...]] = {}  # by subject
        self._names: dict[int, str] = {}  # of minutes, by their number

    # --- counting -----------------------------------------------------------------------------------------

    @property
    def position(self) -> Position:
        """What of the log is counted, as of the last `save`."""
        return self._position

    @property
    def is_kept(self) -> bool:
        """Whether all that was heard is on disk."""
        return self._is_kept

    def count(self, requests: Iterable[Used]) -> None:
        """Add what they used."""
        for request in requests:
            tokens = request.prompt_tokens + request.completion_tokens
            if not tokens:
                continue
            minute = self._minute(request.at)
            for window in (minute, minute[:7]):
                counts = self._counts.setdefault(window, {})
                counts[request.endpoint] = counts.get(request.endpoint, 0) + tokens
                if request.subject != NOBODY:
                    counts[request.subject] = counts.get(request.subject, 0) + tokens
            self._changed.update((request.endpoint, request.subject))

    def save(self, position: Position) -> None:
        """Keep what is counted together with the position up to which it is. Raises OSError."""
        self._take_own(position)
        self._forget()
        kept = {
            "file": position.file,
            "offset": position.offset,
            "counts": self._counts,
            "elsewhere": self._elsewhere,
        }
        files.write_json(self._file, kept)
        self._position = position
        self._is_kept = True

    def hear(self, heard: Heard) -> None:
        """What is counted by now, here and elsewhere. It is on disk after the next `save`.

        Shipping may be ahead of counting. What it heard of us then waits for the `save` with which counting has caught
        up: taken before, the lines between the two would count twice.
        """
        for subject, windows in heard.elsewhere.items():
            for window, tokens in windows.items():
                self._note(self._elsewhere, window, subject, tokens)
        self._early = heard
        self._take_own(self._position)

    def _take_own(self, counted: Position) -> None:
        heard = self._early
        if heard is None or not counted.covers(heard.up_to):
            return
        self._early = None
        for subject, windows in heard.own.items():
            for window, tokens in windows.items():
                known = self._counts.get(window, {}).get(subject, 0)
                self._note(self._counts, window, subject, max(known, tokens))

    def _note(self, counts: Counts, window: str, subject: str, tokens: int) -> None:
        subjects = counts.setdefault(window, {})
        if subjects.get(subject, 0) != tokens:
            subjects[subject] = tokens
            self._changed.add(subject)
            self._is_kept = False

    # --- refusing -----------------------------------------------------------------------------------------

    def limit(self, limits: Iterable[Json]) -> None:
        """From now on these (see denials.limits); called from another thread."""
        self._limits = tuple(limits)

    def denied(self, now: float) -> frozenset[tuple[str, str]]:
        """Who has used up what: (subject, names.MINUTE or names.MONTH)."""
        return frozenset((item.subject, item.window) for item in self._denied(now))

    def tick(self) -> None:
        """Have Envoy refuse who has reached a limit, and nobody else. Raises OSError; then the next one tries again."""
        limits, minute = self._limits, minute_of(self._clock())
        if limits is None:
            return
        if self._judged != (limits, minute):
            self._known = {entry["subject"]: entry for entry in limits}
            self._denials = {}
            changed = set(self._known)
        elif not self._changed:
            return
        else:  # of thousands of callers those that have called
            changed = self._known.keys() & self._changed
        self._denials |= {subject: self._judge(self._known[subject], minute) for subject in changed}
        self.denials.write(chain.from_iterable(self._denials.values()))
        self._judged = limits, minute
        self._changed.clear()

    def prepare(self) -> None:
        """For an Envoy that is about to start: it does not without the file. Raises OSError."""
        if self._limits is not None:
            self.denials.write(self._denied(self._clock()))
        self.denials.prepare()

    def _denied(self, now: float) -> Iterator[Denial]:
        minute = minute_of(now)
        return chain.from_iterable(self._judge(entry, minute) for entry in self._limits or ())

    def _judge(self, entry: Json, minute: str) -> tuple[Denial, ...]:
        subject, kind = entry["subject"], entry["kind"]
        return tuple(
            Denial(subject, kind, name, entry[name])
            for name, window in ((names.MINUTE, minute), (names.MONTH, minute[:7]))
            if entry[name] and self._used(subject, window) >= entry[name]
        )

    def _used(self, subject: str, window: str) -> int:
        return sum(counts.get(window, {}).get(subject, 0) for counts in (self._counts, self._elsewhere))

    # --- details ------------------------------------------------------------------------------------------

    def _minute(self, at: float) -> str:
        number = int(at // 60)
        name = self._names.get(number)
        if name is None:
            self._names = {number: minute_of(at)} if len(self._names) > 100 else self._names
            name = self._names.setdefault(number, minute_of(at))
        return name

    def _forget(self) -> None:
        """Windows that no limit asks for any more. A month is kept for as long as the next one lasts: clocks differ."""
        now = self._clock()
        oldest_minute = minute_of(now - 60 * _KEPT_MINUTES)
        oldest_month = minute_of(now - 27 * 86400)[:7]
        for counts in (self._counts, self._elsewhere):
            for window in [w for w in counts if w < (oldest_minute if len(w) > 7 else oldest_month)]:
                del counts[window]

    def _read(self) -> None:
        kept = files.read_json(self._file)
        if kept is None and not self._file.exists():
            return
        try:
            self._position = Position(str(kept["file"]), int(kept["offset"]))
            self._counts = _counts(kept["counts"])
            self._elsewhere = _counts(kept["elsewhere"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            log.error("%s cannot be read, counting anew from the log that is there: %s", self._file, error)
            self._position, self._counts, self._elsewhere = START, {}, {}


def _counts(kept: Mapping[str, Mapping[str, int]]) -> Counts:
    return {
        str(window): {str(subject): int(tokens) for subject, tokens in counts.items()}
        for window, counts in kept.items()
    }
