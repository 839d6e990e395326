"""What the endpoint templates compute: `{% load endpoint_list %}`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from django import template
from django.urls import NoReverseMatch, reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from endpoints import events, limits, presenting, revisions
from endpoints.errors import describe
from endpoints.estimates import about
from endpoints.history import Entry, RevisionState
from endpoints.limits import Limit
from endpoints.models import Endpoint, Event, ReplicaState
from endpoints.selectors import ListQuery

register = template.Library()


@dataclass(frozen=True, slots=True)
class SortLink:
    """A column's link. direction: of the present order by this column, "" for another one."""

    query: str
    direction: str


@register.simple_tag
def sort_link(query: ListQuery, key: str) -> SortLink:
    """By this column; a second click turns it round."""
    if query.sort == key:
        return SortLink(query.url_query(sort=f"-{key}", page=1), "ascending")
    if query.sort == f"-{key}":
        return SortLink(query.url_query(sort=key, page=1), "descending")
    return SortLink(query.url_query(sort=key, page=1), "")


@register.simple_tag
def page_link(query: ListQuery, number: int) -> str:
    """The same list, another page."""
    return query.url_query(page=number)


@register.simple_tag
def limits_of(endpoint: Endpoint) -> list[Limit]:
    """How much may be asked of it; for tokens a month, how many were used."""
    return limits.present(endpoint, timezone.now())


@register.simple_tag
def row_url(name: str, endpoint_id: str, *rest: str) -> str:
    """`{% url "endpoints:…" endpoint.id %}` for lists, whose hundreds of addresses are all of a few forms."""
    return _form_of(name, rest).replace(_ANY, endpoint_id)


_ANY = "me-any"


@lru_cache(maxsize=50)
def _form_of(name: str, rest: tuple[str, ...]) -> str:
    return reverse(f"endpoints:{name}", args=[_ANY, *rest])


@register.simple_tag
def reason_of(endpoint: Endpoint) -> str:
    """Why it is not active, in one sentence."""
    if not endpoint.reason_code:
        return ""
    return describe(endpoint.reason_code, endpoint.reason_params).message


@register.simple_tag
def served_name(endpoint: Endpoint) -> str:
    """What clients send as `model`."""
    return presenting.served_name(endpoint)


@register.simple_tag
def event_words(event: Event) -> str:
    """The event in words."""
    return events.sentence(event)


_REVISION_TONES = {
    RevisionState.CURRENT: "good",
    RevisionState.SERVING: "busy",
    RevisionState.PREVIOUS: "idle",
    RevisionState.FAILED: "bad",
}


@register.simple_tag
def revision_badge(entry: Entry) -> SafeString:
    """What became of a revision, coloured; the word carries the meaning."""
    state = RevisionState(entry.state)
    word = _("Rolling out") if entry.coming else state.label
    tone = "busy" if entry.coming else _REVISION_TONES[state]
    return format_html('<span class="badge-state tone-{}">{}</span>', tone, word)


@register.simple_tag
def replica_word(state: str) -> str:
    """A replica's state in words."""
    return str(ReplicaState(state).label)


@register.simple_tag
def changes_said(changes: list[revisions.Change]) -> str:
    """Differences in words, a line each: for a dialog."""
    return revisions.sentence(changes)


@register.simple_tag
def address(*names: str, of: object = None) -> str:
    """The first of these addresses that exists, "" if none does: parts of the platform may be absent."""
    for name in names:
        try:
            return reverse(name, args=[of] if of is not None else None)
        except NoReverseMatch:
            continue
    return ""


@register.filter
def took(seconds: float | None) -> str:
    """A duration as the pages show it; the same words as static/js/berth.js uses for running ones."""
    if seconds is None:
        return ""
    seconds = max(0.0, seconds)
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60)} s"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60)} min"


@register.filter
def roughly(seconds: float) -> str:
    """A usual duration: rounded up as estimates are, and on one line."""
    return about(seconds).replace(" ", "\u00a0")
