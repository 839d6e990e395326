"""What a control plane answers to shipments and questions, and what an agent makes of it, be it an older one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from typing import Any

import pytest

from gateway.access_logs import LINK, START, AccessLogs, Piece, Position
from gateway.control import LOG_HEADER, ControlAway, Heard, Shipped, Shipper
from gateway.shipping import Shipping
from tests.support_gateway import ControlPlane

FILE = "00000000000000000001-aa.log"
PIECE = Piece(Position(FILE), Position(FILE, 2), b"1\n")


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    found = ControlPlane()
    yield found
    found.stop()


@pytest.fixture
def shipper(plane: ControlPlane, tmp_path: Path) -> Shipper:
    token = tmp_path / "token"
    token.write_text(plane.token)
    return Shipper(plane.url, token, "gw-1")


def answering(plane: ControlPlane, status: int, **said: Any) -> list[tuple[Message, bytes]]:
    asked: list[tuple[Message, bytes]] = []

    def answer(headers: Message, body: bytes) -> tuple[int, bytes]:
        asked.append((headers, body))
        return status, json.dumps({"file": FILE, "offset": 2, **said}).encode()

    plane.usage = answer
    return asked


def test_counts_are_heard_with_shipments_and_without(plane: ControlPlane, shipper: Shipper) -> None:
    counts = {"elsewhere": {"sa-1": {"2026-11": 5}}, "own": {"sa-2": {"2026-11": 7}}}
    asked = answering(plane, 200, **counts)
    heard = Heard(**counts, up_to=PIECE.end)
    shipped = shipper.ship(PIECE, START)
    assert (shipped.taken, shipped.stored, shipped.heard) == (True, PIECE.end, heard)
    assert shipper.ask(PIECE.begin) == heard
    assert [(headers[LOG_HEADER], body) for headers, body in asked] == [
        (f"{FILE}:0", b"1\n"),
        (f"{FILE}:0", b""),
    ]


def test_an_older_control_plane_tells_of_the_others_alone_and_with_shipments(
    plane: ControlPlane, shipper: Shipper
) -> None:
    answering(plane, 200, elsewhere={"sa-1": {"2026-11": 5}})
    assert shipper.ship(PIECE, START).heard == Heard({"sa-1": {"2026-11": 5}}, {}, PIECE.end)
    answering(plane, 405)
    assert shipper.ask(START) is None


def test_what_is_not_taken_tells_only_where_to_go_on(plane: ControlPlane, shipper: Shipper) -> None:
    answering(plane, 409)
    refused = shipper.ship(PIECE, START)
    assert (refused.taken, refused.stored, refused.heard) == (False, PIECE.end, None)


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (503, {}),
        (200, {"own": []}),
        (200, {"own": {"sa-1": 5}}),
        (200, {"elsewhere": {"sa-1": {"2026-11": "x"}}}),
    ],
)
def test_what_is_no_answer_is_none(plane: ControlPlane, shipper: Shipper, status: int, said: Any) -> None:
    answering(plane, status, **said)
    with pytest.raises(ControlAway):
        shipper.ask(START)
    with pytest.raises(ControlAway):
        shipper.ship(PIECE, START)


class OldPlane:
    """Knows one position of a gateway, whatever became of its home."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.stored = START

    def ship(self, piece: Piece, after: Position) -> Shipped:
        taken = after == self.stored
        if taken:
            self.lines += piece.lines.splitlines()
            self.stored = piece.end
        return Shipped(taken, self.stored)


def test_an_older_control_plane_counts_the_log_of_a_new_home_too(tmp_path: Path) -> None:
    plane, home = OldPlane(), tmp_path / "home"
    for text in (b"1\n", b"2\n"):
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir()
        logs = AccessLogs(home)
        logs.begin()
        (home / LINK).write_bytes(text)
        shipping = Shipping(logs, plane)  # type: ignore[arg-type]
        while shipping.ship():
            pass
    assert plane.lines == [b"1", b"2"]
