"""Template parts that every console page uses: `{% load console %}`.

{% icon "copy" %}                    one icon of the sprite
{% shell as shell %}                 what the frame around a page shows: menu, projects, regions
{% field form.name hint="…" %}       label, input, help and errors of one form field
{% status_badge endpoint.status %}   a status with its colour
{{ 1536|bytes }}  {{ moment|iso }}   sizes and machine-readable times
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

from django import template
from django.conf import settings
from django.forms import BoundField, CheckboxInput, RadioSelect, Select, SelectMultiple, Textarea
from django.http import HttpRequest
from django.template.loader import render_to_string
from django.templatetags.static import static
from django.urls import NoReverseMatch, reverse
from django.utils.functional import Promise
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _
from django.utils.translation import pgettext_lazy

from endpoints.models import Region, ReplicaState, Status
from iam.models import Project
from iam.roles import Permission

register = template.Library()

_Text = str | Promise

TONES: dict[str, str] = {
    Status.PENDING: "warn",
    Status.DEPLOYING: "busy",
    Status.ACTIVE: "good",
    Status.UPDATING: "busy",
    Status.DEGRADED: "warn",
    Status.ASLEEP: "idle",
    Status.INACTIVE: "idle",
    Status.FAILED: "bad",
    Status.DELETING: "busy",
    # replicas
    ReplicaState.WAITING: "warn",
    ReplicaState.STARTING: "busy",
    ReplicaState.READY: "good",
    ReplicaState.DRAINING: "idle",
    ReplicaState.STOPPED: "idle",
    ReplicaState.FAILED: "bad",
    # models
    "IMPORTING": "busy",
    # `READY` and `FAILED` of a model
    "READY": "good",
}


@dataclass(frozen=True, slots=True)
class MenuLink:
    """One entry of the left menu."""

    label: _Text
    icon: str
    url: str
    current: bool


@dataclass(frozen=True, slots=True)
class MenuGroup:
    """Entries under one heading, "" for none."""

    label: _Text
    links: tuple[MenuLink, ...]


@dataclass(frozen=True, slots=True)
class Shell:
    """What the frame around a console page shows."""

    menu: tuple[MenuGroup, ...]
    project: Project | None
    projects: tuple[Project, ...]
    regions: tuple[Region, ...]
    region: Region | None
    languages: tuple[tuple[str, str], ...]
    can_edit: bool


# heading, then (label, icon, address by name, path prefix that makes it current, permission, staff only)
_MENU: tuple[tuple[_Text, tuple[tuple[_Text, str, str, str, Permission, bool], ...]], ...] = (
    (
        "",
        (
            (_("Overview"), "layout-dashboard", "endpoints:home", "", Permission.VIEW, False),
            (_("Inference"), "rocket", "endpoints:list", "/inference/", Permission.VIEW, False),
            (_("Model Registry"), "package", "registry:list", "/registry/", Permission.VIEW, False),
        ),
    ),
    (
        pgettext_lazy("menu", "IAM"),
        (
            (
                _("Service accounts"),
                "key",
                "iam:service_accounts",
                "/iam/service-accounts/",
                Permission.ADMINISTER,
                False,
            ),
            (_("API keys"), "terminal-2", "iam:api_keys", "/iam/api-keys/", Permission.INVOKE, False),
            (_("Members"), "users", "iam:members", "/iam/members/", Permission.ADMINISTER, False),
            (_("Project"), "folder", "iam:project", "/iam/project/", Permission.VIEW, False),
        ),
    ),
    (
        pgettext_lazy("menu", "Records"),
        (
            (_("Usage"), "activity", "endpoints:usage", "/usage/", Permission.VIEW, False),
            (_("Audit log"), "history", "iam:audit", "/audit/", Permission.ADMINISTER, False),
        ),
    ),
    (
        _("Platform"),
        (
            (
                _("Machines and GPUs"),
                "server",
                "endpoints:machines",
                "/administration/machines/",
                Permission.VIEW,
                True,
            ),
            (_("Administration"), "settings", "admin:index", "/admin/", Permission.VIEW, True),
        ),
    ),
)


@register.simple_tag
def icon(name: str, css: str = "") -> SafeString:
    """One icon, silent to screen readers: the text beside it, or its button's label, speaks."""
    return _svg(name, css)


# A list has hundreds of them, and finding the sprite's address costs more than everything else of an icon.
@lru_cache(maxsize=500)
def _svg(name: str, css: str) -> SafeString:
    return format_html(
        '<svg class="icon {}" aria-hidden="true" focusable="false"><use href="{}#{}"></use></svg>',
        css,
        static("vendor/icons.svg"),
        name,
    )


