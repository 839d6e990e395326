"""The part of the paint benchmark that runs with the platform's own settings. Prints one line of JSON."""

from __future__ import annotations

import json
import sys
import time

import django

django.setup()

from endpoints.models import Endpoint, Event, Status  # noqa: E402
from endpoints.services import pause_endpoint, resume_endpoint  # noqa: E402
from launcher.demo import Demo, first_admin  # noqa: E402
from launcher.terminal import Terminal  # noqa: E402

PATIENCE_S = 60.0


def deploy() -> str:
    """The id of the demo's endpoint, ACTIVE."""
    demo = Demo(Terminal(sys.stderr), time.time(), ())
    demo.fetch_weights()
    demo.import_weights()
    demo.deploy()
    assert demo.made.endpoint is not None
    return demo.made.endpoint.id


def change(endpoint_id: str, times: int) -> dict[int, float]:
    """Pause and resume in turns, each until it has taken effect. event id → when, milliseconds since 1970."""
    endpoint = Endpoint.objects.get(pk=endpoint_id)
    newest = Event.objects.latest("pk").pk
    for number in range(times):
        service, wanted = (
            (resume_endpoint, Status.ACTIVE) if number % 2 else (pause_endpoint, Status.INACTIVE)
        )
        service(actor=first_admin(), endpoint=endpoint)
        _until(endpoint, wanted)
    made = Event.objects.filter(target=endpoint_id, pk__gt=newest)
    return {event.pk: event.at.timestamp() * 1000 for event in made}


def _until(endpoint: Endpoint, status: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while endpoint.status != status:
        assert time.monotonic() < deadline, f"{endpoint.status} instead of {status}"
        time.sleep(0.05)
        endpoint.refresh_from_db()


if __name__ == "__main__":
    command, *rest = sys.argv[1:]
    print(json.dumps(deploy() if command == "deploy" else change(rest[0], int(rest[1]))))
