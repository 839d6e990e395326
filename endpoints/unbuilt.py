"""A snapshot that cannot be built: who tries keeps the evidence for those who can help, since gateways go on without a
word and nothing that changes reaches them."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from django.conf import settings
from django.db import DatabaseError
from redis.exceptions import RedisError

from config.keyfiles import read_or_create
from gateway.cluster import Cluster
from gateway.secret import activator_secret

log = logging.getLogger(__name__)
_LIMIT = 600  # characters
_NEWS_S = 60.0  # the same is logged so often at most: each gateway tries several times a second

_logged: tuple[str, float] = ("", float("-inf"))


class CannotBuild(Exception):
    """What the database and the key files hold makes no snapshot. Its text is the evidence, without secrets."""


@contextmanager
def noted(cluster: Cluster | None) -> Iterator[None]:
    """Around the building of a snapshot: why it fails is logged, and kept by `cluster`. None: Redis is away.

    Raises CannotBuild; DatabaseError and RedisError as they are.
    """
    try:
        yield
    except RedisError:
        raise
    except Exception as error:  # whatever it is: no change reaches any gateway
        evidence = evidence_of(error)
        _log(evidence, error)
        if cluster is not None:
            _keep(cluster, evidence)
        if isinstance(error, DatabaseError):
            raise
        raise CannotBuild(evidence) from error


def evidence_of(error: Exception) -> str:
    """Its kind, its words, what is said about it and where it arose, in one line without secrets."""
    words = [f"{type(error).__name__}: {error}", *getattr(error, "__notes__", ())]
    text = " ".join(_without_secrets("; ".join(words)).split())
    readable = "".join(c if c.isprintable() else "?" for c in text)
    place = _place(error)
    kept = readable if len(readable) <= _LIMIT else f"{readable[:_LIMIT]}…"
    return f"{kept} ({place})" if place else kept


def _place(error: Exception) -> str:
    """The last line of ours on the way to it."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path.is_relative_to(settings.ROOT) and "site-packages" not in path.parts:
            return f"{path.relative_to(settings.ROOT)}:{frame.lineno}"
    return ""


def _without_secrets(text: str) -> str:
    """Those that are at hand where snapshots are built: the words of an error may quote a value."""
    secrets = [settings.SECRET_KEY]
    try:
        token = read_or_create(settings.BERTH_GATEWAY_TOKEN_FILE)
        secrets += [token, activator_secret(token)]
    except OSError:
        pass  # then nobody has read it
    for secret in filter(None, secrets):
        text = text.replace(secret, "…")
    return text


def _log(evidence: str, error: Exception) -> None:
    global _logged
    told, at = _logged
    now = time.monotonic()
    if evidence != told or now - at >= _NEWS_S:
        _logged = evidence, now
        trace = _without_secrets("".join(traceback.format_exception(error)))
        log.error("the gateways' snapshot cannot be built: %s\n%s", evidence, trace)


def _keep(cluster: Cluster, evidence: str) -> None:
    try:
        cluster.cannot_build(evidence, time.time())
    except RedisError as error:
        log.warning(
            "Redis does not answer (%s): why no snapshot can be built stands in this log alone", error
        )
