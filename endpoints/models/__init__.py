"""What was asked for (Endpoint, Revision), what runs (Replica, DeployPhase) and on what (Node, Gpu), what happened
(Event), where (Region, InstanceType), what was measured (MetricSample) and decided from it (Decision),
what was used (Usage)."""

from endpoints.models.change import Change
from endpoints.models.endpoint import Endpoint, Revision, Status
from endpoints.models.event import Event
from endpoints.models.node import Gpu, Node
from endpoints.models.places import InstanceType, Region
from endpoints.models.replica import (
    DeployPhase,
    HeldAddress,
    PhaseName,
    PhaseTimes,
    Replica,
    ReplicaState,
)
from endpoints.models.scaling import Decision, MetricSample, MetricSeries, ScaleState
from endpoints.models.usage import (
    LastUse,
    LogPosition,
    ReplicaTime,
    SummedDays,
    TimeSum,
    TokenCount,
    Usage,
    UsageSum,
)

__all__ = [
    "Change",
    "Decision",
    "DeployPhase",
    "Endpoint",
    "Event",
    "Gpu",
    "HeldAddress",
    "InstanceType",
    "LastUse",
    "LogPosition",
    "MetricSample",
    "MetricSeries",
    "Node",
    "PhaseName",
    "PhaseTimes",
    "Region",
    "Replica",
    "ReplicaState",
    "ReplicaTime",
    "Revision",
    "ScaleState",
    "Status",
    "SummedDays",
    "TimeSum",
    "TokenCount",
    "Usage",
    "UsageSum",
]
