"""The shapes of what was used. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import StrEnum
from operator import attrgetter

from endpoints.autoscaling.simulate import HOURS_A_MONTH

LONGEST_DAYS = 400


class By(StrEnum):
    """What a row is about."""

    ENDPOINT = "endpoint"
    ACCOUNT = "account"  # service account or API key
    MODEL = "model"
    DAY = "day"
    HOUR = "hour"  # of the last two days: older ones are kept by day


@dataclass(frozen=True, slots=True)
class Span:
    """Days of UTC, the first and the last included."""

    first: date
    last: date

    @property
    def start(self) -> datetime:
        """Its beginning."""
        return datetime.combine(self.first, time(), UTC)

    @property
    def end(self) -> datetime:
        """The moment after it."""
        return datetime.combine(self.last, time(), UTC) + timedelta(days=1)

    @property
    def days(self) -> list[date]:
        """All of them, in order."""
        return [self.first + timedelta(days=number) for number in range((self.last - self.first).days + 1)]


@dataclass(frozen=True, slots=True)
class Only:
    """What shall be counted alone; None: everything. account "": what was called without a token."""

    endpoint: str | None = None
    account: str | None = None
    model: str | None = None


@dataclass(slots=True)
class Figures:
    """What was used, added up.

    estimated, unread   requests whose tokens are an estimate, or were not counted because the answer was too large
    duration_ms         sum over the requests; first_byte_ms: over `first_bytes` of them
    seconds             of replicas; None where they can't be said to be anybody's
    costs               currency → what these seconds cost
    """

    requests: int = 0
    errors_4xx: int = 0
    errors_5xx: int = 0
    aborted: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    estimated: int = 0
    unread: int = 0
    duration_ms: int = 0
    first_byte_ms: int = 0
    first_bytes: int = 0
    seconds: int | None = 0
    costs: dict[str, Decimal] = field(default_factory=dict)

    @property
    def errors(self) -> int:
        """Answers from 400 on. Who goes away before there is one makes no error."""
        return self.errors_4xx + self.errors_5xx

    @property
    def tokens(self) -> int:
        """Of prompts and completions."""
        return self.prompt_tokens + self.completion_tokens

    @property
    def latency_ms(self) -> float | None:
        """Mean time to the end of the answer."""
        return self.duration_ms / self.requests if self.requests else None

    @property
    def mean_first_byte_ms(self) -> float | None:
        """Mean time to its first byte, over the requests that had one."""
        return self.first_byte_ms / self.first_bytes if self.first_bytes else None

    @property
    def replica_hours(self) -> float | None:
        """Hours of all replicas together."""
        return None if self.seconds is None else self.seconds / 3600

    def add(self, more: Mapping[str, int]) -> None:
        """Add counts by their names."""
        for name in COUNTED:
            setattr(self, name, getattr(self, name) + more[name])

    def count(self, more: Sequence[int]) -> None:
        """Add counts, in the order of COUNTED."""
        requests, errors_4xx, errors_5xx, aborted, prompt, completion, estimated, unread, *times = more
        self.requests += requests
        self.errors_4xx += errors_4xx
        self.errors_5xx += errors_5xx
        self.aborted += aborted
        self.prompt_tokens += prompt
        self.completion_tokens += completion
        self.estimated += estimated
        self.unread += unread
        self.duration_ms += times[0]
        self.first_byte_ms += times[1]
        self.first_bytes += times[2]

    def ran(self, seconds: int, price_month: Decimal, currency: str) -> None:
        """Add replicas' time at that price."""
        self.seconds = (self.seconds or 0) + seconds
        if price_month:
            cost = price_month * seconds / (HOURS_A_MONTH * 3600)
            self.costs[currency] = self.costs.get(currency, Decimal(0)) + cost


# Fields of Figures that are sums of what Usage holds.
COUNTED = (
    *("requests", "errors_4xx", "errors_5xx", "aborted", "prompt_tokens", "completion_tokens"),
    *("estimated", "unread", "duration_ms", "first_byte_ms", "first_bytes"),
)
_counted: Callable[[Figures], tuple[int, ...]] = attrgetter(*COUNTED)


@dataclass(frozen=True, slots=True)
class Row:
    """key: the id, or the day as 2026-11-22. name: today's, else the last that was known. gone: it is no more."""

    key: str
    name: str
    figures: Figures
    gone: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """The answer to one question."""

    span: Span
    by: By
    rows: tuple[Row, ...]
    total: Figures


def total_of(rows: Iterable[Row], without_time: bool = False) -> Figures:
    """All rows together."""
    figures = [row.figures for row in rows]
    total = Figures(seconds=None if without_time else sum(one.seconds or 0 for one in figures))
    for counts in map(_counted, figures):
        total.count(counts)
    for one in figures:
        for currency, cost in one.costs.items():
            total.costs[currency] = total.costs.get(currency, Decimal(0)) + cost
    return total
