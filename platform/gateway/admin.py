"""Envoy's admin interface over its socket file: what it has applied, what it refused, how busy it is.

Source of the statistics' names: envoyproxy.io, "Statistics" of the configuration sources and of ECDS.
"""

from __future__ import annotations

import http.client
import json
import socket
from collections import Counter
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from gateway import bootstrap, names

_HCM = f"http.{bootstrap.STAT_PREFIX}"
_ECDS = "extension_config_discovery.http_filter"
# File → the prefix of the statistics that Envoy keeps about following it.
SUBSCRIPTIONS = {
    names.AT_ONCE: "runtime",
    names.CLUSTERS: "cluster_manager.cds",
    names.ROUTES: f"{_HCM}.rds.{names.ROUTE_CONFIG}",
    names.TOKENS: f"{_ECDS}.{names.TOKEN_FILTER}",
    names.ACCESS: f"{_ECDS}.{names.ACCESS_FILTER}",
    names.BODY_LIMIT: f"{_ECDS}.{names.BODY_LIMIT_FILTER}",
    names.DENIALS: f"{_ECDS}.{names.DENIALS_FILTER}",
}


class AdminError(Exception):
    """Envoy's admin interface gave no usable answer."""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("envoy", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Admin:
    """Talks to the Envoy whose admin socket is `path`. Every method raises AdminError if it gets no answer."""

    def __init__(self, path: str, timeout: float = 3.0) -> None:
        self._path = path
        self._timeout = timeout

    def request(self, method: str, target: str) -> str:
        connection = _UnixConnection(self._path, self._timeout)
        try:
            connection.request(method, target)
            answer = connection.getresponse()
            text = answer.read().decode("utf-8", "replace")
        except (OSError, http.client.HTTPException) as error:
            raise AdminError(f"{method} {target}: {error or type(error).__name__}") from error
        finally:
            connection.close()
        if answer.status != 200:
            raise AdminError(f"{method} {target}: {answer.status} {text.strip()[:200]}")
        return text

    def server_info(self) -> dict[str, Any]:
        try:
            info = json.loads(self.request("GET", "/server_info"))
        except ValueError as error:
            raise AdminError("GET /server_info: no JSON") from error
        return dict(info)

    def is_ready(self) -> bool:
        try:
            return self.request("GET", "/ready").strip() == "LIVE"
        except AdminError:
            return False

    def versions(self) -> dict[str, str]:
        """File → `version_info` of the content that Envoy works with; files it has accepted nothing of are left out."""
        stats = self._stats("version_text", "TextReadouts")
        return {
            file: stats[f"{prefix}.version_text"].strip('"')
            for file, prefix in SUBSCRIPTIONS.items()
            if f"{prefix}.version_text" in stats
        }

    def rejections(self) -> dict[str, int]:
        """File → how often Envoy refused or could not read it since it started."""
        stats = self._stats("(update_rejected|update_failure|config_fail)", "Counters")
        return {
            file: sum(
                int(stats.get(f"{prefix}.{name}", "0"))
                for name in ("update_rejected", "update_failure", "config_fail")
            )
            for file, prefix in SUBSCRIPTIONS.items()
        }

    def assigned(self) -> dict[str, str]:
        """Endpoint → version of the replicas that Envoy works with; of those that have them in a file of their own."""
        return {name: value.strip('"') for name, value in self._of_clusters("version_text", "TextReadouts")}

    def assignments_refused(self) -> dict[str, int]:
        """Endpoint → how often Envoy refused or could not read that file since it started."""
        found: Counter[str] = Counter()
        for name, value in self._of_clusters("update_(rejected|failure)", "Counters"):
            found[name] += int(value)
        return dict(found)

    def _of_clusters(self, name: str, kind: str) -> Iterator[tuple[str, str]]:
        pattern = quote(rf"^cluster\.me-[^.]+\.{name}$", safe="")
        for line in self.request("GET", f"/stats?type={kind}&filter={pattern}").splitlines():
            if ": " in line:
                key, value = line.split(": ", 1)
                yield key.split(".")[1], value

    def active_requests(self) -> int:
        stats = self._stats("downstream_rq_active", "Gauges")
        return int(stats.get(f"{_HCM}.downstream_rq_active", "0"))

    def _stats(self, name: str, kind: str) -> dict[str, str]:
        # Anchored at our few prefixes: thousands of clusters have statistics of their own.
        prefixes = "|".join(p.replace(".", r"\.") for p in (*SUBSCRIPTIONS.values(), _HCM))
        pattern = quote(f"^({prefixes})\\.{name}$", safe="")
        lines = self.request("GET", f"/stats?type={kind}&filter={pattern}").splitlines()
        return dict(line.split(": ", 1) for line in lines if ": " in line)
