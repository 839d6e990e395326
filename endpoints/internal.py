"""What gateway agents and activators call. Not part of the outside contract; guarded by a token of its own."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from secrets import compare_digest

from django.conf import settings
from django.core.exceptions import RequestDataTooBig
from django.db import DatabaseError
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_GET, require_http_methods, require_POST
from redis.exceptions import RedisError

from config.keyfiles import read_or_create
from endpoints import activation, gateway_feed
from endpoints.metrics import told
from endpoints.metrics.told import unpack
from endpoints.unbuilt import CannotBuild
from endpoints.usage import ingest, token_counts
from gateway.access_logs import Position
from gateway.control import LOG_HEADER, Report, Shipment

log = logging.getLogger(__name__)
_LOG_LIMIT = 32 * 1024 * 1024  # bytes of one piece of a log, decompressed: agents send one


@require_GET
def snapshot(request: HttpRequest) -> HttpResponse:
    """The snapshot, or 304 if the agent has it. Every poll is also the agent's report (gateway.control)."""
    if not _is_agent(request):
        return HttpResponse("unknown gateway token\n", status=401, content_type="text/plain")
    try:
        report = Report.of(request.headers)
        current = gateway_feed.poll(request.headers.get("X-Berth-Gateway", "")[:100], report)
    except ValueError as error:
        return HttpResponse(f"no report: {error}\n", status=400, content_type="text/plain")
    except (DatabaseError, CannotBuild) as error:
        # The agent keeps what it has and asks again.
        return HttpResponse(f"{type(error).__name__}\n", status=503, content_type="text/plain")
    if current is None:
        return HttpResponse(status=304, headers={"ETag": f'"{report.etag}"'})
    headers = {"ETag": f'"{current.version}"', "Content-Encoding": "gzip", "Cache-Control": "no-store"}
    return HttpResponse(current.body, content_type="application/json", headers=headers)


@csrf_exempt
@require_POST
def activator(request: HttpRequest) -> HttpResponse:
    """What an activator asks while requests wait for endpoints that sleep (endpoints.activation)."""
    if not _is_agent(request):
        return HttpResponse("unknown gateway token\n", status=401, content_type="text/plain")
    try:
        return JsonResponse(activation.answer(json.loads(request.body)))
    except ValueError as error:
        return HttpResponse(f"no question: {error}\n", status=400, content_type="text/plain")
    except (RedisError, DatabaseError) as error:
        # Who waits goes on waiting, and it asks again.
        return HttpResponse(f"{type(error).__name__}\n", status=503, content_type="text/plain")


@csrf_exempt
@require_POST
def figures(request: HttpRequest) -> HttpResponse:
    """What a gateway counted (gateway.figures.Told). The metering loop takes it from Redis; no database here."""
    if not _is_agent(request):
        return HttpResponse("unknown gateway token\n", status=401, content_type="text/plain")
    try:
        told.hear(request.body, request.headers.get("Content-Encoding", ""))
    except RequestDataTooBig:
        return HttpResponse("too long\n", status=413, content_type="text/plain")
    except ValueError as error:
        return HttpResponse(f"no figures: {error}\n", status=400, content_type="text/plain")
    except RedisError:
        # The agent keeps them and tells them again.
        return HttpResponse("Redis does not answer\n", status=503, content_type="text/plain")
    return HttpResponse(status=204)


@csrf_exempt
@require_http_methods(["GET", "POST"])
def usage(request: HttpRequest) -> HttpResponse:
    """POST: a piece of a gateway's access log (gateway.control.Shipment), counted once; 409 with what is counted if it
    does not follow that. Both it and GET, for gateways with nothing to ship, tell of everybody's counts."""
    if not _is_agent(request):
        return HttpResponse("unknown gateway token\n", status=401, content_type="text/plain")
    gateway = request.headers.get("X-Berth-Gateway", "")[:100]
    now = datetime.now(UTC)
    try:
        if not gateway:
            raise ValueError("no gateway is named")
        if request.method == "GET":
            return _counts(gateway, Position.of(request.headers.get(LOG_HEADER, "")), now)
        shipment = Shipment.of(request.headers)
        lines = unpack(request.body, _LOG_LIMIT) if shipment.packed else request.body
        counted = ingest.ingest(gateway, shipment, lines, now)
        token_counts.prune_at_times(now)
        return _counts(gateway, counted, now, counted)
    except ingest.NotNext as refusal:
        return JsonResponse({"file": refusal.stored.file, "offset": refusal.stored.offset}, status=409)
    except RequestDataTooBig:
        return HttpResponse("too long\n", status=413, content_type="text/plain")
    except ValueError as error:
        return HttpResponse(f"no log: {error}\n", status=400, content_type="text/plain")
    except DatabaseError as error:
        # The agent keeps them and ships them again.
        log.warning("usage of %s is not counted yet: %s", gateway, error)
        return HttpResponse(f"{type(error).__name__}\n", status=503, content_type="text/plain")


def _counts(gateway: str, within: Position, now: datetime, counted: Position | None = None) -> HttpResponse:
    """What is counted, and up to where of the log that `within` lies in.

    The position is read after the counts: none of them is of a line behind it. counted: where it must still be, else
    the gateway's own counts are left out (they are of more lines than it knows of).
    """
    elsewhere, own = token_counts.told(gateway, now)
    stored = ingest.stored(gateway, within.log)
    if counted is not None and stored != counted:
        stored, own = counted, {}
    return JsonResponse({"file": stored.file, "offset": stored.offset, "elsewhere": elsewhere, "own": own})


def _is_agent(request: HttpRequest) -> bool:
    token = read_or_create(settings.BERTH_GATEWAY_TOKEN_FILE)
    return compare_digest(request.headers.get("Authorization", "").encode(), f"Bearer {token}".encode())


urlpatterns = [
    path("internal/gateway/snapshot", snapshot, name="gateway-snapshot"),
    path("internal/gateway/figures", figures, name="gateway-figures"),
    path("internal/gateway/usage", usage, name="gateway-usage"),
    path("internal/activator", activator, name="activator"),
]
