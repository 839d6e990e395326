"""The part of the usage benchmark that runs with the platform's own settings. Prints one line of JSON."""

from __future__ import annotations

import gzip
import json
import random
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import django

django.setup()

from django.conf import settings  # noqa: E402
from django.db.models import Sum  # noqa: E402
from django.test import Client  # noqa: E402

from config.keyfiles import read_or_create  # noqa: E402
from endpoints.models import TokenCount, Usage  # noqa: E402
from gateway.access_logs import Position  # noqa: E402
from gateway.control import USAGE_PATH, Shipment  # noqa: E402
from gateway.shipping import PIECE  # noqa: E402
from iam.models import ServiceAccount  # noqa: E402
from tests.bench.fleet_inside import actor, person  # noqa: E402
from tests.support_access_log import line  # noqa: E402
from tests.support_endpoints import load_data, new_endpoint, ready_model  # noqa: E402

RATE = 20_000  # lines/s of the traffic that is laid out


def lines(count: int, endpoint_ids: list[str], callers: list[str]) -> list[bytes]:
    """Of a gateway at full load: every caller on any endpoint, one answer in fifty an error, one in twenty a stream
    that was broken off."""
    dice = random.Random(4)
    began = datetime.now(UTC) - timedelta(hours=1, minutes=1)
    found = []
    for number in range(count):
        bad = number % 50 == 0
        usage = (
            None if bad else f"- - {number % 90}" if number % 20 == 0 else f"{number % 900} {number % 90} 0"
        )
        fields: dict[str, Any] = {
            "endpoint": dice.choice(endpoint_ids),
            "sub": dice.choice(callers),
            "status": 500 if bad else 200,
            "usage": usage,
            "duration_ms": dice.randrange(5, 9000),
        }
        found.append(line(began + timedelta(seconds=number / RATE), **fields))
    return found


def pieces(text: list[bytes]) -> list[tuple[bytes, int]]:
    """Compressed, with their sizes."""
    found, rest = [], b"".join(text)
    while rest:
        end = len(rest) if len(rest) <= PIECE else rest.rfind(b"\n", 0, PIECE) + 1
        found.append((gzip.compress(rest[:end], 1), end))
        rest = rest[end:]
    return found


def main(count: int, endpoints: int, accounts: int) -> None:
    """Measure: from the request's body to the answer, through web's own view with its middleware."""
    load_data()
    owner = actor(person())
    model = ready_model(owner.project)
    ids = [new_endpoint(owner, model, name=f"e{number}").id for number in range(endpoints)]
    made = [
        ServiceAccount(
            project=owner.project, name=f"a{number}", tokens_per_month=10**9 if number % 2 else None
        )
        for number in range(accounts)
    ]
    ServiceAccount.objects.bulk_create(made)
    text = lines(count, ids, [account.id for account in made])
    client, token = Client(SERVER_NAME="localhost"), read_or_create(settings.BERTH_GATEWAY_TOKEN_FILE)
    position, stored, spent, cpu = Position("1.log"), Position(), 0.0, 0.0
    for body, size in pieces(text):
        headers = Shipment(position, stored).headers()
        headers |= {"Authorization": f"Bearer {token}", "X-Berth-Gateway": "gw-1"}
        kind = headers.pop("Content-Type")
        began, worked = time.perf_counter(), time.process_time()
        answer = client.post(USAGE_PATH, body, content_type=kind, headers=headers)
        spent += time.perf_counter() - began
        cpu += time.process_time() - worked
        assert answer.status_code == 200, answer.content
        position = stored = Position("1.log", position.offset + size)
    counted = Usage.objects.aggregate(total=Sum("requests"))["total"]
    assert counted == count, (counted, count)
    rows = Usage.objects.count() + TokenCount.objects.count()
    print(json.dumps({"lines": count, "wall": spent, "cpu": cpu, "rows": rows}))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
