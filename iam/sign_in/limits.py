"""How often somebody may guess a password or a code.

Counted in fixed windows: by the caller's address, and by the name of the account that is guessed at. The second one
alone would let anybody lock another person out for as long as they care to guess, so it does not hold for a browser
in which that person has signed in before (iam.sign_in.devices): that one is counted for itself, and for nothing else.
A passkey is never counted against a name: it can't be guessed.
Source: OWASP, "Slow Down Online Guessing Attacks with Device Cookies".

Without Redis there is no counting, and then no signing in with a password either: RedisError is the caller's.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass

from django.core.cache import cache


@dataclass(frozen=True, slots=True)
class Rule:
    """So many failures in so many seconds."""

    name: str
    failures: int
    window_s: int


BY_ADDRESS = Rule("address", 30, 300)
BY_ACCOUNT = Rule("account", 5, 300)
BY_DEVICE = Rule("device", 10, 300)


class TooMany(Exception):
    """No more guesses for `wait_s` seconds."""

    def __init__(self, wait_s: int) -> None:
        super().__init__(wait_s)
        self.wait_s = wait_s


@dataclass(frozen=True, slots=True)
class Attempt:
    """A guess under way. It counts as failed until it is said to have succeeded."""

    keys: tuple[str, ...]

    def succeeded(self) -> None:
        """Take it back. Earlier failures stay counted: a guesser with an account of their own could else clear theirs
        by signing in to it now and then."""
        for key in self.keys:
            try:
                cache.decr(key)
            except ValueError:  # the window closed meanwhile
                continue


def begin(account: str, address: str, device: str = "", now: float | None = None) -> Attempt:
    """Count a guess at `account` from `address`. Raises TooMany when there were too many already.

    account: the name typed, in lower case, or "mfa:<user id>" for a code. device: the id of a browser that this
    account has signed in with before, "" for any other.
    """
    strangers = [(BY_ADDRESS, address), (BY_ACCOUNT, account)]
    return _count([(BY_DEVICE, f"{device}:{account}")] if device else strangers, now)


def begin_from(address: str, now: float | None = None) -> Attempt:
    """Count a try at something that has no account yet, by the address alone. Raises TooMany."""
    return _count([(BY_ADDRESS, address)], now)


def _count(counted: Sequence[tuple[Rule, str]], now: float | None) -> Attempt:
    moment = time.time() if now is None else now
    keys: list[str] = []
    for rule, whom in counted:
        key = _key(rule, whom, moment)
        keys.append(key)
        if _increase(key, rule.window_s) > rule.failures:
            Attempt(tuple(keys)).succeeded()  # a refused guess was none
            raise TooMany(rule.window_s - int(moment) % rule.window_s)
    return Attempt(tuple(keys))


def _increase(key: str, window_s: int) -> int:
    cache.add(key, 0, timeout=window_s)
    try:
        return int(cache.incr(key))
    except ValueError:  # the window closed between the two calls
        cache.add(key, 1, timeout=window_s)
        return 1


def _key(rule: Rule, whom: str, moment: float) -> str:
    digest = hashlib.sha256(whom.encode()).hexdigest()[:32]
    return f"guesses:{rule.name}:{digest}:{int(moment) // rule.window_s}"
