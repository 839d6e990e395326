"""Signing keys of both rings turn twice under steady calls on a real gateway, and no call is refused."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import jwt
import pytest

from iam.oauth import key_rotation, keys
from iam.oauth.keys import Ring
from tests.support_gateway import World, endpoint, until
from tests.support_tokens import AUDIENCE, ISSUER

pytestmark = [pytest.mark.envoy, pytest.mark.django_db]

ECHO = "me-00000000-0000-4000-8000-000000000800"
AHEAD = timedelta(seconds=4)  # stands for keys.OVERLAP; names of key files tell whole seconds, so 3 to 4


@pytest.fixture
def world(settings: Any, tmp_path: Path) -> Iterator[World]:
    """A gateway that is told of the keys in a folder, as web tells it: whenever they have changed."""
    settings.BERTH_HOME = tmp_path
    found = World()
    stop = threading.Event()
    told = ""

    def tell() -> None:
        nonlocal told
        while not stop.is_set():
            if (now := keys.merged_jwks()) != told:
                found.plane.publish(tokens=replace(found.plane.targets.tokens, jwks=now))
                told = now
            stop.wait(0.2)

    teller = threading.Thread(target=tell)
    try:
        found.plane.publish(
            endpoint(ECHO, found.replica()),
            tokens=replace(found.plane.targets.tokens, jwks=keys.merged_jwks()),
        )
        found.gateway.ready()
        teller.start()
        yield found
    finally:
        stop.set()
        if teller.ident:
            teller.join(5)
        found.close()


def token(ring: Ring) -> tuple[str, str]:
    """A token as that ring's present key signs it, and the key's id."""
    key = keys.signing_key(ring=ring)
    now = int(time.time())
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "sa-1", "jti": "j", "iat": now, "exp": now + 60}
    claims |= {"access": "p1,aiplatform.user,*,", "grant": "sa-1:1"}
    return jwt.encode(claims, key.private, "RS256", headers={"kid": key.kid}), key.kid


def test_keys_turn_twice_and_no_call_is_refused(world: World, settings: Any) -> None:
    settings.BERTH_TOKEN_LIFETIME_S = 1
    seen: Counter[tuple[Ring, str, int]] = Counter()
    stop = threading.Event()

    def call(ring: Ring) -> None:
        while not stop.is_set():
            signed, kid = token(ring)
            seen[ring, kid, world.gateway.get(f"/v1/{ECHO}/x", signed).status] += 1
            stop.wait(0.01)

    callers = [threading.Thread(target=call, args=(ring,)) for ring in Ring]
    for caller in callers:
        caller.start()
    try:
        for turn in (2, 3):
            for ring in Ring:
                key_rotation.rotate(ring, datetime.now(UTC), AHEAD)
            until(partial(all_sign_with, seen, turn), what="the new keys sign")
        old = token_of_oldest()
        assert world.gateway.get(f"/v1/{ECHO}/x", old).status == 200
        much_later = datetime.now(UTC) + timedelta(days=1)
        for ring in Ring:
            assert len(key_rotation.retire(ring, much_later)) == 2
        until(
            lambda: world.gateway.get(f"/v1/{ECHO}/x", old).status == 401,
            what="the oldest key counts no more",
        )
        before = seen.total()
        until(lambda: seen.total() > before + 10, what="calls go on")
    finally:
        stop.set()
        for caller in callers:
            caller.join(10)
    assert {status for _ring, _kid, status in seen} == {200}


def all_sign_with(seen: Counter[tuple[Ring, str, int]], number: int) -> bool:
    """Whether each ring has signed with so many keys."""
    return all(len(kids(seen, ring)) == number for ring in Ring)


def kids(seen: Counter[tuple[Ring, str, int]], ring: Ring) -> set[str]:
    return {kid for found, kid, _status in list(seen) if found is ring}


def token_of_oldest() -> str:
    key = keys.published_keys()[0]
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "sa-1", "exp": int(time.time()) + 600}
    claims |= {"access": "p1,aiplatform.user,*,", "grant": "sa-1:1"}
    return jwt.encode(claims, key.private, "RS256", headers={"kid": key.kid})