@register.simple_tag(takes_context=True)
def shell(context: template.Context) -> Shell:
    """The frame's data: two small queries, none for a page without a project."""
    request: HttpRequest = context["request"]
    actor = getattr(request, "actor", None)
    project = actor.project if actor else None
    user = getattr(request, "user", None)
    signed_in = user is not None and user.is_authenticated
    projects: tuple[Project, ...] = ()
    regions: tuple[Region, ...] = ()
    if signed_in:
        projects = tuple(Project.objects.filter(memberships__user=user).order_by("name"))
    if project is not None:
        regions = tuple(Region.objects.filter(enabled=True))
    wanted = request.session.get("region") if hasattr(request, "session") else None
    return Shell(
        menu=_menu(request) if signed_in else (),
        project=project,
        projects=projects,
        regions=regions,
        region=next((r for r in regions if r.code == wanted), None),
        languages=tuple((code, str(name)) for code, name in settings.LANGUAGES),
        can_edit=bool(actor and actor.may(Permission.EDIT)),
    )


def _menu(request: HttpRequest) -> tuple[MenuGroup, ...]:
    actor = getattr(request, "actor", None)
    groups = []
    for heading, entries in _MENU:
        links = []
        for label, symbol, name, prefix, permission, staff_only in entries:
            if staff_only and not getattr(request.user, "is_staff", False):
                continue
            if not staff_only and not (actor and actor.may(permission)):
                continue
            try:
                url = reverse(name)
            except NoReverseMatch:
                continue  # that part of the platform is not installed
            current = request.path.startswith(prefix or url) if prefix else request.path == url
            links.append(MenuLink(label, symbol, url, current))
        if links:
            groups.append(MenuGroup(heading, tuple(links)))
    return tuple(groups)


@register.simple_tag
def status_badge(status: str, label: str = "") -> SafeString:
    """A status in words, coloured; the colour never carries the meaning alone."""
    text = label or _status_label(status)
    return format_html('<span class="badge-state tone-{}">{}</span>', TONES.get(status, "idle"), text)


def _status_label(status: str) -> str:
    for choices in (Status, ReplicaState):
        if status in choices.values:
            return str(choices(status).label)
    return {"IMPORTING": str(_("Importing")), "READY": str(_("Ready"))}.get(status, status)


GPU_STATES: dict[str, tuple[str, _Text]] = {
    "free": ("idle", _("Free")),
    "claimed": ("busy", _("Claimed")),
    "used": ("good", _("Used")),
    "foreign": ("warn", _("Foreign")),
    "leaked": ("bad", _("Leaked")),
    "missing": ("bad", _("Missing")),
    "disabled": ("idle", _("Disabled")),
}


@register.simple_tag
def gpu_badge(state: str) -> SafeString:
    """The ledger's word for a GPU, coloured."""
    tone, text = GPU_STATES[state]
    return format_html('<span class="badge-state tone-{}">{}</span>', tone, text)


@register.simple_tag
def field(
    bound: BoundField, hint: _Text = "", label: _Text = "", placeholder: _Text = "", css: str = ""
) -> SafeString:
    """Label, input, hint and errors; the input points to its hint and errors for screen readers."""
    widget = bound.field.widget
    check = isinstance(widget, CheckboxInput)
    base = "form-check-input" if check else "form-control"
    if isinstance(widget, (Select, SelectMultiple)) and not isinstance(widget, RadioSelect):
        base = "form-select"
    classes = f"{base} {css}"
    attrs: dict[str, str | bool] = {}
    hint = hint or bound.help_text
    described = [f"{bound.auto_id}_hint"] if hint else []
    if bound.errors:
        classes += " is-invalid"
        attrs["aria-invalid"] = "true"
        described.append(f"{bound.auto_id}_error")
    if described:
        attrs["aria-describedby"] = " ".join(described)
    if placeholder:
        attrs["placeholder"] = str(placeholder)
    if isinstance(widget, Textarea):
        attrs["rows"] = str(widget.attrs.get("rows", 4))
    attrs["class"] = f"{widget.attrs.get('class', '')} {classes}".strip()
    rendered = bound.as_widget(attrs=attrs)
    return render_to_string(
        "_field.html",
        {"field": bound, "input": rendered, "hint": hint, "label": label or bound.label, "check": check},
    )


@register.filter(name="bytes")
def size(count: int | None) -> str:
    """1536 → "1.5 KiB"; decimal comma and the like are the reader's business, units are not."""
    value = float(count or 0)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


@register.filter
def iso(moment: datetime | None) -> str:
    """For <time datetime>."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds") if moment else ""


@register.filter
def number(value: float | None) -> str:
    """16.0 → "16", 0.5 → "0.5"."""
    return f"{value:g}" if value is not None else ""


@register.filter
def unlocalised(value: object) -> str:
    """For scripts: 4944500.00, whatever the language."""
    return str(value)
