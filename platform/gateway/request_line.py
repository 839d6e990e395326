"""One line of Envoy's access log as a request, with the tokens that it used. Pure.

What the model server said is taken as it is (gateway.usage_reader). Where it said nothing about a request that used
tokens, they are estimated and the request is marked:

prompt      a quarter of the request body's bytes
completion  the events with content that were sent, for a stream; else a quarter of the answer's bytes, and none
            where the answer is no text (embeddings, scores)

Of a request that was held while its endpoint woke (gateway.clusters.activator) only what a model said counts, its own
count or its words: who left before, or was told that there is nobody to answer, is charged for nothing.

Lines of an answer that was too large to be looked into are marked, too, and have no tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

from gateway import names

BYTES_PER_TOKEN = 4  # of English text, in the common vocabularies
NOBODY = ""  # the subject of a request without a token, or with a bad one
_MOST = 2**40  # tokens, bytes or milliseconds of one request; what is more was not counted but made up

# Paths that use tokens, as the model server sees them: OpenAI's, and those of the servers that we have templates for.
_TEXT = r"completions?|responses|messages|generate|infill"
_NUMBERS = r"embeddings?|embed(?:_all|_sparse)?|rerank(?:ing)?|score|predict|similarity|classify|pooling"
_USES_TOKENS = re.compile(rf"/(?:({_TEXT})|{_NUMBERS})/?$")
_ENDPOINT = re.compile(r"me-[A-Za-z0-9-]{1,37}")
_NAME = re.compile(r"[A-Za-z0-9._-]{1,40}")
_ADDRESS = re.compile(r"[0-9A-Fa-f.:%a-z]{1,45}")
# Where those of the common line stand that count for limits: Envoy writes all fields, in the order of their names.
_FIELDS, _DURATION, _WHERE, _STATUS, _WHO, _WHEN, _USAGE = 17, 5, 6, 13, 14, 15, 16
_REFUSALS = (401, 403, 404)


@dataclass(frozen=True, slots=True)
class Request:
    """A request to an endpoint that has ended.

    at             when, seconds since 1970
    subject        service account or API key, NOBODY if there was no good token
    status         HTTP status, 0: the caller went away before an answer
    estimated      the tokens are an estimate
    unread         the answer was too large to look into
    first_byte_ms  from the request's first byte to the answer's first, None without an answer of a replica
    client         address
    refused        the gateway let it not pass: no token, no role, or no such endpoint for its project
    """

    at: float
    endpoint: str
    subject: str
    status: int
    prompt_tokens: int
    completion_tokens: int
    estimated: bool
    unread: bool
    duration_ms: int
    first_byte_ms: int | None
    bytes_in: int
    bytes_out: int
    client: str
    refused: bool


class Used(Protocol):
    """What counts for limits of a request: what `Request` and `Tokens` have in common."""

    @property
    def at(self) -> float: ...
    @property
    def endpoint(self) -> str: ...
    @property
    def subject(self) -> str: ...
    @property
    def prompt_tokens(self) -> int: ...
    @property
    def completion_tokens(self) -> int: ...


class Tokens(NamedTuple):
    """Those of a request, or of several of one caller in one second."""

    at: float
    endpoint: str
    subject: str
    prompt_tokens: int
    completion_tokens: int


class NoRequestLine(ValueError):
    """Not a line as Envoy writes them."""


def parse(line: bytes) -> Request | None:
    """None for what was no request to an endpoint that exists. Raises NoRequestLine."""
    try:
        said = json.loads(line.decode("utf-8", "replace"))
        endpoint = said["endpoint"]
        if not isinstance(endpoint, str) or not _ENDPOINT.fullmatch(endpoint):
            return None
        return _request(said, endpoint)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise NoRequestLine(f"{type(error).__name__}: {error}") from error


def used_in(lines: bytes) -> Iterator[Used]:
    """What the requests in `lines` used, in less time than `parse` takes. What cannot be read is left out."""
    for line in lines.splitlines():
        try:
            used = _measured(line) or parse(line)
        except ValueError:
            continue
        if used is not None:
            yield used


def _measured(line: bytes) -> Tokens | None:
    """From the common line: a model server said what it used; None from any other one. Raises ValueError.

    What a caller may put into a line, a path, holds no quotation mark without a backslash before it.
    """
    parts = line.split(b',"')
    if len(parts) != _FIELDS or not parts[_STATUS].startswith(b'status":2'):
        return None
    usage, where, who = parts[_USAGE], parts[_WHERE], parts[_WHO]
    if (usage[:8], usage[-4:], where[:14], who[:6]) != (b'usage":"', b' 0"}', b'endpoint":"me-', b'sub":"'):
        return None
    prompt, _, completion = usage[8:-4].partition(b" ")
    if not prompt.isdigit() or not completion.isdigit():
        return None
    ended = _millisecond(parts[_WHEN][7:-1]) + int(parts[_DURATION][13:]) / 1000
    return Tokens(ended, where[11:-1].decode(), who[6:-1].decode(), int(prompt), int(completion))


@lru_cache(maxsize=64)
def _millisecond(text: bytes) -> float:
    return datetime.fromisoformat(text.decode()).timestamp()


def _request(said: Mapping[str, Any], endpoint: str) -> Request:
    status = _number(said["status"], most=999)
    duration = _number(said["duration_ms"])
    first_byte = said["first_byte_ms"]
    refused = status in _REFUSALS and said["replica"] is None
    known = not (refused and status == 401)  # what a token says that was not accepted is a claim
    prompt, completion, estimated, unread = _tokens(said, status)
    return Request(
        at=datetime.fromisoformat(said["time"]).timestamp() + duration / 1000,
        endpoint=endpoint,
        subject=_matching(_NAME, said["sub"]) if known else NOBODY,
        status=status,
        prompt_tokens=prompt,
        completion_tokens=completion,
        estimated=estimated,
        unread=unread,
        duration_ms=duration,
        first_byte_ms=None if first_byte is None else _number(first_byte),
        bytes_in=_number(said["bytes_in"]),
        bytes_out=_number(said["bytes_out"]),
        client=_matching(_ADDRESS, said["client"]),
        refused=refused,
    )


def _tokens(said: Mapping[str, Any], status: int) -> tuple[int, int, bool, bool]:
    """Prompt, completion, whether they are estimated, and whether the answer was not read."""
    if said["replica"] is None:  # nobody computed anything
        return 0, 0, False, False
    read: str = said["usage"] or ""
    if read == "unread":
        return 0, 0, False, True
    asked, answered, parts = read.split(" ") if read else ("-", "-", "")
    after = _number(parts or 0)  # parts of a stream that were sent since the model server counted last
    prompt = -(-_number(said["bytes_in"]) // BYTES_PER_TOKEN) if asked == "-" else _number(asked)
    if asked != "-" or answered != "-":
        completion = 0 if answered == "-" else _number(answered)
        return prompt, completion + after, after > 0 or asked == "-", False
    if status and not 200 <= status < 300:
        return 0, 0, False, False
    if said["replica"] == names.ACTIVATOR and not after and (parts or not status):
        return 0, 0, False, False
    if parts:
        return prompt, after, True, False
    found = _USES_TOKENS.search(str(said["path"])) if said["method"] == "POST" else None
    if found is None:
        return 0, 0, False, False
    completion = _number(said["bytes_out"]) // BYTES_PER_TOKEN if found[1] and status else 0
    return prompt, completion, True, False


def _number(value: Any, most: int = _MOST) -> int:
    number = int(value)
    if not 0 <= number <= most:
        raise ValueError(f"{number} of something")
    return number


def _matching(pattern: re.Pattern[str], value: Any) -> str:
    return value if isinstance(value, str) and pattern.fullmatch(value) else ""
