"""Reading endpoints for pages, sockets and the API: always within one project, a constant number of queries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlencode

from django.core.paginator import Page, Paginator
from django.db.models import Count, Max, Q, QuerySet

from endpoints.models import DeployPhase, Endpoint, Event, Replica, Status
from iam.models import Project

PAGE_SIZES = (10, 25, 50, 100)
SORTS: dict[str, tuple[str, ...]] = {
    "name": ("name", "id"),
    "status": ("status", "name", "id"),
    "model": ("revision__model__name", "name", "id"),
    "created": ("created_at", "id"),
    "updated": ("updated_at", "id"),
}
# What is on its way, and what someone should look at.
MOVING = (Status.PENDING, Status.DEPLOYING, Status.UPDATING, Status.DELETING)
TROUBLED = (Status.FAILED, Status.DEGRADED)


@dataclass(frozen=True, slots=True)
class ListQuery:
    """What a list page shows. Made from anything a browser sends; nonsense becomes the default.

    sort   a key of SORTS, "-" before it for the other direction
    """

    search: str = ""
    status: str = ""
    region: str = ""
    sort: str = "-created"
    page: int = 1
    size: int = 10

    @classmethod
    def parse(cls, data: Mapping[str, str], region: str = "") -> ListQuery:
        """From a query string; `region` is the session's choice where the address has none."""
        sort = data.get("sort", "")
        size = _whole(data.get("size"), 10)
        status = data.get("status", "").upper()
        return cls(
            search=data.get("search", "").replace("\x00", "").strip()[:100],
            status=status if status in Status.values or status in ("MOVING", "TROUBLED") else "",
            region=(data.get("region") or region).replace("\x00", "")[:20],
            sort=sort if sort.removeprefix("-") in SORTS else "-created",
            page=max(1, _whole(data.get("page"), 1)),
            size=size if size in PAGE_SIZES else 10,
        )

    def url_query(self, **changes: object) -> str:
        """The query string that leads to this list, with `changes`."""
        defaults = ListQuery()
        values = {name: changes.get(name, getattr(self, name)) for name in self.__dataclass_fields__}
        return urlencode({k: v for k, v in values.items() if v != getattr(defaults, k)})

    @property
    def narrowed(self) -> bool:
        """Whether something is filtered out."""
        return bool(self.search or self.status or self.region)


def _whole(text: str | None, default: int) -> int:
    try:
        return int(text or "")
    except ValueError:
        return default


def endpoints_of(project: Project) -> QuerySet[Endpoint]:
    """The project's endpoints with what their rows show."""
    return Endpoint.objects.filter(project=project).select_related(
        "region", "revision__model__framework", "revision__instance_type"
    )


def endpoint_of(project: Project, endpoint_id: str) -> Endpoint | None:
    """One endpoint of the project; None for one of another project, as for one that isn't."""
    return endpoints_of(project).select_related("created_by").filter(pk=endpoint_id).first()


def endpoint_page(project: Project, query: ListQuery) -> Page[Endpoint]:
    """One page of the list: two queries. A page beyond the end is the last one."""
    rows = endpoints_of(project)
    if query.region:
        rows = rows.filter(region=query.region)
    if query.status == "MOVING":
        rows = rows.filter(status__in=MOVING)
    elif query.status == "TROUBLED":
        rows = rows.filter(status__in=TROUBLED)
    elif query.status:
        rows = rows.filter(status=query.status)
    if query.search:
        rows = rows.filter(
            Q(name__icontains=query.search)
            | Q(id__icontains=query.search)
            | Q(revision__model__name__icontains=query.search)
        )
    sign = "-" if query.sort.startswith("-") else ""
    order = [sign + column for column in SORTS[query.sort.removeprefix("-")]]
    return Paginator(rows.order_by(*order), query.size).get_page(query.page)


@dataclass(frozen=True, slots=True)
class Counts:
    """Endpoints by what they mean to a person."""

    total: int
    serving: int
    moving: int
    troubled: int


def counts_of(project: Project, region: str = "") -> Counts:
    """One query."""
    rows = Endpoint.objects.filter(project=project)
    if region:
        rows = rows.filter(region=region)
    by = dict(rows.values_list("status").annotate(n=Count("id")).order_by())
    return Counts(
        total=sum(by.values()),
        serving=by.get(Status.ACTIVE, 0),
        moving=sum(by.get(status, 0) for status in MOVING),
        troubled=sum(by.get(status, 0) for status in TROUBLED),
    )


def list_version(project: Project) -> tuple[int, datetime | None]:
    """Changes whenever a row of the list does. One indexed query, cheap enough for every few seconds."""
    row = Endpoint.objects.filter(project=project).aggregate(n=Count("id"), at=Max("updated_at"))
    return row["n"], row["at"]


def replicas_of(endpoint: Endpoint, limit: int = 25, ended: int = 3) -> list[Replica]:
    """The newest replicas first by life, then by slot: those that run, then the last `ended` ones that ended."""
    rows = (
        Replica.objects.filter(endpoint=endpoint)
        .select_related("revision__instance_type")
        .order_by("ended_at", "slot", "-attempt")
    )
    live = list(rows.filter(ended_at=None)[:limit])
    return live + list(rows.exclude(ended_at=None).order_by("-ended_at")[:ended])


def replica_of(project: Project, endpoint_id: str, name: str) -> Replica | None:
    """That replica, if it belongs to that endpoint of this project."""
    return Replica.objects.filter(endpoint__project=project, endpoint=endpoint_id, name=name).first()


def phases_of(replica: Replica) -> list[DeployPhase]:
    """The replica's phases in order."""
    return list(DeployPhase.objects.filter(replica=replica).order_by("started_at", "id"))


def events_of(endpoint: Endpoint, limit: int = 50) -> list[Event]:
    """The newest first."""
    return list(Event.objects.filter(target=endpoint.id, project_id=endpoint.project_id)[:limit])


def recent_events(project: Project, limit: int = 8) -> list[Event]:
    """What happened lately in the project."""
    return list(Event.objects.filter(project=project).select_related("endpoint")[:limit])
