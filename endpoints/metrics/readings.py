"""What the ready replicas use and how their model servers do, in figures: one round every five seconds.

Three sources that know nothing of each other: the runtime (CPU, memory), the GPUs' driver, and the model servers. Each
is bounded in time, and what one does not say is None while the others go on.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from endpoints.metrics.beside import Beside
from endpoints.metrics.exposition import mean, total
from endpoints.metrics.page import Target
from endpoints.metrics.rates import Rates, percent, sensible
from endpoints.metrics.sample import ReplicaFigures
from endpoints.metrics.scraping import Scraper
from endpoints.models import Node, Replica, Revision
from endpoints.placement.reading import cpus_of, memory_of
from registry.frameworks import DefinitionError, Metrics, definition_of
from registry.models import Framework
from runtimes.contract import GpuLoad, Runtime, Usage

LIMIT_S = 2.5  # for the runtime and for the driver, while the model servers are asked
# Revisions never change; frameworks and nodes are an admin's to edit.
KNOWN_S = 60.0
MOST_PERCENT = 10_000.0  # a hundred times the limit: whoever says more is wrong
MOST_REQUESTS = 1e6
MOST_TOKENS = 1e9  # a second


@dataclass(frozen=True, slots=True)
class _Said:
    """What a model server said. The tokens are counted since it started; at: steady seconds."""

    at: float
    running: float | None
    queued: float | None
    kv_cache: float | None
    tokens_in: float | None
    tokens_out: float | None


class Readings:
    """What must be kept between rounds: the last reading of every counter, and who did not answer."""

    def __init__(self) -> None:
        self._rates = Rates()
        self._usage: Beside[Mapping[str, Usage]] = Beside("the replicas' CPU and memory")
        self._gpus: Beside[Mapping[str, GpuLoad]] = Beside("the GPUs' loads")
        self._scraper: Scraper[_Said] = Scraper(self._read)
        self._pages: dict[int, Metrics | None] = {}  # by revision
        self._nodes: dict[str, Node] = {}
        self._asked: dict[str, Metrics] = {}  # by replica, of this round
        self._known_until = 0.0

    def take(self, replicas: Iterable[Replica], runtime: Runtime) -> dict[str, ReplicaFigures]:
        """Figures of each of these replicas, by name. Rates (CPU, tokens) need the round before.

        The rows need no related ones with them: what is asked of those is kept here. Raises DatabaseError.
        """
        rows = {row.name: row for row in replicas}
        self._rates.forget_others(rows.keys())
        self._learn(rows.values())
        self._usage.ask(lambda: runtime.usage(rows.keys()))
        with_gpus = any(row.gpu_ids for row in rows.values())
        if with_gpus:
            self._gpus.ask(runtime.gpu_load)
        deadline = time.monotonic() + LIMIT_S
        said = self._scraper.ask(self._targets(rows.values()))
        used = self._usage.answer(deadline - time.monotonic()) or {}
        loads = (self._gpus.answer(deadline - time.monotonic()) or {}) if with_gpus else {}
        return {name: self._figures(row, used.get(name), loads, said.get(name)) for name, row in rows.items()}

    def close(self) -> None:
        """End the threads."""
        self._usage.close()
        self._gpus.close()

    # ---- the sources

    def _figures(
        self, row: Replica, used: Usage | None, loads: Mapping[str, GpuLoad], said: _Said | None
    ) -> ReplicaFigures:
        found = ReplicaFigures()
        if used is not None:
            cores = self._rates.rate(row.name, "cpu", used.cpu_seconds, used.at)
            cpus, memory = self._limits(row)
            found = replace(
                found,
                cpu=percent(cores, cpus, MOST_PERCENT),
                memory=percent(used.memory_bytes, memory, MOST_PERCENT),
            )
        if row.gpu_ids:
            found = replace(
                found,
                gpu=_over_all(row.gpu_ids, loads, lambda load: load.utilisation),
                gpu_memory=_over_all(
                    row.gpu_ids, loads, lambda load: percent(load.memory_used, load.memory_total, 100)
                ),
            )
        if said is not None:
            found = replace(
                found,
                running=said.running,
                queued=said.queued,
                kv_cache=said.kv_cache,
                tokens_in=self._tokens(row.name, "in", said.tokens_in, said.at),
                tokens_out=self._tokens(row.name, "out", said.tokens_out, said.at),
            )
        return found

    def _limits(self, row: Replica) -> tuple[float, float]:
        """CPUs and bytes that it may use; its node's where it has no limit; 0 where nothing is known."""
        node = self._nodes.get(row.node_id or "")
        cpus = row.cpus or (cpus_of(node) if node else 0)
        return cpus, row.memory_bytes or (memory_of(node) if node else 0)

    def _tokens(self, name: str, which: str, count: float | None, at: float) -> float | None:
        return None if count is None else sensible(self._rates.rate(name, which, count, at), MOST_TOKENS)

    def _targets(self, rows: Iterable[Replica]) -> list[Target]:
        self._asked = {}
        targets = []
        for row in rows:
            metrics = self._pages.get(row.revision_id)
            if metrics is None:
                continue
            port = metrics.port or row.port
            if port and _is_its_own(row, port):
                targets.append(Target(row.name, row.host, port, metrics.path))
                self._asked[row.name] = metrics
        return targets

    def _read(self, target: Target, page: bytes, at: float) -> _Said | None:
        """None if nothing on the page is what was asked for."""
        names = self._asked[target.name]
        full = mean(page, names.kv_cache)
        said = _Said(
            at,
            running=sensible(total(page, names.running), MOST_REQUESTS),
            queued=sensible(total(page, names.queued), MOST_REQUESTS),
            kv_cache=percent(full, names.kv_cache_full, 100.5),
            tokens_in=total(page, names.tokens_in),
            tokens_out=total(page, names.tokens_out),
        )
        known = (said.running, said.queued, said.kv_cache, said.tokens_in, said.tokens_out)
        return said if any(value is not None for value in known) else None

    # ---- what the database knows of them

    def _learn(self, rows: Collection[Replica]) -> None:
        """Their revisions' frameworks and their nodes, at most three queries, and mostly none."""
        revisions = {row.revision_id for row in rows}
        if time.monotonic() > self._known_until:
            self._known_until = time.monotonic() + KNOWN_S
            self._pages = {}
            self._nodes = {node.name: node for node in Node.objects.all()}
        missing = revisions - self._pages.keys()
        if not missing:
            return
        frameworks = {row.slug: _metrics_of(row) for row in Framework.objects.all()}
        # Names alone: a revision's variables are encrypted, and nobody needs them here.
        for pk, slug in Revision.objects.filter(pk__in=missing).values_list("pk", "model__framework_id"):
            self._pages[pk] = frameworks.get(slug)


def _metrics_of(framework: Framework) -> Metrics | None:
    try:
        return definition_of(framework).metrics
    except DefinitionError:  # somebody edited it: whoever deploys with it is told
        return None


def _is_its_own(row: Replica, port: int) -> bool:
    """Whether this port of its host is the replica's. Where replicas are reached through this machine's own address,
    one port is theirs, and the others are anybody's."""
    try:
        address = ipaddress.ip_address(row.host)
    except ValueError:
        return False
    return port == row.port or not (address.is_loopback or address.is_unspecified)


def _over_all(
    gpus: Iterable[str], loads: Mapping[str, GpuLoad], figure: Callable[[GpuLoad], float | None]
) -> float | None:
    """The mean over all of a replica's GPUs; None if one of them is not known."""
    values = [sensible(figure(loads[gpu]), 100) if gpu in loads else None for gpu in gpus]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None
