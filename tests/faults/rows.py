"""The platform's rows, read with SQL of our own."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LIVE = ("waiting", "starting", "ready", "draining")


@dataclass(frozen=True, slots=True)
class EndpointRow:
    """What the platform believes of one endpoint."""

    id: str
    status: str
    reason: str
    ready: int
    lease: str


@dataclass(frozen=True, slots=True)
class ReplicaRow:
    """What the platform believes of one replica. id: with dashes, as containers' labels have it."""

    id: str
    endpoint: str
    name: str
    state: str
    address: str
    claimed: bool
    gpus: frozenset[str]
    memory: int
    node: str


@dataclass(frozen=True, slots=True)
class Rows:
    """All of it at one moment."""

    endpoints: dict[str, EndpointRow]
    replicas: list[ReplicaRow]
    gpus: dict[str, str]  # uuid → the id of the replica that has it, "" for nobody
    held: list[str]
    memory: dict[str, int]  # node → bytes there are
    loose: list[str]  # rows whose endpoint is gone


def read(database: Path) -> Rows:
    """One consistent look."""
    with _reading(database) as rows:
        endpoints = {
            row[0]: EndpointRow(*row)
            for row in rows.execute(
                "SELECT id, status, reason_code, ready_replicas, lease_token FROM endpoints_endpoint"
            )
        }
        replicas = [_replica(row) for row in rows.execute(_REPLICAS)]
        gpus = {
            uuid: _dashed(owner) for uuid, owner in rows.execute("SELECT uuid, replica_id FROM endpoints_gpu")
        }
        held = [
            f"{host}:{port} of {replica}"
            for host, port, replica in rows.execute("SELECT host, port, replica FROM endpoints_heldaddress")
        ]
        memory = {
            name: int(set_gib * 1024**3) if set_gib is not None else found
            for name, found, set_gib in rows.execute(
                "SELECT name, memory_bytes, memory_gib_set FROM endpoints_node"
            )
        }
        loose = [
            f"{table} {count}"
            for table in ("revision", "replica")
            for (count,) in rows.execute(
                f"SELECT count(*) FROM endpoints_{table}"
                " WHERE endpoint_id NOT IN (SELECT id FROM endpoints_endpoint)"
            )
            if count
        ]
        return Rows(endpoints, replicas, gpus, held, memory, loose)


_REPLICAS = (
    "SELECT id, endpoint_id, name, state, host, port, claimed, gpu_ids, memory_bytes, node_id"
    " FROM endpoints_replica"
)


def _replica(row: Any) -> ReplicaRow:
    id_, endpoint, name, state, host, port, claimed, gpus, memory, node = row
    return ReplicaRow(
        *(_dashed(id_), endpoint, name, state, f"{host}:{port}", bool(claimed)),
        frozenset(json.loads(gpus or "[]")),
        *(memory, node or ""),
    )


def model(database: Path, name: str) -> tuple[str, str]:
    """A registered model's status and reason; ("", "") if there is none."""
    with _reading(database) as rows:
        found = rows.execute(
            "SELECT status, reason_code FROM registry_registeredmodel WHERE name = ?", (name,)
        ).fetchone()
    return tuple(found) if found else ("", "")


def weights(database: Path) -> set[str]:
    """The folders of weights that some model names."""
    with _reading(database) as rows:
        return {
            Path(path).name for (path,) in rows.execute("SELECT weights_path FROM registry_registeredmodel")
        }


def events(database: Path, endpoint: str) -> list[str]:
    """Kinds of what happened to it, in order; kept after it is gone."""
    with _reading(database) as rows:
        found = rows.execute("SELECT kind FROM endpoints_event WHERE target = ? ORDER BY id", (endpoint,))
        return [kind for (kind,) in found]


def _dashed(raw: str | None) -> str:
    if not raw:
        return ""
    text = raw.replace("-", "")
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


@contextmanager
def _reading(database: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=20)) as rows:
        rows.execute("BEGIN")
        yield rows
