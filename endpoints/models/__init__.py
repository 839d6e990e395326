"""What was asked for (Endpoint, Revision), what runs (Replica, DeployPhase), what happened (Event), where (Region,
InstanceType)."""

from endpoints.models.endpoint import Endpoint, Revision, Status
from endpoints.models.event import Event
from endpoints.models.places import InstanceType, Region
from endpoints.models.replica import DeployPhase, PhaseName, Replica, ReplicaState

__all__ = [
    "DeployPhase",
    "Endpoint",
    "Event",
    "InstanceType",
    "PhaseName",
    "Region",
    "Replica",
    "ReplicaState",
    "Revision",
    "Status",
]
