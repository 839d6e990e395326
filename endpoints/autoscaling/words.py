"""A decision in one line, in the reader's language.

Decisions are kept for 90 days: parameters that a row does not have must not break its page, so that what cannot be said
in full is said in short.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from django.utils import timezone
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from endpoints.autoscaling.terms import Blocker, Metric, Rule
from endpoints.numbers import decimal

_TITLES: dict[str, Promise | str] = {
    Metric.CPU: "CPU",
    Metric.MEMORY: "RAM",
    Metric.GPU: "GPU",
    Metric.LATENCY: gettext_lazy("latency p95"),
    Metric.IN_FLIGHT: gettext_lazy("requests in flight per replica"),
}


def title(metric: str) -> str:
    """A metric's name inside a sentence."""
    return str(_TITLES.get(metric, metric))


def quantity(metric: str, value: float) -> str:
    """A metric's value as people write it: "830 ms", "1.2 s", "83 %", "12.5"."""
    if metric == Metric.LATENCY:
        return _number(value, 0) + " ms" if round(value) < 1000 else _number(value / 1000, 1) + " s"
    if metric == Metric.IN_FLIGHT:
        return _number(value, 1)
    return _number(value, 0 if value >= 10 else 1) + " %"


def span(seconds: float) -> str:
    """A length of time in its two largest units: "15 s", "2 min 30 s", "1 h 5 min", "3 d"."""
    whole = max(0, round(seconds))
    if whole >= 600:  # seconds say nothing there
        whole = round(whole / 60) * 60
    parts = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))
    largest = next((index for index, (size, _unit) in enumerate(parts) if whole >= size), 3)
    found = []
    for size, unit in parts[largest : largest + 2]:
        count, whole = divmod(whole, size)
        if count:
            found.append(f"{count} {unit}")
    return " ".join(found) or "0 s"


def sentence(rule: str, blocker: str | None, before: int, after: int, params: Mapping[str, Any]) -> str:
    """What was decided and why, in one line.

    rule, blocker   as the ledger has them: `Rule` and `Blocker`, "" or None for no blocker
    before, after   wanted replicas
    params          the verdict's; "reason": why there is no room, a sentence
    """
    telling = {
        Rule.ABOVE: _above,
        Rule.BELOW: _below,
        Rule.IDLE: _idle,
        Rule.WOKEN: _woken,
        Rule.LIMITS: _limits,
        Rule.HOLD: _hold,
    }
    tell: _Tell | None = telling.get(rule)  # type: ignore[call-overload]
    if tell is None:
        return _change(before, after)
    try:
        return tell(blocker or "", before, after, params)
    except (KeyError, TypeError, ValueError, OverflowError):
        return _change(before, after)


_Tell = Callable[[str, int, int, Mapping[str, Any]], str]


def _change(before: int, after: int) -> str:
    return f"{before} → {after}" if before != after else _("stays at %(count)s") % {"count": before}


def _above(blocker: str, before: int, after: int, params: Mapping[str, Any]) -> str:
    fact, change = _fact(params, ">"), _change(before, after)
    lasting = _("%(fact)s for %(time)s") % {"fact": fact, "time": span(params["seconds"])}
    if blocker == Blocker.COMING:
        return _("%(fact)s, but a replica that was asked for does not serve yet") % {"fact": fact}
    if blocker == Blocker.STABILISING:
        if params.get("count", before) == before:
            return f"{lasting}: {change}"
        return _("%(fact)s: %(before)s → %(count)s in %(left)s if it stays so") % {
            "fact": lasting,
            "before": before,
            "count": params["count"],
            "left": span(params["left_s"]),
        }
    why = _why_not_more(blocker, after, params)
    if not why:
        return f"{lasting}: {change}"
    if before == after:
        return _("%(fact)s, but %(why)s") % {"fact": lasting, "why": why}
    return _("%(fact)s: %(change)s, but %(why)s") % {"fact": lasting, "change": change, "why": why}


