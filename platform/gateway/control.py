"""The conversation between agent and control plane: the agent's side of it, and its headers.

One poll, one answer (`Control`); figures, told again until they are heard (`Teller`); and the access log (`Shipper`).
"""

from __future__ import annotations

import gzip
import http.client
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from gateway import rejections
from gateway.access_logs import Piece, Position
from gateway.figures import Told

Json = dict[str, Any]

PATH = "/internal/gateway/snapshot"
FIGURES_PATH = "/internal/gateway/figures"
USAGE_PATH = "/internal/gateway/usage"
LOG_HEADER = "X-Berth-Log"
_HERE = ("localhost", "127.0.0.1", "::1")
_STREAMS_LIMIT = 32 * 1024  # bytes of one header; what does not fit is not known


@dataclass(frozen=True, slots=True)
class Report:
    """What an agent tells with every poll.

    etag      version of the snapshot it was given last, "" if none
    applied   newest version whose routing Envoy works with, by its own statistics, "" if none. Its other files may be
              newer ones: each is taken by itself
    rejected  what of the newest one Envoy does not work with, and why, in one line, "" if there is nothing to say
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
            rejected=headers.get("X-Berth-Rejected", "")[: rejections.LIMIT],
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


class Nonsense(Exception):
    """The control plane answered that it will never take this."""


class Control:
    """Not thread-safe: one connection, kept open between polls."""

    def __init__(self, url: str, token_file: Path, gateway_id: str, timeout: float = 5.0) -> None:
        self._line = _Line(url, token_file, gateway_id, timeout)

    def poll(self, report: Report) -> Fetched | None:
        """The control plane's snapshot, or None if `report.etag` is still it. Raises ControlAway."""
        status, body = self._line.ask("GET", PATH, report.headers())
        if status == 304:
            return None
        if status != 200:
            raise ControlAway(f"answered {status}")
        try:
            document = json.loads(body)
            return Fetched(str(document["version"]), dict(document["resources"]))
        except (ValueError, KeyError, TypeError) as error:
            raise ControlAway(f"answered with something that is no snapshot: {error}") from error


class Teller:
    """Not thread-safe: one connection, kept open."""

    def __init__(self, url: str, token_file: Path, gateway_id: str, timeout: float = 5.0) -> None:
        self._line = _Line(url, token_file, gateway_id, timeout)

    def tell(self, told: Told) -> None:
        """Returns when it was heard. Raises ControlAway if it may or may not have been: tell it again, it counts once;
        Nonsense if telling it again is of no use."""
        body = gzip.compress(json.dumps(told.as_json(), separators=(",", ":")).encode(), 1)
        headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
        status, answer = self._line.ask("POST", FIGURES_PATH, headers, body)
        if status in (400, 413, 415):
            raise Nonsense(f"answered {status}: {answer[:200].decode('utf-8', 'replace').strip()}")
        if status != 204:
            raise ControlAway(f"answered {status}")


class Headers(Protocol):
    """Those of a request, whatever their case."""

    def get(self, name: str, default: str, /) -> str: ...


Tokens = Mapping[str, Mapping[str, int]]  # subject → window → tokens


@dataclass(frozen=True, slots=True)
class Heard:
    """What the control plane has counted by now, of those who have a limit.

    elsewhere  by all other gateways
    own        by this one, from the beginning of each window on, whatever became of its home meanwhile
    up_to      no line of this gateway's present log that lies behind this position is in `own`
    """

    elsewhere: Tokens
    own: Tokens
    up_to: Position


@dataclass(frozen=True, slots=True)
class Shipment:
    """A piece of a gateway's access log, as it travels: lines in the body, the rest in headers.

    after   up to where the sender believes the log to be counted: only then it may be. One in another log says that of
            this one nothing is
    packed  the lines are compressed, as they are but on the way to a control plane on the same machine
    """

    begin: Position
    after: Position
    packed: bool = True

    def headers(self) -> dict[str, str]:
        """As the agent sends it."""
        return {
            "Content-Type": "text/tab-separated-values",
            **({"Content-Encoding": "gzip"} if self.packed else {}),
            LOG_HEADER: str(self.begin),
            "X-Berth-Log-After": str(self.after),
        }

    @classmethod
    def of(cls, headers: Headers) -> Shipment:
        """As the control plane reads it. Raises ValueError."""
        begin, after = (Position.of(headers.get(name, "")) for name in (LOG_HEADER, "X-Berth-Log-After"))
        longest = max(len(begin.file), len(after.file))
        if not begin.file or longest > 100 or min(begin.offset, after.offset) < 0:
            raise ValueError("no position of an access log")
        packing = headers.get("Content-Encoding", "")
        if packing not in ("", "gzip"):
            raise ValueError(f"Content-Encoding {packing[:40]}")
        return cls(begin, after, packing == "gzip")


