"""What IAM needs to know of endpoints, which belong to another app: that app fills `Directory` at its start.

IAM does not import it: endpoints know projects and roles, not the other way round.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True, slots=True)
class EndpointFacts:
    """What a caller's rights to an endpoint depend on, and how a person knows it.

    private  a token is needed
    limited  it has limits of its own, for all its callers together
    """

    id: str
    name: str
    project_id: str
    private: bool
    url: str
    limited: bool = False


@dataclass(frozen=True, slots=True)
class Use:
    """The last call of one subject to one endpoint. endpoint_name: "" where the endpoint is gone."""

    endpoint_id: str
    endpoint_name: str
    address: str
    at: datetime


class Directory(Protocol):
    """Asked about endpoints. Each method is one or two queries at any size."""

    def of_project(self, project_id: str) -> tuple[EndpointFacts, ...]:
        """All of a project, by name; without those that are being deleted."""

    def find(self, project_id: str, ids: Iterable[str]) -> Mapping[str, EndpointFacts]:
        """Those of these ids that are the project's, by id."""

    def uses(self, project_id: str, subject: str) -> tuple[Use, ...]:
        """The last call of a project's service account or API key to each endpoint, newest first."""

    def last_used(self, subjects: Iterable[str]) -> Mapping[str, datetime]:
        """When each of these called any endpoint last; those that never did are left out."""


_installed: list[Directory] = []


def install(directory: Directory) -> None:
    """Set who answers. Once, while the apps are loaded."""
    _installed[:] = [directory]


def directory() -> Directory:
    """Who answers."""
    if not _installed:
        raise LookupError("No app has told IAM about endpoints (iam.directory.install).")
    return _installed[0]
