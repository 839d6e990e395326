"""Calls go on while there is no control plane: web, workers, Redis and database are stopped, containers and a gateway
stay. It decides as before, and after its own restart, too, from what lies on its disk."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from tests.support import require
from tests.support_days import Day, day
from tests.support_gateway import Gateway
from tests.support_platform import place
from tests.support_processes import eventually, processes_of
from tests.support_runtimes import clean_up, engine_answers
from tests.support_tokens import Key

pytestmark = [pytest.mark.engine, pytest.mark.redis, pytest.mark.envoy, pytest.mark.timeout(240)]

_IDENTITIES = """
import time as clock
import jwt
from iam.models import ApiKey, Membership, ServiceAccount, User
from iam.oauth import keys, tokens
from iam.oauth.validator import client_for
from iam.actors import actor_for_user
from iam.services import create_api_key, disable_service_account

def account_token(name, role='aiplatform.user', endpoint_ids=None):
    account, _ = create_service_account(actor, name, [role], '')
    account.endpoint_ids = endpoint_ids
    return tokens.issue(client_for(account))

def short_token(seconds):
    claims = tokens.verify(account_token('short')) | {'exp': int(clock.time()) + seconds}
    key = keys.signing_key()
    return jwt.encode(claims, key.private, 'RS256', headers={'kid': key.kid})

def revoked_token():
    account, _ = create_service_account(actor, 'revoked', ['aiplatform.user'], '')
    token = tokens.issue(client_for(account))
    disable_service_account(actor, account)
    return token
"""


@dataclass
class Web:
    """What a `Gateway` wants to know of its control plane."""

    url: str
    token: str
    polls: list[Any] = field(default_factory=list)


@dataclass
class Scene:
    day: Day
    gateway: Gateway
    endpoint: str
    tokens: dict[str, str]

    def call(self, token: str, endpoint: str = "", path: str = "models", **body: Any) -> httpx.Response:
        """One call through the gateway that stays."""
        return httpx.request(
            "POST" if body else "GET",
            f"http://127.0.0.1:{self.gateway.port}/v1/{endpoint or self.endpoint}/v1/{path}",
            headers={"Authorization": f"Bearer {token}"} if token else {},
            json=body or None,
            timeout=30,
            trust_env=False,
        )

    def decisions(self) -> dict[str, tuple[int, str]]:
        """Status and code for every kind of caller."""
        answers = {name: self.call(token) for name, token in self.tokens.items()}
        answers["unknown endpoint"] = self.call(
            self.tokens["good"], "me-00000000-0000-4000-8000-000000000000"
        )
        return {
            name: (answer.status_code, "" if answer.status_code == 200 else answer.json()["error"]["code"])
            for name, answer in answers.items()
        }


TABLE = {
    "good": (200, ""),
    "API key": (200, ""),
    "narrowed to it": (200, ""),
    "narrowed to nothing": (403, "endpoint_not_allowed"),
    "viewer": (403, "permission_denied"),
    "revoked": (401, "revoked_token"),
    "forged": (401, "invalid_token"),
    "none": (401, "missing_token"),
    "unknown endpoint": (404, "endpoint_not_found"),
}


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """A platform with an endpoint on Docker, and a gateway that is not its child."""
    require("docker engine", engine_answers(), "docker ping failed")
    where = place(tmp_path_factory.mktemp("away"), "docker")
    gateway = None
    try:
        with day(where) as today:
            endpoint = today.create("stays")
            today.until(endpoint, "ACTIVE")
            web = Web(where.console, (where.home / "keys" / "gateway.token").read_text().strip())
            gateway = Gateway(web, gateway_id="stays")  # type: ignore[arg-type]
            gateway.start()
            yield Scene(today, gateway, endpoint, _tokens(today, endpoint))
    finally:
        if gateway is not None:
            gateway.close()
        clean_up(where)


def _tokens(today: Day, endpoint: str) -> dict[str, str]:
    hand = today.hand
    hand.do(_IDENTITIES)
    good = hand.do("account_token('good')")
    found = {
        "good": good,
        "API key": hand.do("create_api_key(actor, 'laptop')[1]"),
        "narrowed to it": hand.do(f"account_token('narrowed', endpoint_ids=[{endpoint!r}])"),
        "narrowed to nothing": hand.do("account_token('elsewhere', endpoint_ids=[])"),
        "viewer": hand.do("account_token('viewer', 'aiplatform.viewer')"),
        "revoked": hand.do("revoked_token()"),
        "none": "",
    }
    import jwt

    claims = jwt.decode(good, options={"verify_signature": False})
    header = jwt.get_unverified_header(good)
    return {**found, "forged": jwt.encode(claims, Key("x").private, "RS256", headers={"kid": header["kid"]})}


def test_the_gateway_decides_alike_without_any_control_plane(scene: Scene) -> None:
    where = scene.day.where
    eventually(lambda: _answers(scene) == TABLE, "the gateway knows everything", 40)
    short = scene.day.hand.do("short_token(20)")
    assert scene.call(short).status_code == 200
    scene.day.running.stop(signal.SIGINT, 60)
    scene.day.hand.end()
    eventually(lambda: not processes_of(where.home), "nothing of the control plane runs", 20)
    if not where.database:
        (where.home / "berth.sqlite3").rename(where.home / "berth.away")
    with pytest.raises(httpx.ConnectError):
        httpx.get(where.console, timeout=5, trust_env=False)
    assert _answers(scene) == TABLE
    _serves(scene)
    _restarted(scene)
    assert _answers(scene) == TABLE
    _serves(scene)
    eventually(lambda: scene.call(short).status_code == 401, "a token lives as long as it says", 40)
    assert scene.call(short).json()["error"]["code"] == "expired_token"


def _answers(scene: Scene) -> dict[str, tuple[int, str]]:
    with suppress(httpx.HTTPError):
        return scene.decisions()
    return {}


def _serves(scene: Scene) -> None:
    """The model itself answers, at once and as a stream."""
    asked: dict[str, Any] = {"model": "m", "prompt": "word", "max_tokens": 3}
    answer = scene.call(scene.tokens["good"], path="completions", **asked)
    assert 1 <= answer.json()["usage"]["completion_tokens"] <= 3
    stream = scene.call(scene.tokens["API key"], path="completions", **asked, stream=True)
    assert stream.text.rstrip().endswith("data: [DONE]")


def _restarted(scene: Scene) -> None:
    """Agent and Envoy killed, and started anew while nobody can tell them anything."""
    envoy, agent = scene.gateway.envoy_pid(), scene.gateway.agent
    assert envoy is not None
    assert agent is not None
    agent.kill()
    agent.wait(10)
    os.kill(envoy, signal.SIGKILL)
    scene.gateway.start()
    eventually(lambda: _answers(scene) == TABLE, f"it serves again\n{scene.gateway.output()[-2000:]}", 30)
    assert scene.gateway.envoy_pid() != envoy
    assert scene.gateway.status()["control_plane"] == "away"
    assert json.loads((scene.gateway.home / "xds" / "access.json").read_text())["resources"]
