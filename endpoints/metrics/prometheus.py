"""What Prometheus is told of one project, read from the database at each scrape."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from django.db.models import Count, Max
from redis.exceptions import RedisError

from endpoints import gateway_feed
from endpoints.metrics import store
from endpoints.metrics.sample import COLUMNS, Sample, values_of
from endpoints.metrics.text_format import Family, labelled
from endpoints.metrics.totals import EDGES_S, Times, Totals
from endpoints.models import Decision, Endpoint, Replica
from endpoints.models.replica import LIVE_STATES
from endpoints.placement import ledger
from gateway.figures import CLASSES
from iam.models import Project

log = logging.getLogger(__name__)

_LE = [f"{edge:.6g}" for edge in EDGES_S] + ["+Inf"]
_PER_CENT = "per cent"
_REPLICA_HELP = {
    "cpu": ("cpu_percent", f"CPU in use, {_PER_CENT} of the replica's limit."),
    "memory": ("memory_percent", f"Memory in use, {_PER_CENT} of the replica's limit."),
    "gpu": ("gpu_percent", f"Utilisation of the replica's GPUs, {_PER_CENT}, their mean."),
    "gpu_memory": ("gpu_memory_percent", f"Memory in use of the replica's GPUs, {_PER_CENT}, their mean."),
    "running": ("requests_running", "Requests that the model server computes."),
    "queued": ("requests_queued", "Requests that wait inside the model server."),
    "kv_cache": ("kv_cache_percent", f"KV cache in use, {_PER_CENT}."),
    "tokens_in": ("tokens_read_per_second", "Tokens read from prompts."),
    "tokens_out": ("tokens_generated_per_second", "Tokens generated."),
}


def families(project: Project, now: float | None = None) -> Iterable[Family]:
    """Everything, by metric. now: seconds since 1970. Raises DatabaseError."""
    endpoints = list(Endpoint.objects.filter(project=project).order_by("created_at", "pk"))
    labels = {
        one.pk: labelled({"endpoint": one.pk, "name": one.name, "project": project.pk}) for one in endpoints
    }
    samples = store.latest(labels, now)
    return [
        *_replica_counts(endpoints, labels, samples),
        *_traffic(samples, labels),
        *_totals(store.totals(labels), labels),
        *_replicas(samples, labels),
        *_decisions(labels),
        *_gpus(project),
        *_gateways(),
    ]


# ---- an endpoint


def _replica_counts(
    endpoints: Sequence[Endpoint], labels: Mapping[str, str], samples: Mapping[str, Sample]
) -> list[Family]:
    status = Family("berth_endpoint_status", "gauge", "1 for the endpoint's present status.")
    wanted = Family("berth_endpoint_replicas_wanted", "gauge", "Replicas that should run now.")
    ready = Family("berth_endpoint_replicas_ready", "gauge", "Replicas that serve.")
    least = Family("berth_endpoint_replicas_min", "gauge", "The least that its owner allows.")
    most = Family("berth_endpoint_replicas_max", "gauge", "The most that its owner allows.")
    states = Family("berth_endpoint_replicas", "gauge", "Replicas by state; those that ended are not told.")
    told = Family(
        "berth_endpoint_sample_timestamp_seconds", "gauge", "Beginning of the slot of the newest figures."
    )
    rows = (
        Replica.objects.filter(endpoint__in=list(labels), state__in=LIVE_STATES)
        .values_list("endpoint_id", "state")
        .annotate(n=Count("pk"))
        .order_by()
    )
    counts: Counter[tuple[str, str]] = Counter({(key, state): n for key, state, n in rows})
    for one in endpoints:
        mine = labels[one.pk]
        status.add(f'{mine},status="{one.status}"', 1)
        wanted.add(mine, one.wanted_replicas)
        ready.add(mine, one.ready_replicas)
        least.add(mine, one.min_replicas)
        most.add(mine, one.max_replicas)
        for state in LIVE_STATES:
            states.add(f'{mine},state="{state.value}"', counts[one.pk, state.value])
        if one.pk in samples:
            told.add(mine, samples[one.pk].at)
    return [status, wanted, ready, least, most, states, told]


def _traffic(samples: Mapping[str, Sample], labels: Mapping[str, str]) -> list[Family]:
    flying = Family(
        "berth_endpoint_requests_in_flight",
        "gauge",
        "Requests that have not ended, those that wait for a replica included.",
    )
    waiting = Family(
        "berth_endpoint_requests_without_answer",
        "gauge",
        "Requests that had no byte of an answer when they were looked at.",
    )
    for key, sample in samples.items():
        if sample.seconds > 0:
            flying.add(labels[key], sample.in_flight)
            waiting.add(labels[key], sum(sample.waiting.values()))
    return [flying, waiting]


def _totals(totals: Mapping[str, Totals], labels: Mapping[str, str]) -> list[Family]:
    """Kept in the database (MetricSeries.totals): no restart of any process sets them back."""
    answered = Family(
        "berth_endpoint_requests_total",
        "counter",
        "Requests that ended, by class of their status; other: the caller went away before an answer.",
    )
    about = "The sum is made from bins and within 6 per cent of the truth."
    duration = Family(
        "berth_endpoint_request_duration_seconds",
        "histogram",
        f"From a request's first byte to its answer's last. {about}",
    )
    first = Family(
        "berth_endpoint_first_byte_seconds",
        "histogram",
        f"From a request's first byte to its answer's first. {about}",
    )
    read = Family("berth_endpoint_tokens_read_total", "counter", "Tokens read from prompts.")
    made = Family("berth_endpoint_tokens_generated_total", "counter", "Tokens generated.")
    for key, total in totals.items():
        mine = labels[key]
        for name, count in zip(CLASSES, total.answered, strict=True):
            answered.add(f'{mine},code="{name}"', count)
        _histogram(duration, mine, total.duration)
        _histogram(first, mine, total.first_byte)
        read.add(mine, total.tokens_in or None)
        made.add(mine, total.tokens_out or None)
    return [answered, duration, first, read, made]


def _histogram(family: Family, labels: str, times: Times) -> None:
    counts = times.cumulated()
    for edge, count in zip(_LE, counts, strict=True):
        family.add(f'{labels},le="{edge}"', count, "_bucket")
    family.add(labels, times.sum_ms / 1000, "_sum")
    family.add(labels, counts[-1], "_count")


def _replicas(samples: Mapping[str, Sample], labels: Mapping[str, str]) -> list[Family]:
    found = {
        column: Family(f"berth_replica_{name}", "gauge", told)
        for column, (name, told) in _REPLICA_HELP.items()
    }
    for key, sample in samples.items():
        for name, figures in sample.replicas.items():
            mine = f"{labels[key]},{labelled({'replica': name})}"
            for column, value in zip(COLUMNS, values_of(figures), strict=True):
                found[column].add(mine, value)
    return list(found.values())


def _decisions(labels: Mapping[str, str]) -> list[Family]:
    """No counter: old ones are removed, and a counter that falls would be read as one that began anew."""
    kept = Family("berth_endpoint_decisions", "gauge", "The autoscaler's decisions on record, by rule.")
    last = Family(
        "berth_endpoint_last_decision_timestamp_seconds", "gauge", "When the newest of them was taken."
    )
    rows = (
        Decision.objects.filter(endpoint__in=list(labels))
        .values_list("endpoint_id", "rule")
        .annotate(n=Count("pk"), newest=Max("at"))
        .order_by()
    )
    newest: dict[str, float] = {}
    for key, rule, count, at in rows:
        kept.add(f"{labels[key]},{labelled({'rule': rule})}", count)
        newest[key] = max(newest.get(key, 0.0), at.timestamp())
    for key, at in newest.items():
        last.add(labels[key], at)
    return [kept, last]


# ---- the platform


def _gpus(project: Project) -> list[Family]:
    """Those of the project's replicas, and those that anybody may have."""
    counts: Counter[tuple[str, str]] = Counter()
    for entry in ledger.gpus():
        model = entry.gpu.model
        counts[model, "claimed"] += bool(
            entry.gpu.replica and entry.gpu.replica.endpoint.project_id == project.pk
        )
        counts[model, "free"] += entry.state == "free"
    told = Family(
        "berth_gpus", "gauge", "GPUs: claimed by this project's replicas, and free for whoever comes first."
    )
    for (model, state), count in sorted(counts.items()):
        told.add(labelled({"model": model, "state": state}), count)
    return [told]


