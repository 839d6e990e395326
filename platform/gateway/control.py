"""The conversation between agent and control plane, one poll, one answer: the agent's side, and its headers."""

from __future__ import annotations

import gzip
import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

Json = dict[str, Any]

PATH = "/internal/gateway/snapshot"
_STREAMS_LIMIT = 32 * 1024  # bytes of one header; what does not fit is not known


@dataclass(frozen=True, slots=True)
class Report:
    """What an agent tells with every poll.

    etag      version of the snapshot it was given last, "" if none
    applied   version that Envoy's own statistics show, "" if none
    rejected  why a newer one is not applied, one line, "" if there is nothing to say
    counted   whether this poll carries a count in `streams`
    streams   "host:port" → connections of its Envoy to it, for all addresses outside `applied`'s clusters; None: it
              cannot count them
    gone      Envoy was stopped, this is the last poll
    """

    etag: str = ""
    applied: str = ""
    rejected: str = ""
    counted: bool = False
    streams: Mapping[str, int] | None = None
    gone: bool = False

    def headers(self) -> dict[str, str]:
        """As the agent sends it."""
        found = {"X-Berth-Applied": self.applied}
        if self.etag:
            found["If-None-Match"] = f'"{self.etag}"'
        if self.rejected:
            found["X-Berth-Rejected"] = _header_safe(self.rejected)
        if self.counted:
            text = json.dumps(self.streams, separators=(",", ":"))
            found["X-Berth-Streams"] = text if len(text) < _STREAMS_LIMIT else "null"
        if self.gone:
            found["X-Berth-Gone"] = "1"
        return found

    @classmethod
    def of(cls, headers: Mapping[str, str]) -> Report:
        """As the control plane reads it. Raises ValueError."""
        counts = headers.get("X-Berth-Streams")
        streams = json.loads(counts) if counts else None
        if streams is not None:
            if not isinstance(streams, dict):
                raise ValueError("X-Berth-Streams is no object")
            streams = {str(address): int(count) for address, count in streams.items()}
        return cls(
            etag=headers.get("If-None-Match", "").strip('"')[:64],
            applied=headers.get("X-Berth-Applied", "")[:64],
            rejected=headers.get("X-Berth-Rejected", "")[:500],
            counted=counts is not None,
            streams=streams,
            gone="X-Berth-Gone" in headers,
        )


@dataclass(frozen=True, slots=True)
class Fetched:
    """A new snapshot, as it came: not checked."""

    version: str
    resources: dict[str, Json]


class ControlAway(Exception):
    """The control plane gave no usable answer; what is served stays as it is."""


class ControlRefused(ControlAway):
    """The control plane answered that it does not take this gateway's token."""


class Control:
    """Not thread-safe: one connection, kept open between polls."""

    def __init__(self, url: str, token_file: Path, gateway_id: str, timeout: float = 5.0) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"--control must be an http(s) URL, not {url!r}")
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection = kind(parts.hostname, parts.port, timeout=timeout)
        self._path = parts.path.rstrip("/") + PATH
        self._token_file = token_file
        self._gateway_id = gateway_id

    def poll(self, report: Report) -> Fetched | None:
        """The control plane's snapshot, or None if `report.etag` is still it. Raises ControlAway."""
        status, body = self._request(report)
        if status == 304:
            return None
        if status in (401, 403):
            raise ControlRefused(f"the token in {self._token_file} was refused ({status})")
        if status != 200:
            raise ControlAway(f"answered {status}")
        try:
            document = json.loads(body)
            return Fetched(str(document["version"]), dict(document["resources"]))
        except (ValueError, KeyError, TypeError) as error:
            raise ControlAway(f"answered with something that is no snapshot: {error}") from error

    def _request(self, report: Report) -> tuple[int, bytes]:
        try:
            headers = self._headers(report)
        except OSError as error:
            raise ControlAway(f"the token file cannot be read: {error}") from error
        reused = self._connection.sock is not None
        try:
            return self._exchange(headers)
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            if not reused:
                raise ControlAway(str(error) or type(error).__name__) from error
        try:  # a kept connection may have been closed by the other side just now: once more on a new one
            return self._exchange(headers)
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise ControlAway(str(error) or type(error).__name__) from error

    def _exchange(self, headers: dict[str, str]) -> tuple[int, bytes]:
        self._connection.request("GET", self._path, headers=headers)
        answer = self._connection.getresponse()
        body = answer.read()
        if answer.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        return answer.status, body

    def _headers(self, report: Report) -> dict[str, str]:
        return {
            "Authorization": f"Bearer {self._token_file.read_text().strip()}",
            "X-Berth-Gateway": self._gateway_id,
            "Accept-Encoding": "gzip",
            **report.headers(),
        }


def _header_safe(text: str) -> str:
    return "".join(c if " " <= c <= "~" else "?" for c in " ".join(text.split()))[:500]
