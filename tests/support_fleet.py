"""Many endpoints that serve, made quickly: one is deployed by the reconciler itself, the others are its copies."""

from __future__ import annotations

from dataclasses import replace
from uuid import uuid4

from endpoints import gateway_feed, services
from endpoints.models import Endpoint, Replica, Revision
from endpoints.models.endpoint import new_endpoint_id
from endpoints.placement import discovery
from endpoints.reconciler import probe
from gateway.control import Report
from iam.actors import Actor
from runtimes.contract import LABEL_ENDPOINT, LABEL_REPLICA, Address, NodeFacts
from runtimes.fake import Container, FakeEngine, FakeRuntime
from tests.support_deploy import Driver
from tests.support_endpoints import load_data, ready_model, spec_for

GATEWAY = "fleet-gateway"
SIZE = "local-cpu"


def big_engine(replicas: int) -> FakeEngine:
    """A fake engine with room for so many replicas."""
    engine = FakeEngine()
    engine.nodes = [NodeFacts("local", 4 * replicas, 2**33 * replicas)]
    return engine


def serving(actor: Actor, runtime: FakeRuntime, count: int, replicas: int = 3) -> list[Endpoint]:
    """`count` ACTIVE endpoints of the actor's project, their containers in the fake engine, their routes applied."""
    load_data()
    discovery.refresh(runtime)
    first = _deployed(actor, runtime, replicas)
    copies = [_copy(first, number) for number in range(2, count + 1)]
    Endpoint.objects.bulk_create(copies)
    revisions = Revision.objects.bulk_create(_revision(first, one) for one in copies)
    for endpoint, revision in zip(copies, revisions, strict=True):
        endpoint.revision = endpoint.stable_revision = revision
    Endpoint.objects.bulk_update(copies, ["revision", "stable_revision"], batch_size=400)
    rows = list(first.replicas.all())
    pairs = [(row, _replica(row, one)) for one in copies for row in rows]
    Replica.objects.bulk_create([new for _, new in pairs], batch_size=400)
    for number, (old, new) in enumerate(pairs):
        _run(runtime.engine, old, new, number)
    Replica.objects.bulk_update([new for _, new in pairs], ["host", "port"], batch_size=400)
    polled(runtime)
    return list(Endpoint.objects.filter(project=actor.project))


def polled(_: FakeRuntime | None = None) -> str:
    """A gateway takes the present snapshot and says so; its version."""
    gateway_feed.cluster().invalidate()
    given = gateway_feed.poll(GATEWAY, Report(counted=True, streams={}))
    assert given is not None
    gateway_feed.poll(GATEWAY, Report(etag=given.version, applied=given.version, counted=True, streams={}))
    return given.version


def _deployed(actor: Actor, runtime: FakeRuntime, replicas: int) -> Endpoint:
    real, probe.healthy = probe.healthy, lambda urls: frozenset(urls)
    try:
        model = ready_model(actor.project, name="fleet")
        spec = spec_for(
            model, name="fleet-0001", min_replicas=replicas, max_replicas=replicas, instance_type=SIZE
        )
        endpoint = services.create_endpoint(actor=actor, spec=spec)
        return Driver(runtime).to(endpoint, "ACTIVE")
    finally:
        probe.healthy = real


def _copy(first: Endpoint, number: int) -> Endpoint:
    values = {field.attname: getattr(first, field.attname) for field in Endpoint._meta.concrete_fields}
    changed = {
        "id": new_endpoint_id(),
        "name": f"fleet-{number:04}",
        "revision_id": None,
        "stable_revision_id": None,
    }
    return Endpoint(**{**values, **changed})


def _revision(first: Endpoint, endpoint: Endpoint) -> Revision:
    assert first.revision is not None
    values = {
        field.attname: getattr(first.revision, field.attname) for field in Revision._meta.concrete_fields
    }
    return Revision(**{**values, "id": None, "endpoint_id": endpoint.id})


def _replica(row: Replica, endpoint: Endpoint) -> Replica:
    values = {field.attname: getattr(row, field.attname) for field in Replica._meta.concrete_fields}
    assert endpoint.revision is not None
    changed = {
        "id": uuid4(),
        "endpoint_id": endpoint.id,
        "revision_id": endpoint.revision.pk,
        "name": row.name.replace(row.endpoint_id, endpoint.id),
    }
    return Replica(**{**values, **changed})


def _run(engine: FakeEngine, old: Replica, new: Replica, number: int) -> None:
    """The copy's container, at an address of its own."""
    address = Address(f"127.2.{number // 250}.{number % 250 + 1}", 9)
    new.host, new.port = address.host, address.port
    labels = {
        **engine.containers[old.name].seen.labels,
        LABEL_ENDPOINT: new.endpoint_id,
        LABEL_REPLICA: str(new.id),
    }
    seen = replace(engine.containers[old.name].seen, name=new.name, labels=labels, address=address)
    engine.containers[new.name] = Container(replace(engine.containers[old.name].spec, name=new.name), seen)