def _gateways() -> list[Family]:
    known = Family("berth_gateways", "gauge", "Gateways that asked for their snapshot in the last seconds.")
    current = Family("berth_gateway_current", "gauge", "1 if the gateway serves the present snapshot, whole.")
    refuses = Family(
        "berth_gateway_refuses", "gauge", "1 if the gateway's Envoy refuses a part of what it was given last."
    )
    unbuilt = Family(
        "berth_gateway_snapshot_fails", "gauge", "1 if no snapshot of what is wanted now can be built."
    )
    age = Family(
        "berth_gateway_snapshot_age_seconds",
        "gauge",
        "Since the gateway asked last for its snapshot, and so since it had the present one.",
    )
    try:
        cluster = gateway_feed.cluster()
        version, gateways, ages = cluster.current_version(), cluster.gateways(), cluster.ages()
        building = cluster.building()
    except RedisError as error:
        log.warning("Redis does not answer (%s): nothing is told of the gateways", error)
        return []
    known.add("", sum(one.live for one in gateways))
    unbuilt.add("", building.unbuilt is not None)
    for one in gateways:
        mine = labelled({"gateway": one.gateway_id})
        serves = one.live and bool(version) and one.applied == version
        current.add(mine, serves and not one.rejected)
        refuses.add(mine, bool(one.rejected))
        age.add(mine, ages.get(one.gateway_id))
    return [known, current, refuses, unbuilt, age]
