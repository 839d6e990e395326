"""What each live page consists of: fragments of HTML by their element's id, and a cheap version to compare.

`version` costs a few small queries and changes whenever a fragment could. Everything here is synchronous.
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Mapping

from django.db.models import Count, Max, Q, Sum
from django.template.loader import render_to_string

from endpoints import live
from endpoints.models import Decision, DeployPhase, Endpoint, Event, Replica, ScaleState
from endpoints.presenting import overview, revision_list, scaling
from endpoints.selectors import ListQuery, endpoint_of, endpoint_page, events_of, list_version
from iam.actors import Actor
from iam.roles import Permission
from registry.models import RegisteredModel

MODELS_SHOWN = 200
STALE_S = 5  # so old an estimate may be


class Page:
    """A live page: override what differs."""

    groups: list[str]

    def version(self) -> Hashable:
        """Differs when something shown may differ."""
        raise NotImplementedError

    def fragments(self) -> dict[str, str]:
        """key → HTML of one element; empty when what was shown is gone."""
        raise NotImplementedError

    def frame(self, sent: Mapping[str, str], now: Mapping[str, str]) -> str:
        """What turns a page that shows `sent` into one that shows `now`."""
        return "".join(html for key, html in now.items() if sent.get(key) != html)

    def farewell(self) -> str:
        """What to show when its object is gone."""
        return ""

    def inherit(self, other: Page) -> None:
        """Take over what `other`, this page a moment ago, had rendered."""


class RowsPage(Page):
    """A table: single rows while it shows the same ones in the same order, else its whole body."""

    body_id = ""

    def frame(self, sent: Mapping[str, str], now: Mapping[str, str]) -> str:
        """Rows or body."""
        if list(sent) == list(now):
            return super().frame(sent, now)
        return f'<tbody id="{self.body_id}">{"".join(now.values())}</tbody>'


class ListPage(RowsPage):
    """The list of endpoints. Rows are rendered again only when they changed."""

    body_id = "ep-rows"

    def __init__(self, actor: Actor, query: Mapping[str, str]) -> None:
        self.actor = actor
        self.query = ListQuery.parse(query)
        self.can_edit = actor.may(Permission.EDIT)
        self.groups = [live.project_group(actor.project.id)]
        self.rows: dict[tuple[Hashable, ...], str] = {}

    def version(self) -> Hashable:
        """Rows, and whether they may be edited."""
        return (list_version(self.actor.project), self.can_edit)

    def fragments(self) -> dict[str, str]:
        """A row an endpoint of the page, or the one that says that there is none."""
        page = endpoint_page(self.actor.project, self.query)
        kept: dict[tuple[Hashable, ...], str] = {}
        now: dict[str, str] = {}
        for endpoint in page.object_list:
            key = (endpoint.id, endpoint.updated_at, endpoint.revision_id, self.can_edit)
            kept[key] = now[endpoint.id] = self.rows.get(key) or self._row(endpoint)
        self.rows = kept
        return now or {"none": render_to_string("endpoints/_rows.html", {"page": [], "query": self.query})}

    def _row(self, endpoint: Endpoint) -> str:
        return render_to_string("endpoints/_row.html", {"endpoint": endpoint, "can_edit": self.can_edit})

    def inherit(self, other: Page) -> None:
        """The rendered rows."""
        assert isinstance(other, ListPage)
        self.rows = other.rows


class EndpointPage(Page):
    """One endpoint, with the parts that its tab shows."""

    def __init__(self, actor: Actor, endpoint_id: str, query: Mapping[str, str]) -> None:
        self.actor = actor
        self.endpoint_id = endpoint_id
        self.tab = query.get("tab", "overview")
        self.before = query.get("before", "")
        self.can_edit = actor.may(Permission.EDIT)
        self.groups = [live.endpoint_group(endpoint_id)]

    def exists(self) -> bool:
        """Whether the actor's project has it."""
        return Endpoint.objects.filter(pk=self.endpoint_id, project=self.actor.project).exists()

    def version(self) -> Hashable:
        """The endpoint's row, its replicas, their phases and its last event."""
        row = (
            Endpoint.objects.filter(pk=self.endpoint_id, project=self.actor.project)
            .values_list("updated_at", "status", "ready_replicas", "generation")
            .first()
        )
        replicas = tuple(
            Replica.objects.filter(endpoint=self.endpoint_id).values_list(
                "id", "state", "node_id", "healthy_since", "unhealthy_since", "ended_at", "reason_code"
            )
        )
        phases = DeployPhase.objects.filter(replica__endpoint=self.endpoint_id).aggregate(
            n=Count("id"),
            begun=Max("started_at"),
            over=Max("finished_at"),
            done=Sum("bytes_done"),
            pace=Sum("bytes_per_s"),
            open=Count("id", filter=Q(finished_at=None)),
        )
        # While something is under way, time itself changes what is said: late, standing still.
        moment = int(time.time() // STALE_S) if phases["open"] or not replicas else 0
        event = Event.objects.filter(target=self.endpoint_id).aggregate(last=Max("id"))
        return (row, replicas, tuple(phases.values()), moment, event["last"], self.can_edit, self._scaling())

    def _scaling(self) -> Hashable:
        """Of the tab that shows it: what was decided and found last, and the time, which is part of what it says."""
        if self.tab != "scaling":
            return None
        decision = Decision.objects.filter(endpoint=self.endpoint_id).aggregate(last=Max("id"))
        looked = ScaleState.objects.filter(endpoint=self.endpoint_id).values_list("checked_at", flat=True)
        return (decision["last"], looked.first(), int(time.time() // STALE_S))

    def fragments(self) -> dict[str, str]:
        """The head on every tab; the rest by tab."""
        endpoint = endpoint_of(self.actor.project, self.endpoint_id)
        if endpoint is None:
            return {}
        context: dict[str, object] = {"endpoint": endpoint, "can_edit": self.can_edit, "tab": self.tab}
        names = ["head"]
        if self.tab == "overview":
            context |= overview(endpoint, self.can_edit)
            names += ["update", "cause", "facts", "timeline", "replicas"]
        elif self.tab == "revisions":
            context |= revision_list(endpoint, self.can_edit, self.before)
            names += ["update", "revisions"]
        elif self.tab == "scaling":
            context |= scaling(endpoint, self.can_edit, self.before)
            names += ["scaling", "decisions"]
        elif self.tab == "events":
            context["events"] = events_of(endpoint)
            names.append("events")
        return {name: render_to_string(f"endpoints/_{name}.html", context) for name in names}

    def farewell(self) -> str:
        """In place of everything: it was deleted."""
        return render_to_string("endpoints/_gone.html", {"endpoint_id": self.endpoint_id})


class ModelsPage(RowsPage):
    """The list of models; their rows are the registry's own template."""

    body_id = "model-rows"

    def __init__(self, actor: Actor) -> None:
        self.actor = actor
        self.can_edit = actor.may(Permission.EDIT)
        self.groups = [live.models_group(actor.project.id)]

    def version(self) -> Hashable:
        """Count, last change, bytes of running imports."""
        rows = RegisteredModel.objects.filter(project=self.actor.project)
        figures = rows.aggregate(n=Count("id"), at=Max("updated_at"), done=Sum("bytes_done"))
        return (
            *figures.values(),
            tuple(rows.values_list("status").annotate(n=Count("id")).order_by("status")),
        )

    def fragments(self) -> dict[str, str]:
        """A row a model."""
        rows = (
            RegisteredModel.objects.filter(project=self.actor.project)
            .select_related("framework", "created_by")
            .order_by("-created_at")[:MODELS_SHOWN]
        )
        context = {"can_edit": self.can_edit, "actor": self.actor}
        parts: dict[str, str] = {
            str(model.pk): render_to_string("registry/_row.html", {**context, "model": model})
            for model in rows
        }
        return parts or {"none": ""}
