"""What IAM asks about endpoints (iam.directory)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from django.db.models import Max, QuerySet

from endpoints.models import Endpoint, LastUse
from iam.directory import EndpointFacts, Use

_LIMITS = ("requests_per_minute", "tokens_per_minute", "tokens_per_month", "max_concurrency")


class Directory:
    """Answers from the tables."""

    def of_project(self, project_id: str) -> tuple[EndpointFacts, ...]:
        """All of a project, by name; without those that are being deleted."""
        return tuple(
            _facts(item) for item in _endpoints(project_id).filter(deleting_at=None).order_by("name")
        )

    def find(self, project_id: str, ids: Iterable[str]) -> Mapping[str, EndpointFacts]:
        """Those of these ids that are the project's, by id."""
        return {item.id: _facts(item) for item in _endpoints(project_id).filter(id__in=list(ids))}

    def uses(self, project_id: str, subject: str) -> tuple[Use, ...]:
        """The last call of a project's service account or API key to each endpoint, newest first."""
        rows = list(LastUse.objects.filter(subject=subject).order_by("-at"))
        ids = [row.endpoint_id for row in rows]
        names = dict(_endpoints(project_id).filter(id__in=ids).values_list("id", "name"))
        return tuple(
            Use(row.endpoint_id, names.get(row.endpoint_id, ""), row.address, row.at) for row in rows
        )

    def last_used(self, subjects: Iterable[str]) -> Mapping[str, datetime]:
        """When each of these called any endpoint last; those that never did are left out."""
        found = LastUse.objects.filter(subject__in=list(subjects)).values("subject").annotate(last=Max("at"))
        return {row["subject"]: row["last"] for row in found}


def _endpoints(project_id: str) -> QuerySet[Endpoint]:
    return Endpoint.objects.filter(project_id=project_id).only(
        "id", "name", "project_id", "private", *_LIMITS
    )


def _facts(endpoint: Endpoint) -> EndpointFacts:
    return EndpointFacts(
        id=endpoint.id,
        name=endpoint.name,
        project_id=endpoint.project_id,
        private=endpoint.private,
        url=endpoint.url,
        limited=any(getattr(endpoint, name) is not None for name in _LIMITS),
    )
