"""A log as plain text over HTTP: what Django answers, and where log_streams goes on."""

from __future__ import annotations

from django.http import HttpResponse

from endpoints import log_streams, log_tail, replica_logs
from endpoints.models import Replica
from endpoints.models.replica import LIVE_STATES
from iam.actors import Actor


def followed(replica: Replica, tail: int, actor: Actor) -> HttpResponse:
    """The last `tail` lines, then those that come; of a replica that ended, its last ones."""
    if replica.state not in LIVE_STATES:
        return _text(replica_logs.last_lines(replica, tail))
    return log_streams.order(_text(()), follow=replica.name, tail=tail, by=_caller(actor))


def whole(replica: Replica, actor: Actor) -> HttpResponse:
    """As a file: all that is kept of a replica that ended; of one that runs, the tail."""
    path = None if replica.state in LIVE_STATES else replica_logs.kept_file(replica.name)
    if path is None:
        answer = _text(replica_logs.last_lines(replica, log_tail.LINES))
    else:
        answer = log_streams.order(_text(()), file=str(path), by=_caller(actor))
    answer["Content-Disposition"] = f'attachment; filename="{replica.name}.log"'
    return answer


def _text(lines: list[str] | tuple[()]) -> HttpResponse:
    answer = HttpResponse("".join(f"{line}\n" for line in lines), content_type="text/plain; charset=utf-8")
    answer["Cache-Control"] = "no-store"
    return answer


def _caller(actor: Actor) -> str:
    """Who is counted for it."""
    return f"user:{actor.user.pk}" if actor.user else f"account:{actor.account.pk if actor.account else ''}"
