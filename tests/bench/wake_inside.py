"""The part of the wake benchmark that runs with the platform's own settings. Prints one line of JSON."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import django

django.setup()

import docker  # noqa: E402
import httpx  # noqa: E402

from endpoints import services  # noqa: E402
from endpoints.models import Endpoint, Status  # noqa: E402
from iam.services import create_service_account  # noqa: E402
from launcher.demo import Demo, first_admin  # noqa: E402
from launcher.terminal import Terminal  # noqa: E402
from tests.bench.deploy_inside import bare, until  # noqa: E402

BODY = {"model": "bench", "input": "good morning"}


def sleep(endpoint: Endpoint) -> None:
    """To zero, as the autoscaler does after the idle time, until nothing of it runs."""
    endpoint.refresh_from_db()
    assert services.scale(endpoint, 0)

    def asleep() -> bool:
        endpoint.refresh_from_db()
        left = endpoint.replicas.exclude(state__in=("stopped", "failed")).exists()
        return endpoint.status == Status.ASLEEP and not left

    until(asleep, "ASLEEP")


def first_byte(url: str, headers: dict[str, str]) -> float:
    """Seconds from sending a request to its answer's head."""
    began = time.perf_counter()
    with (
        httpx.Client(timeout=120, trust_env=False) as client,
        client.stream("POST", f"{url}/v1/embeddings", json=BODY, headers=headers) as answer,
    ):
        took = time.perf_counter() - began
        assert answer.status_code == 200, answer.read()
        answer.read()
    return took


async def crowd(url: str, headers: dict[str, str], count: int) -> tuple[int, float]:
    """(answers with 200, seconds until the last one)."""
    began = time.perf_counter()
    limits = httpx.Limits(max_connections=count)
    async with httpx.AsyncClient(timeout=120, limits=limits, trust_env=False) as client:
        asked = (client.post(f"{url}/v1/embeddings", json=BODY, headers=headers) for _ in range(count))
        answers = await asyncio.gather(*asked, return_exceptions=True)
    good = [item for item in answers if isinstance(item, httpx.Response) and item.status_code == 200]
    return len(good), time.perf_counter() - began


def token(account: Any, secret: str) -> str:
    """An access token, as any client gets one."""
    from django.conf import settings

    answer = httpx.post(
        f"{settings.BERTH_PUBLIC_URL}/accounts-api/v2/auth/token",
        auth=(account.client_id, secret),
        json={"grant_type": "client_credentials"},
        timeout=30,
    )
    return str(answer.raise_for_status().json()["access_token"])


def main(rounds: int, count: int) -> None:
    """Import once; then wake and start bare in turns, the first pair dropped; then the crowd."""
    demo = Demo(Terminal(sys.stderr), time.time(), ())
    demo.fetch_weights()
    demo.import_weights()
    assert demo.made.model is not None
    spec = services.EndpointSpec(
        name="bench",
        region="HCM",
        model_id=str(demo.made.model.pk),
        instance_type="local-cpu",
        min_replicas=0,
        max_replicas=2,
        idle_timeout_s=3600,
    )
    admin = first_admin()
    endpoint = services.create_endpoint(actor=admin, spec=spec)
    until(lambda: Endpoint.objects.get(pk=endpoint.pk).status == Status.ACTIVE, "ACTIVE")
    account, secret = create_service_account(admin, "bench", ["aiplatform.user"], "")
    headers = {"Authorization": f"Bearer {token(account, secret)}"}
    engine = docker.from_env()
    ours, alone = [], []
    for number in range(rounds + 1):
        sleep(endpoint)
        ours.append(first_byte(endpoint.url, headers))
        until(lambda: Endpoint.objects.get(pk=endpoint.pk).status == Status.ACTIVE, "ACTIVE")
        replica = endpoint.replicas.get(state="ready")
        alone.append(bare(engine, replica, number))
    sleep(endpoint)
    before = endpoint.replicas.order_by("-created_at").values_list("created_at", flat=True)[0]
    answered, crowd_s = asyncio.run(crowd(endpoint.url, headers, count))
    started = endpoint.replicas.filter(created_at__gt=before).count()
    told = {"ours": ours[1:], "bare": alone[1:], "answered": answered, "started": started, "crowd_s": crowd_s}
    print(json.dumps(told))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
