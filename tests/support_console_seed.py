"""What the hand of `tests.support_console` can do. Imported in a process that has Django set up."""

from __future__ import annotations

import contextlib
import io
import time
from datetime import timedelta

from django.utils import timezone

from endpoints import live, log_tail, services
from endpoints.models import DeployPhase, Endpoint, PhaseName, Replica, ReplicaState, Status
from iam.actors import Actor, actor_for_user
from iam.models import Membership, Project, User
from iam.roles import Role
from registry.models import RegisteredModel
from tests import support_endpoints
from tests.support_endpoints import ready_model, spec_for

__all__ = [
    "DeployPhase", "Endpoint", "Membership", "PhaseName", "Project", "RegisteredModel", "Replica", "ReplicaState",
    "Role", "Status", "User", "fail", "get", "go_active", "live", "load_data", "log_tail", "member", "new", "phase",
    "ready_model", "replica", "services", "set_status", "spec_for", "time", "timedelta", "timezone",
]  # fmt: skip

PASSWORD = "correct horse battery staple"


def load_data() -> None:
    """As a new installation; quietly, because the hand's standard output is its answer."""
    with contextlib.redirect_stdout(io.StringIO()):
        support_endpoints.load_data()


def member(email: str, role: str = Role.EDITOR, project: str = "Alpha") -> str:
    """A person in that project, which is made if need be; returns the project's id."""
    home, _ = Project.objects.get_or_create(name=project)
    Membership.objects.create(user=User.objects.create_user(email, PASSWORD), project=home, role=role)
    return home.id


def _actor(email: str) -> Actor:
    actor = actor_for_user(User.objects.get(email=email))
    assert actor is not None
    return actor


def new(name: str, email: str, **changes: object) -> str:
    """An endpoint that this person asked for; returns its id."""
    actor = _actor(email)
    models = RegisteredModel.objects.filter(project=actor.project, framework="llama-cpp")
    model = models.first() or ready_model(actor.project)
    return services.create_endpoint(actor=actor, spec=spec_for(model, name=name, **changes)).id


def get(endpoint_id: str) -> Endpoint:
    """Fresh from the database."""
    return Endpoint.objects.get(pk=endpoint_id)


def set_status(endpoint_id: str, status: str, reason: str = "", tell: bool = True, **params: object) -> float:
    """What the reconciler writes, and what it tells the pages; returns the moment it was written, in ms."""
    at = time.time() * 1000
    Endpoint.objects.filter(pk=endpoint_id).update(
        status=status, reason_code=reason, reason_params=params, updated_at=timezone.now()
    )
    if tell:
        live.endpoint_changed(get(endpoint_id))
    return at


def replica(endpoint_id: str, state: str = ReplicaState.STARTING) -> str:
    """Its next replica; returns the name."""
    endpoint = get(endpoint_id)
    number = endpoint.replicas.count() + 1
    return Replica.objects.create(
        endpoint=endpoint,
        revision_id=endpoint.revision_id,
        slot=1,
        attempt=number,
        name=f"{endpoint_id[:11]}-{number}",
        state=state,
    ).name


def phase(name: str, step: str, done: int = 0, total: int = 0) -> None:
    """The replica enters this step, or moves on in it."""
    owner = Replica.objects.get(name=name)
    now = timezone.now()
    owner.phases.filter(finished_at=None).exclude(name=step).update(finished_at=now)
    row, _ = owner.phases.get_or_create(name=step, defaults={"started_at": now})
    owner.phases.filter(pk=row.pk).update(
        bytes_done=done, bytes_total=total, finished_at=now if step == PhaseName.ACTIVE else None
    )
    live.endpoint_changed(owner.endpoint)


def go_active(endpoint_id: str, name: str) -> None:
    """The rest of the way."""
    Replica.objects.filter(name=name).update(state=ReplicaState.READY, healthy_since=timezone.now())
    phase(name, PhaseName.ACTIVE)
    Endpoint.objects.filter(pk=endpoint_id).update(ready_replicas=1)
    set_status(endpoint_id, Status.ACTIVE)


def fail(endpoint_id: str, name: str, logs: str) -> None:
    """It ran out of memory."""
    now = timezone.now()
    owner = Replica.objects.get(name=name)
    owner.phases.filter(finished_at=None).update(finished_at=now)
    Replica.objects.filter(name=name).update(
        state=ReplicaState.FAILED,
        ended_at=now,
        evidence={"exit_code": 137, "oom_killed": True, "logs": logs},
    )
    set_status(endpoint_id, Status.FAILED, "out_of_memory", memory="4 GiB")
