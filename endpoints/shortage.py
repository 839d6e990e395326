"""Why there is no room for a replica, in words: the params of "no_capacity" (endpoints.placement.reasons) as sentences.

Pure but for the reader's language.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from django.utils.translation import gettext as _
from django.utils.translation import ngettext

Params = Mapping[str, Any]


def message(params: Params) -> str:
    """What is needed, what is there, who holds it. "" for params that say nothing."""
    tell = _MESSAGES.get(str(params.get("kind")))
    return tell(params) if tell else ""


def action(params: Params) -> str:
    """What to do about it. "" for params that say nothing."""
    kind = params.get("kind")
    if kind == "no_node":
        return _(
            "An admin adds a machine, or lets one take replicas, under Machines and GPUs. It starts by itself then."
        )
    if kind == "too_big":
        return _("Choose a smaller instance type. It starts by itself if a big enough machine is added.")
    if kind in ("gpus", "machine", "some"):
        return _(
            "It starts by itself when there is room. To have room sooner, pause or shrink an endpoint, or choose a"
            " smaller instance type."
        )
    return _("Nothing to do: it starts by itself.") if kind in _MESSAGES else ""


def in_brief(params: Params) -> str:
    """The same in a few words, for a list of instance types."""
    kind, region = params.get("kind"), params.get("region", "")
    if kind == "no_node":
        return _("no machine in %(region)s takes replicas") % {"region": region}
    if kind == "too_big":
        return _too_big_brief(params)
    if kind == "gpus":
        return _("no room now: %(free)s of %(of)s GPUs are free in %(region)s") % dict(params)
    if kind == "machine":
        return _("no room now: %(free)s free") % {"free": _free(params)}
    return _("no room now")


# -- each kind ------------------------------------------------------------------------------------------------------


def _no_node(params: Params) -> str:
    return _("No machine in %(region)s takes replicas.") % {"region": params.get("region", "")}


def _too_big(params: Params) -> str:
    words = {"needs": needs(params), "region": params.get("region", ""), **_most(params)}
    what = params.get("what")
    if what == "gpus" and not params.get("most"):
        return _("It needs %(needs)s; no machine in %(region)s has a GPU of this model.") % words
    if what == "gpus":
        return _("It needs %(needs)s; no machine in %(region)s has more than %(most)s of these GPUs.") % words
    if what in ("cpus", "memory"):
        return _("It needs %(needs)s; the largest machine in %(region)s has %(most)s.") % words
    return _("It needs %(needs)s; no machine in %(region)s has all of that together.") % words


def _too_big_brief(params: Params) -> str:
    words = {"needs": needs(params), "region": params.get("region", ""), **_most(params)}
    what = params.get("what")
    if what == "gpus" and not params.get("most"):
        return _("no machine in %(region)s has this GPU") % words
    if what == "gpus":
        return _("no machine in %(region)s has more than %(most)s of these GPUs") % words
    if what in ("cpus", "memory"):
        return _("the largest machine in %(region)s has %(most)s") % words
    return _("no machine in %(region)s has all of that together") % words


def _gpus(params: Params) -> str:
    words = {**params, "needs": needs(_only_gpus(params))}
    if params.get("scattered"):
        text = _(
            "It needs %(needs)s on one machine in %(region)s; %(free)s of %(of)s are free, but not together"
        )
    else:
        text = _("It needs %(needs)s in %(region)s; %(free)s free of %(of)s")
    outside = int(params.get("outside") or 0)
    told = _ended(text % words, holders(params))
    if outside:
        told += " " + ngettext(
            "%(n)s of these GPUs is in use from outside the platform.",
            "%(n)s of these GPUs are in use from outside the platform.",
            outside,
        ) % {"n": outside}
    return told


def _machine(params: Params) -> str:
    words = {"needs": needs(params), "free": _free(params), "region": params.get("region", "")}
    if int(params.get("machines") or 1) > 1:
        text = _("It needs %(needs)s on one machine in %(region)s; none has more free than %(free)s.")
    else:
        text = _("It needs %(needs)s in %(region)s; free now: %(free)s.")
    rest = holders(params)
    return f"{text % words} {rest}." if rest else text % words


def _turn(params: Params) -> str:
    before = int(params.get("before") or 1)
    return ngettext(
        "Room in %(region)s goes to %(n)s replica first that has waited longer.",
        "Room in %(region)s goes to %(n)s replicas first that have waited longer.",
        before,
    ) % {"n": before, "region": params.get("region", "")}


def _some(params: Params) -> str:
    words = {**params, "needs": needs(params)}
    return (
        _("There is room for %(fit)s of %(count)s replicas in %(region)s now; each needs %(needs)s.") % words
    )


def _ended_replica(params: Params) -> str:
    return _("It is not waiting any more.")


_MESSAGES = {
    "no_node": _no_node,
    "too_big": _too_big,
    "gpus": _gpus,
    "machine": _machine,
    "turn": _turn,
    "some": _some,
    "ended": _ended_replica,
}


# -- parts ----------------------------------------------------------------------------------------------------------


def needs(params: Params) -> str:
    """ "4 CPUs, 16 GiB RAM and 2 × rtx2080ti"."""
    wanted: Params = params.get("needs") or {}
    parts = []
    if wanted.get("cpus"):
        parts.append(cpus(float(wanted["cpus"])))
    if wanted.get("memory_gib"):
        parts.append(_("%(n)s GiB RAM") % {"n": _number(wanted["memory_gib"])})
    if wanted.get("gpus"):
        parts.append(f"{wanted['gpus']} × {wanted.get('gpu') or 'GPU'}")
    return together(parts)


def cpus(count: float) -> str:
    """ "1 CPU", "2.5 CPUs"."""
    return ngettext("%(n)s CPU", "%(n)s CPUs", 1 if count == 1 else 2) % {"n": _number(count)}


def holders(params: Params) -> str:
    """ "embed-01/r2 and 2 others hold the rest"; "" if nobody does."""
    names, others = [str(name) for name in params.get("holders") or ()], int(params.get("others") or 0)
    words = {"names": ", ".join(names), "n": others}
    if names and others:
        text = ngettext(
            "%(names)s and %(n)s other hold the rest", "%(names)s and %(n)s others hold the rest", others
        )
        return text % words
    if names:
        text = ngettext("%(names)s holds the rest", "%(names)s hold the rest", len(names))
        return text % {"names": together(names)}
    if others:
        return ngettext("%(n)s replica holds the rest", "%(n)s replicas hold the rest", others) % words
    return ""


def together(parts: Sequence[str]) -> str:
    """ "a, b and c"."""
    if len(parts) < 2:
        return "".join(parts)
    return _("%(first)s and %(last)s") % {"first": ", ".join(parts[:-1]), "last": parts[-1]}


def _only_gpus(params: Params) -> Params:
    wanted = params.get("needs") or {}
    return {"needs": {name: wanted[name] for name in ("gpu", "gpus") if name in wanted}}


def _most(params: Params) -> dict[str, str]:
    most = params.get("most")
    if most is None:
        return {"most": "?"}
    if params.get("what") == "cpus":
        return {"most": cpus(float(most))}
    return {"most": f"{_number(most)} GiB" if params.get("what") == "memory" else _number(most)}


def _free(params: Params) -> str:
    parts = []
    if "free_cpus" in params:
        words = {"free": _number(params["free_cpus"]), "of": _number(params.get("of_cpus", 0))}
        parts.append(_("%(free)s of %(of)s CPUs") % words)
    if "free_gib" in params:
        words = {"free": _number(params["free_gib"]), "of": _number(params.get("of_gib", 0))}
        parts.append(_("%(free)s of %(of)s GiB RAM") % words)
    return together(parts)


def _ended(sentence: str, rest: str) -> str:
    return f"{sentence}: {rest}." if rest else f"{sentence}."


def _number(value: Any) -> str:
    return f"{float(value):g}"
