"""Bad days: a whole platform, a hand on its database, and a light load whose failures are counted."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.support_console import HAND
from tests.support_models import tiny_llama
from tests.support_platform import Place, platform
from tests.support_processes import PYTHONPATH, ROOT, Running, eventually

PATIENCE_S = 90.0


class Hand:
    """A process with the platform's own settings that does and reads what it is told."""

    def __init__(self, env: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", HAND],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": PYTHONPATH, **env},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._read()

    def do(self, code: str) -> Any:
        """Run Python; the last expression's value comes back."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(code) + "\n")
        self._process.stdin.flush()
        answer = self._read()
        assert "error" not in answer, answer["error"]
        return answer["value"]

    def _read(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def end(self) -> None:
        """It holds nothing that has to be saved."""
        self._process.kill()
        self._process.wait(10)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


@dataclass
class Day:
    """A running platform with one tiny model, and what a person would do on it."""

    where: Place
    running: Running
    hand: Hand

    def create(self, name: str, **changes: Any) -> str:
        """Ask for an endpoint as the create page does; returns its id."""
        return str(
            self.hand.do(
                "services.create_endpoint(actor=actor, spec=spec_for(RegisteredModel.objects.get(),"
                f" name={name!r}, **{changes!r})).id"
            )
        )

    def delete(self, endpoint: str) -> None:
        """Ask for its end."""
        self.hand.do(f"services.delete_endpoint(actor=actor, endpoint=get({endpoint!r}))")

    def row(self, endpoint: str) -> dict[str, Any] | None:
        """status, reason and words, replicas by state; None once it is gone."""
        found = self.hand.do(f"look({endpoint!r})")
        return dict(found) if found else None

    def until(
        self, endpoint: str, status: str, reason: str = "", timeout_s: float = PATIENCE_S
    ) -> dict[str, Any]:
        """Wait for a status (and a reason's code); fails with what was seen last."""
        last: list[dict[str, Any] | None] = [None]

        def there() -> dict[str, Any] | None:
            last[0] = found = self.row(endpoint)
            right = found is not None and found["status"] == status and reason in ("", found["reason"])
            return found if right else None

        try:
            return eventually(there, f"{status} {reason}", timeout_s)  # type: ignore[return-value]
        except AssertionError as error:
            raise AssertionError(f"{error}; last seen {last[0]}\n{self.running.text[-6000:]}") from None

    def until_gone(self, endpoint: str, timeout_s: float = PATIENCE_S) -> None:
        """Wait until its row is gone."""
        eventually(lambda: self.row(endpoint) is None, f"{endpoint} is gone", timeout_s)

    def events(self, endpoint: str) -> list[str]:
        """What happened to it, in order."""
        code = f"[event.kind for event in reversed(selectors.events_of(get({endpoint!r}), 500))]"
        return list(self.hand.do(code))

    def token(self) -> str:
        """A new service account's access token, which lives for half an hour."""
        account, secret = self.hand.do(
            "(lambda made: (made[0].client_id, made[1]))"
            "(create_service_account(actor, 'load-' + secrets.token_hex(3), ['aiplatform.user'], ''))"
        )
        answer = httpx.post(
            f"{self.where.console}/accounts-api/v2/auth/token",
            auth=(account, secret),
            json={"grant_type": "client_credentials"},
            timeout=30,
        )
        return str(answer.raise_for_status().json()["access_token"])

    def ready(self) -> bool:
        """Whether every part says that it is well."""
        with suppress(httpx.HTTPError):
            return httpx.get(f"{self.where.console}/readyz", timeout=5).status_code == 200
        return False


_PREPARE = """
import secrets
from endpoints import selectors
from endpoints.errors import describe
from iam.services import create_service_account
from launcher.demo import first_admin

def look(pk):
    found = Endpoint.objects.filter(pk=pk).first()
    if found is None:
        return None
    reason = describe(found.reason_code, found.reason_params)
    return {
        "status": found.status, "reason": found.reason_code, "words": reason.message, "action": reason.action,
        "replicas": [(one.state, one.name, one.runtime_id) for one in found.replicas.order_by("created_at")],
    }

actor = first_admin()
if not RegisteredModel.objects.exists():
    ready_model(actor.project, weights_path=WEIGHTS, entry_file="tiny.gguf")
"""


@contextmanager
def day(where: Place, **env: str) -> Iterator[Day]:
    """A platform that is up, with the tiny model, while the block runs. `env` is added to its surroundings."""
    weights = where.home / "weights" / "tiny"
    tiny_llama(weights / "tiny.gguf")
    with platform(where, env=env) as running:
        running.line(r"Berth is up after", 120)
        with hand_on(where, **env) as hand:
            yield Day(where, running, hand)


@contextmanager
def hand_on(where: Place, **env: str) -> Iterator[Hand]:
    """A hand on the platform of that place, whether it runs or not."""
    hand = Hand({**where.env, **env})
    try:
        hand.do(f"WEIGHTS = {str(where.home / 'weights' / 'tiny')!r}")
        hand.do(_PREPARE)
        yield hand
    finally:
        hand.end()


class Load:
    """Ten requests a second through the gateway, each with a time limit; failures are kept with their moment."""

    EVERY_S = 0.1

    def __init__(self, url: str, token: str) -> None:
        self.url, self._headers = url, {"Authorization": f"Bearer {token}"}
        self.sent = 0
        self.failures: list[tuple[float, str]] = []
        self.in_a_row = 0  # answered since the last failure
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        with httpx.Client(headers=self._headers, timeout=10, trust_env=False) as client:
            while not self._stop.wait(self.EVERY_S):
                began = time.monotonic()
                self.sent += 1
                problem = self._problem(client)
                self.in_a_row = 0 if problem else self.in_a_row + 1
                if problem:
                    self.failures.append((began, problem))

    def _problem(self, client: httpx.Client) -> str:
        try:
            status = client.get(self.url).status_code
        except httpx.HTTPError as error:
            return f"{type(error).__name__}: {error}"
        return "" if status == 200 else str(status)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(15)

    def more(self, count: int = 10) -> None:
        """Return when `count` more requests have been sent."""
        aim = self.sent + count
        eventually(lambda: self.sent >= aim, f"{count} more requests", 60)


class EngineDoor:
    """A unix socket before the real engine's: it can be shut, frozen and opened again, and the engine never notices."""

    def __init__(self, path: Path, engine: str = "/var/run/docker.sock") -> None:
        self.path, self._engine = path, engine
        self._listener: socket.socket | None = None
        self._pairs: list[socket.socket] = []
        self._guard = threading.Lock()
        self._flow = threading.Event()
        self._flow.set()

    @property
    def url(self) -> str:
        """For DOCKER_HOST."""
        return f"unix://{self.path}"

    def open(self) -> None:
        """Listen, and pass on what comes."""
        self.path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.path))
        listener.listen(128)
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def shut(self) -> None:
        """As a killed engine: every connection breaks, the socket's file stays and nobody listens."""
        if self._listener is not None:
            with suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        with self._guard:
            pairs, self._pairs = self._pairs, []
        for one in pairs:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def freeze(self) -> None:
        """Connections are taken and nothing is answered."""
        self._flow.clear()

    def thaw(self) -> None:
        """What waited goes on."""
        self._flow.set()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            engine = socket.socket(socket.AF_UNIX)
            try:
                engine.connect(self._engine)
            except OSError:  # the engine itself is away
                client.close()
                engine.close()
                continue
            with self._guard:
                self._pairs += [client, engine]
            for source, sink in ((client, engine), (engine, client)):
                threading.Thread(target=self._pass_on, args=(source, sink), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                self._flow.wait()
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