@dataclass(frozen=True, slots=True)
class Shipped:
    """The control plane's answer. taken: it is counted now. stored: up to where the log is counted. heard: None with
    what was not taken."""

    taken: bool
    stored: Position
    heard: Heard | None = None


class Shipper:
    """Not thread-safe: one connection, kept open."""

    def __init__(self, url: str, token_file: Path, gateway_id: str, timeout: float = 20.0) -> None:
        self._line = _Line(url, token_file, gateway_id, timeout)
        self._packs = urlsplit(url).hostname not in _HERE

    def ship(self, piece: Piece, after: Position) -> Shipped:
        """Raises ControlAway if it may or may not have been counted: ship it again, it counts once."""
        shipment = Shipment(piece.begin, after, self._packs)
        body = gzip.compress(piece.lines, 1) if self._packs else piece.lines
        status, answer = self._line.ask("POST", USAGE_PATH, shipment.headers(), body)
        if status not in (200, 409):
            raise ControlAway(f"answered {status}")
        return _shipped(status == 200, answer)

    def ask(self, log: Position) -> Heard | None:
        """What is counted, with nothing to ship; None by an older control plane, which tells it with shipments only.
        log: a position in it, START where there is none yet. Raises ControlAway."""
        status, answer = self._line.ask("GET", USAGE_PATH, {LOG_HEADER: str(log)})
        if status == 405:
            return None
        if status != 200:
            raise ControlAway(f"answered {status}")
        return _shipped(True, answer).heard


def _shipped(taken: bool, answer: bytes) -> Shipped:
    """Raises ControlAway."""
    try:
        said = json.loads(answer)
        stored = Position(str(said["file"]), int(said["offset"]))
        return Shipped(taken, stored, _heard(said, stored) if taken else None)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ControlAway(f"answered with something that is no position: {error}") from error


def _heard(said: Json, stored: Position) -> Heard:
    elsewhere, own = (
        {
            str(subject): {str(window): int(tokens) for window, tokens in windows.items()}
            for subject, windows in said.get(name, {}).items()
        }
        for name in ("elsewhere", "own")
    )
    return Heard(elsewhere, own, stored)


class _Line:
    """One connection to the control plane, kept open."""

    def __init__(self, url: str, token_file: Path, gateway_id: str, timeout: float) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"--control must be an http(s) URL, not {url!r}")
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection = kind(parts.hostname, parts.port, timeout=timeout)
        self._prefix = parts.path.rstrip("/")
        self._token_file = token_file
        self._gateway_id = gateway_id

    def ask(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> tuple[int, bytes]:
        """Status and body. Raises ControlAway, ControlRefused."""
        try:
            given = {**self._credentials(), **headers}
        except OSError as error:
            raise ControlAway(f"the token file cannot be read: {error}") from error
        status, answer = self._ask(method, self._prefix + path, given, body)
        if status in (401, 403):
            raise ControlRefused(f"the token in {self._token_file} was refused ({status})")
        return status, answer

    def _ask(self, method: str, path: str, headers: dict[str, str], body: bytes | None) -> tuple[int, bytes]:
        reused = self._connection.sock is not None
        try:
            return self._exchange(method, path, headers, body)
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            if not reused:
                raise ControlAway(str(error) or type(error).__name__) from error
        try:  # a kept connection may have been closed by the other side just now: once more on a new one
            return self._exchange(method, path, headers, body)
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise ControlAway(str(error) or type(error).__name__) from error

    def _exchange(
        self, method: str, path: str, headers: dict[str, str], body: bytes | None
    ) -> tuple[int, bytes]:
        self._connection.request(method, path, body=body, headers=headers)
        answer = self._connection.getresponse()
        content = answer.read()
        if answer.headers.get("Content-Encoding") == "gzip":
            try:
                content = gzip.decompress(content)
            except (EOFError, zlib.error) as error:
                raise http.client.HTTPException(f"its answer cannot be read: {error}") from error
        return answer.status, content

    def _credentials(self) -> dict[str, str]:
        return {
            "Authorization": f"Bearer {self._token_file.read_text().strip()}",
            "X-Berth-Gateway": self._gateway_id,
            "Accept-Encoding": "gzip",
        }


def _header_safe(text: str) -> str:
    return "".join(c if " " <= c <= "~" else "?" for c in " ".join(text.split()))[: rejections.LIMIT]