def _why_not_more(blocker: str, after: int, params: Mapping[str, Any]) -> str:
    asked = params.get("count")
    if blocker == Blocker.AT_MAX:
        if asked is None:
            return _("max is %(max)s") % {"max": after}
        return _("max is %(max)s (%(count)s would be needed)") % {"max": after, "count": asked}
    if blocker == Blocker.STEP_LIMIT:
        return _("one step brings no more (%(count)s are needed)") % {"count": asked}
    if blocker == Blocker.NO_CAPACITY:
        return _no_room(params)
    return ""


def _no_room(params: Mapping[str, Any]) -> str:
    if params.get("reason"):
        return _("there is no room for another replica: %(reason)s") % {"reason": params["reason"]}
    return _("there is no room for another replica")


def _below(blocker: str, before: int, after: int, params: Mapping[str, Any]) -> str:
    fact, change = _fact(params, "<"), _change(before, after)
    if blocker == Blocker.COOLING_DOWN:
        return _("%(fact)s: %(before)s → %(count)s, %(left)s left of the cool-down") % {
            "fact": fact,
            "before": before,
            "count": params["count"],
            "left": span(params["left_s"]),
        }
    if blocker == Blocker.LEARNED:
        return _("%(fact)s: %(change)s, but not fewer: %(lesson)s") % {
            "fact": fact,
            "change": change,
            "lesson": _lesson(params),
        }
    return _("%(fact)s for %(time)s: %(change)s") % {
        "fact": fact,
        "time": span(params["seconds"]),
        "change": change,
    }


def _lesson(params: Mapping[str, Any]) -> str:
    since = timezone.localtime(datetime.fromtimestamp(params["since"], UTC))
    count = int(params["count"])
    said = ngettext(
        "%(count)s replica was too few for %(load)s requests/s at %(since)s",
        "%(count)s replicas were too few for %(load)s requests/s at %(since)s",
        count,
    )
    return said % {
        "count": count,
        "load": _number(params["load"], 1),
        "since": f"{since:%Y-%m-%d %H:%M %Z}",
    }


def _idle(blocker: str, before: int, after: int, params: Mapping[str, Any]) -> str:
    return _("no request for %(time)s: %(change)s") % {
        "time": span(params["seconds"]),
        "change": _change(before, after),
    }


def _woken(blocker: str, before: int, after: int, params: Mapping[str, Any]) -> str:
    if blocker == Blocker.NO_CAPACITY:
        return _("a request came, but %(why)s") % {"why": _no_room(params)}
    return _("a request came: %(change)s") % {"change": _change(before, after)}


def _limits(blocker: str, before: int, after: int, params: Mapping[str, Any]) -> str:
    change = _change(before, after)
    if blocker == Blocker.NO_CAPACITY:
        return _("min is %(min)s, but %(why)s") % {"min": params["min"], "why": _no_room(params)}
    if after > before:
        return _("min is %(min)s: %(change)s") % {"min": max(params["min"], 1), "change": change}
    if after == params["max"]:
        return _("max is %(max)s: %(change)s") % {"max": params["max"], "change": change}
    return _("no threshold is set: %(change)s") % {"change": change}


def _hold(blocker: str, before: int, after: int, params: Mapping[str, Any]) -> str:
    if blocker == Blocker.COMING:
        return _("no replica serves yet: %(change)s") % {"change": _change(before, after)}
    if blocker == Blocker.SILENT:
        return _("no figures for %(metric)s: %(change)s") % {
            "metric": title(params["metric"]),
            "change": _change(before, after),
        }
    if blocker == Blocker.IDLING:
        return _("no request for %(time)s: asleep in %(left)s if none comes") % {
            "time": span(params["seconds"]),
            "left": span(params["left_s"]),
        }
    if before == after == 0:
        return _("asleep until a request comes")
    return _("nothing asks for a change: %(change)s") % {"change": _change(before, after)}


def _fact(params: Mapping[str, Any], sign: str) -> str:
    """Such as "latency p95 830 ms > 500 ms"."""
    metric = str(params["metric"])
    value, target = float(params["value"]), float(params["target"])
    return f"{title(metric)} {quantity(metric, value)} {sign} {quantity(metric, target)}"


def _number(value: float, decimals: int) -> str:
    if not math.isfinite(value):
        raise ValueError(f"{value} in a sentence")
    rounded = round(value, decimals)
    return decimal(rounded, 0 if rounded == int(rounded) else decimals)
