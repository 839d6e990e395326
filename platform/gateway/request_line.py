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

import re
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple, Protocol

from gateway import log_columns, names
from gateway.log_columns import GAP, NOTHING, TAB

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
_LATEST = 2**35  # seconds since 1970
_REMEMBERED = 4096  # names whose form was looked at already
UNREAD = "unread"
_FAILED = frozenset("1345")  # answers with such statuses used nothing, unless a model server says so
_REFUSALS = (401, 403, 404)


class Request(NamedTuple):
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

    at: int
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
    def at(self) -> int: ...
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

    at: int
    endpoint: str
    subject: str
    prompt_tokens: int
    completion_tokens: int


class NoRequestLine(ValueError):
    """Not a line as Envoy writes them."""


def lines_of(log: bytes) -> list[str]:
    """Those of a piece of a log."""
    # Nothing but this ends a line, whatever a path is made of.
    return log.decode("utf-8", "replace").removesuffix("\n").split("\n") if log else []


def parse(line: str) -> Request | None:
    """None for what was no request to an endpoint that exists. Raises NoRequestLine."""
    try:
        return _request(*log_columns.split(line))
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise NoRequestLine(f"{type(error).__name__}: {error}") from error


def used_in(log: bytes) -> Iterator[Used]:
    """What the requests in `log` used, in less time than `parse` takes: lines whose first columns are the same count at
    once, and only for an estimate the others are looked at. What cannot be read is left out."""
    lines = lines_of(log)
    heads = [line.partition(GAP)[0] for line in lines]
    others = set()
    for head, times in Counter(heads).items():
        try:
            used = _measured(head.split(TAB), times)
        except ValueError:
            others.add(head)
            continue
        if used is not None:
            yield used
    for line, head in zip(lines, heads, strict=True) if others else ():
        if head in others:
            try:
                request = parse(line)
            except NoRequestLine:
                continue
            if request is not None:
                yield request


def _measured(head: list[str], times: int) -> Tokens | None:
    """Of so many requests alike; None if they used nothing. Raises ValueError where that stands in other columns."""
    ended, endpoint, subject, status, usage = head
    if not _is_endpoint(endpoint):
        return None
    if usage == UNREAD or (usage == NOTHING and status[:1] in _FAILED):
        return None
    prompt, completion, after = usage.split(" ")
    if status[:1] != "2" or after != "0":
        raise ValueError("not the common line")
    used = _number(prompt) * times, _number(completion) * times
    return Tokens(_number(ended, _LATEST), endpoint, _subject(subject), *used)


def _request(
    ended: str,
    endpoint: str,
    subject: str,
    said_status: str,
    usage: str,
    _gap: str,
    _time: str,
    duration: str,
    first_byte: str,
    bytes_in: str,
    bytes_out: str,
    client: str,
    replica: str,
    _attempts: str,
    _flags: str,
    _details: str,
    _request_id: str,
    call: str,
) -> Request | None:
    """Of log_columns.COLUMNS."""
    if not _is_endpoint(endpoint):
        return None
    status, sent, got = _number(said_status, 999), _number(bytes_in), _number(bytes_out)
    refused = status in _REFUSALS and replica == NOTHING
    known = not (refused and status == 401)  # what a token says that was not accepted is a claim
    if replica == NOTHING:  # nobody computed anything
        tokens = _NO_TOKENS
    else:
        tokens = _tokens(usage, status, sent, got, call, held=replica == names.ACTIVATOR)
    return Request(
        _number(ended, _LATEST),
        endpoint,
        _subject(subject) if known else NOBODY,
        status,
        *tokens,
        _number(duration),
        None if first_byte == NOTHING else _number(first_byte),
        sent,
        got,
        _address(client),
        refused,
    )


_NO_TOKENS = (0, 0, False, False)


def _tokens(
    usage: str, status: int, sent: int, got: int, call: str, *, held: bool
) -> tuple[int, int, bool, bool]:
    """Prompt, completion, whether they are estimated, and whether the answer was not read.

    sent, got  bytes of the two bodies
    call       method and path
    held       nobody but the activator was asked
    """
    if usage == UNREAD:
        return 0, 0, False, True
    asked, answered, parts = usage.split(" ") if usage != NOTHING else (NOTHING, NOTHING, "")
    after = _number(parts or "0")  # parts of a stream that were sent since the model server counted last
    prompt = -(-sent // BYTES_PER_TOKEN) if asked == NOTHING else _number(asked)
    if asked != NOTHING or answered != NOTHING:
        completion = 0 if answered == NOTHING else _number(answered)
        return prompt, completion + after, after > 0 or asked == NOTHING, False
    if status and not 200 <= status < 300:
        return _NO_TOKENS
    if held and not after and (parts or not status):
        return _NO_TOKENS
    if parts:
        return prompt, after, True, False
    method, _, path = call.partition(" ")
    found = _USES_TOKENS.search(path) if method == "POST" else None
    if found is None:
        return _NO_TOKENS
    return prompt, got // BYTES_PER_TOKEN if found[1] and status else 0, True, False


def _number(text: str, most: int = _MOST) -> int:
    number = int(text)
    if not 0 <= number <= most:
        raise ValueError(f"{number} of something")
    return number


@lru_cache(_REMEMBERED)
def _is_endpoint(name: str) -> bool:
    return _ENDPOINT.fullmatch(name) is not None


@lru_cache(_REMEMBERED)
def _subject(name: str) -> str:
    return name if name != NOTHING and _NAME.fullmatch(name) else NOBODY


@lru_cache(_REMEMBERED)
def _address(text: str) -> str:
    return text if _ADDRESS.fullmatch(text) else ""
