"""The access log: what a line says, and how its files are followed, shipped and removed."""

from __future__ import annotations

import contextlib
import itertools
import random
import shutil
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from gateway.access_logs import START, AccessLogs, Piece, Position
from gateway.control import ControlAway, Heard, Shipment, Shipped
from gateway.request_line import NOBODY, NoRequestLine, Request, Tokens, lines_of, parse, used_in
from gateway.shipping import Shipping
from tests.support_access_log import ENDPOINT, json_line, line

AT = datetime(2026, 11, 22, 10, 15, 59, 990_000, tzinfo=UTC)


def request(**fields: Any) -> Request:
    found, old = (parse(text(AT, **fields).decode().rstrip("\n")) for text in (line, json_line))
    assert found is not None
    assert found == old
    return found


# ---- a line


def test_a_request_belongs_to_the_moment_at_which_it_ended() -> None:
    found = request(duration_ms=20)
    assert datetime.fromtimestamp(found.at, UTC) == datetime(2026, 11, 22, 10, 16, 0, tzinfo=UTC)
    assert (found.endpoint, found.subject) == (ENDPOINT, "sa-1")
    assert (found.status, found.duration_ms, found.first_byte_ms, found.client) == (200, 20, 15, "192.0.2.7")
    assert (found.bytes_in, found.bytes_out, found.refused) == (100, 300, False)


@pytest.mark.parametrize(
    ("fields", "tokens"),
    [
        # What the model server said. (prompt, completion, estimated, unread)
        ({"usage": "9 2 0"}, (9, 2, False, False)),
        ({"usage": "9 - 0"}, (9, 0, False, False)),
        ({"usage": "- 2 0"}, (25, 2, True, False)),
        # Broken off after the server had said something: what came after that is added.
        ({"usage": "9 2 5"}, (9, 7, True, False)),
        # A stream that said nothing, and one that broke off before its first event.
        ({"usage": "- - 7", "bytes_in": 101}, (26, 7, True, False)),
        ({"usage": "- - 0", "status": 200}, (25, 0, True, False)),
        # An answer that says nothing or could not be read (compressed): by the path.
        ({"usage": None}, (25, 75, True, False)),
        ({"usage": None, "path": "/v1/embeddings"}, (25, 0, True, False)),
        ({"usage": None, "path": "/rerank"}, (25, 0, True, False)),
        ({"usage": None, "path": "/v1/models", "method": "GET"}, (0, 0, False, False)),
        ({"usage": None, "path": "/v2/models/resnet/infer"}, (0, 0, False, False)),
        # The caller went away while the model server worked on the prompt.
        ({"usage": None, "status": 0, "bytes_out": 0}, (25, 0, True, False)),
        ({"usage": "unread"}, (0, 0, False, True)),
        # It was held: who left while it waited, or was told in a stream that had begun that it cannot wake.
        ({"usage": None, "status": 0, "bytes_out": 0, "replica": "activator"}, (0, 0, False, False)),
        ({"usage": "- - 0", "replica": "activator"}, (0, 0, False, False)),
        # It was let through: a model has answered.
        ({"usage": "- - 7", "replica": "activator"}, (25, 7, True, False)),
        ({"usage": "9 2 0", "replica": "activator"}, (9, 2, False, False)),
        ({"usage": None, "replica": "activator"}, (25, 75, True, False)),
        # Nobody computed anything.
        ({"usage": None, "status": 500}, (0, 0, False, False)),
        ({"usage": None, "status": 429, "replica": None}, (0, 0, False, False)),
    ],
)
def test_tokens_are_the_model_servers_or_an_estimate(fields: Any, tokens: Any) -> None:
    found = request(**fields)
    assert (found.prompt_tokens, found.completion_tokens, found.estimated, found.unread) == tokens


def test_a_token_that_was_not_accepted_names_nobody() -> None:
    refused = request(status=401, replica=None, details="rbac", usage=None)
    assert (refused.subject, refused.refused) == (NOBODY, True)
    # That the model server itself asks for a password is its own answer.
    own = request(status=401, usage=None)
    assert (own.subject, own.refused) == ("sa-1", False)


@pytest.mark.parametrize(
    "name", ["unknown-endpoint", "control-plane", "preflight", None, "me-x\u0000y", "me-" + "a" * 50]
)
def test_what_is_no_endpoint_is_no_request(name: str | None) -> None:
    for text in (line, json_line):
        (only,) = lines_of(text(endpoint=name))
        assert parse(only) is None


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "null", '"x"', "\ufffd", '{"endpoint":"me-1"}', '{"time":' + "[" * 100_000),
        *("\t" * 16, "{}", '{"time":null}', line().decode().rpartition("\t")[0]),
        *(
            text(**fields).decode().rstrip("\n")
            for text in (line, json_line)
            for fields in (
                {"status": "x"},
                {"status": 70_000},
                {"duration_ms": -1},
                {"bytes_in": 1e300},
                {"bytes_in": float("nan")},
                {"usage": "-5 1 0"},
                {"usage": "many"},
                {"usage": {"prompt_tokens": 9}},
                {"usage": "1 2 3 4"},
                {"usage": f"- - {2**80}"},
            )
        ),
    ],
)
def test_what_is_no_line_is_refused_and_nothing_else_happens(text: str) -> None:
    with pytest.raises(NoRequestLine):
        parse(text)


def test_times_that_no_calendar_has_are_refused() -> None:
    for text in (line(ended=2**40), line(ended=-1), line(ended="now"), json_line(time="yesterday")):
        with pytest.raises(NoRequestLine):
            parse(text.decode().rstrip("\n"))


def test_what_is_odd_in_a_name_does_not_get_into_the_database() -> None:
    found = request(sub="sa-\u0000", client="nobody knows; it")
    assert (found.subject, found.client) == (NOBODY, "")


COUNTED = ("at", "endpoint", "subject", "prompt_tokens", "completion_tokens")


def test_what_counts_for_limits_is_the_same_in_less_time() -> None:
    quick = (line(AT), line(AT, duration_ms=59_999), line(AT, path="/x\t\t9 9 0\t"), line(AT, sub=None))
    slow = (
        line(AT, usage="- - 7"),
        line(AT, usage="9 2 3"),
        line(AT, usage="9 - 0"),
        line(AT, usage=None),
        line(AT, usage=None, status=0),
        line(AT, usage="9 2 0", status=500),
        json_line(AT),
    )
    assert [type(next(iter(used_in(one)))) for one in quick] == [Tokens] * len(quick)
    assert [type(next(iter(used_in(one)))) for one in slow] == [Request] * len(slow)
    for one in quick + slow:
        (used,), (whole,) = used_in(one), map(parse, lines_of(one))
        assert whole is not None
        assert [getattr(used, name) for name in COUNTED] == [getattr(whole, name) for name in COUNTED]
    nothing = (
        line(AT, endpoint="preflight"),
        line(AT, usage="unread"),
        line(AT, usage=None, status=429, replica=None),
        line(AT, usage=None, status=404),
        line(AT, usage="9 2 0 0"),
        line(AT, usage="9 2 0", status=""),
    )
    assert list(used_in(b"rubbish\n\n" + b"".join(nothing))) == []


@pytest.mark.parametrize("seed", range(5))
def test_lines_together_count_what_each_counts(seed: int) -> None:
    dice = random.Random(seed)
    choices: dict[str, list[Any]] = {
        "duration_ms": [5, 1_000],
        "sub": ["sa-1", "key-2", None],
        "status": [200, 200, 201, 500, 0, 429],
        "usage": ["9 2 0", "9 2 0", "8 3 0", "- - 7", None, "9 - 1", "unread", "x"],
        "replica": ["127.0.0.1:9000", "activator", None],
    }
    some = [{name: dice.choice(values) for name, values in choices.items()} for _ in range(300)]
    for fields in some:
        fields["usage"] = fields["usage"] if fields["replica"] else None  # who was not asked says nothing
    log = b"".join((json_line if dice.random() < 0.1 else line)(AT, **fields) for fields in some)

    def total(found: Iterable[Any]) -> dict[tuple[Any, ...], int]:
        sums: dict[tuple[Any, ...], int] = {}
        for one in found:
            if used := one.prompt_tokens + one.completion_tokens:
                key = (one.at, one.endpoint, one.subject)
                sums[key] = sums.get(key, 0) + used
        return sums

    def each() -> Iterator[Request]:
        for text in lines_of(log):
            with contextlib.suppress(NoRequestLine):
                if found := parse(text):
                    yield found

    assert total(used_in(log)) == total(each()) != {}


def test_nothing_but_a_newline_ends_a_line() -> None:
    """A path that holds what Python takes for one makes no second line."""
    forged = line(AT, sub="sa-2").decode().rstrip("\n")
    for end in "\r\x0b\x0c\x1c\x85\u2028":
        log = line(AT, path=f"/x{end}{forged}")
        assert [found.subject for found in used_in(log)] == ["sa-1"]
        assert [found and found.subject for found in map(parse, lines_of(log))] == ["sa-1"]
    assert [found.endpoint for found in used_in(line(AT, path="/\udcff") + line(AT))] == [ENDPOINT]
    assert lines_of(b"") == []


# ---- the files


@pytest.fixture
def logs(tmp_path: Path) -> AccessLogs:
    return AccessLogs(tmp_path)


def write(tmp_path: Path, text: bytes) -> None:
    """As Envoy does: it opens the link when it starts, and when it is told to."""
    with (tmp_path / "access.log").open("ab") as file:
        file.write(text)


def everything(logs: AccessLogs, position: Position = START, limit: int = 100) -> Iterator[bytes]:
    while (piece := logs.read(position, limit)) is not None:
        assert len(piece.lines) == piece.end.offset - piece.begin.offset
        assert piece.lines.endswith(b"\n")
        yield from piece.lines.splitlines()
        position = piece.end


def test_lines_of_all_files_are_read_once_and_torn_ones_stay_alone(logs: AccessLogs, tmp_path: Path) -> None:
    logs.begin()
    write(tmp_path, b"1\n2\n3 is to")
    assert list(everything(logs)) == [b"1", b"2"]
    write(tmp_path, b"rn\n4, a very long one " + b"x" * 500 + b"\n5 is never finis")
    assert [text[:1] for text in everything(logs, limit=8)] == [b"1", b"2", b"3", b"4"]
    logs.begin()  # another Envoy
    assert not logs.is_open()
    write(tmp_path, b"6\n")
    assert logs.is_open()
    logs.begin()  # one that logs nothing
    write(tmp_path, b"")
    logs.begin()
    write(tmp_path, b"7\n")
    assert [text[:1] for text in everything(logs)] == [b"1", b"2", b"3", b"4", b"6", b"7"]
    names = logs.files()
    assert len(set(names)) == 4
    assert names == sorted(names)


def test_files_keep_their_order_when_the_clock_goes_back(
    logs: AccessLogs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for moment in (5_000, 3_000, 3_000):
        monkeypatch.setattr("gateway.access_logs.time.time_ns", lambda now=moment: now)
        logs.begin()
        write(tmp_path, b"%d\n" % moment)
    assert list(everything(logs)) == [b"5000", b"3000", b"3000"]
    assert len(set(logs.files())) == 3


def test_reading_goes_on_behind_a_file_that_is_gone(logs: AccessLogs, tmp_path: Path) -> None:
    for text in (b"1\n", b"2\n", b"3\n"):
        logs.begin()
        write(tmp_path, text)
    first, second, _ = logs.files()
    logs.remove(second)
    logs.remove(second)
    assert list(everything(logs, Position(first, 2))) == [b"3"]
    assert list(everything(logs, Position(second, 2))) == [b"3"]


# ---- shipping


class ControlPlane:
    """Counts as endpoints.usage.ingest does. fails: what happens to the shipments, one after the other."""

    def __init__(self, *fails: str) -> None:
        self.lines: list[bytes] = []
        self.counted: dict[str, Position] = {}  # by log
        self.fails = iter(fails)

    def ship(self, piece: Piece, after: Position) -> Shipped:
        what = next(self.fails, "")
        if what == "away":
            raise ControlAway("connection refused")
        shipment = Shipment.of(Shipment(piece.begin, after).headers())
        log = shipment.begin.log
        after = shipment.after if shipment.after.log == log else START
        taken = after == self.counted.get(log, START)
        if taken:
            self.lines += piece.lines.splitlines()
            self.counted[log] = piece.end
        if what == "lost":
            raise ControlAway("the answer was lost")
        return Shipped(taken, self.counted.get(log, START), self.ask(piece.begin) if taken else None)

    def ask(self, log: Position) -> Heard:
        return Heard({}, {"all": {"ever": len(self.lines)}}, self.counted.get(log.log, START))


def ship_all(shipping: Shipping) -> None:
    while True:
        try:
            if not shipping.ship():
                return
        except ControlAway:
            continue


@pytest.mark.parametrize("seed", range(20))
def test_every_line_counts_once_whatever_fails(logs: AccessLogs, tmp_path: Path, seed: int) -> None:
    """Answers are lost, the control plane is away, the agent is killed and started again, Envoy as well."""
    dice = random.Random(seed)
    plane = ControlPlane(*dice.choices(["", "away", "lost"], [3, 1, 1], k=40))
    shipping = Shipping(logs, plane)  # type: ignore[arg-type]
    number = itertools.count()
    logs.begin()
    for _ in range(30):
        write(tmp_path, b"".join(b"%d\n" % next(number) for _ in range(dice.randrange(6))))
        if dice.random() < 0.2:
            write(tmp_path, b"torn")
            logs.begin()
        if dice.random() < 0.3:
            shipping = Shipping(logs, plane)  # type: ignore[arg-type]
        if dice.random() < 0.7:
            ship_all(shipping)
    write(tmp_path, b"")
    ship_all(shipping)
    assert plane.lines == [b"%d" % one for one in range(next(number))]


def test_a_database_that_went_back_counts_again_from_where_it_is(logs: AccessLogs, tmp_path: Path) -> None:
    plane = ControlPlane()
    shipping = Shipping(logs, plane)  # type: ignore[arg-type]
    logs.begin()
    write(tmp_path, b"1\n")
    ship_all(shipping)
    saved = (list(plane.lines), dict(plane.counted))
    write(tmp_path, b"2\n")
    ship_all(shipping)
    plane.lines, plane.counted = saved  # a backup is put back
    write(tmp_path, b"3\n")
    ship_all(shipping)
    assert plane.lines == [b"1", b"2", b"3"]


def test_a_shipment_that_comes_late_is_not_counted_again(logs: AccessLogs, tmp_path: Path) -> None:
    plane = ControlPlane()
    shipping = Shipping(logs, plane)  # type: ignore[arg-type]
    logs.begin()
    write(tmp_path, b"1\n")
    late = logs.read(START, 100)
    assert late is not None
    ship_all(shipping)
    logs.begin()
    write(tmp_path, b"2\n")
    ship_all(shipping)
    assert not plane.ship(late, START).taken
    assert plane.lines == [b"1", b"2"]


class Homes:
    """Those of one gateway, which loses them; the clock of its machine is the test's."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = path
        self.clock = 0
        monkeypatch.setattr("gateway.access_logs.time.time_ns", lambda: self.clock)

    def wipe(self, clock: int) -> AccessLogs:
        """A new one. clock: what it shows from now on."""
        shutil.rmtree(self.path)
        self.path.mkdir()
        self.clock = clock
        return self.begin()

    def begin(self) -> AccessLogs:
        logs = AccessLogs(self.path)
        logs.begin()
        write(self.path, b"")
        return logs


@pytest.fixture
def homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Homes:
    return Homes(tmp_path / "home", monkeypatch)


def test_a_home_that_is_lost_loses_no_line_and_doubles_none(homes: Homes) -> None:
    """What was counted last lies in a file that seems to be later than all that come now."""
    plane = ControlPlane("", "lost", "away")
    homes.path.mkdir()
    for number, clock in enumerate((9000, 3000, 1000, 5000)):
        logs = homes.wipe(clock)
        write(homes.path, b"%d\n" % number)
        ship_all(Shipping(logs, plane))  # type: ignore[arg-type]
        homes.clock += 5000
        homes.begin()
        write(homes.path, b"%d and more\n" % number)
        ship_all(Shipping(logs, plane))  # type: ignore[arg-type]
    assert plane.lines == [text for n in range(4) for text in (b"%d" % n, b"%d and more" % n)]
    assert list(everything(logs, Position(f"{9**20:020d}-gone.log", 7))) == [b"3", b"3 and more"]


def test_a_home_that_comes_back_counts_from_where_it_was(homes: Homes, tmp_path: Path) -> None:
    plane = ControlPlane()
    homes.path.mkdir()
    for clock, text in ((9000, b"1\n"), (3000, b"2\n")):
        logs = homes.wipe(clock)
        write(homes.path, text)
        ship_all(Shipping(logs, plane))  # type: ignore[arg-type]
        homes.path.rename(tmp_path / text.decode().strip())
        homes.path.mkdir()
    homes.path.rmdir()
    (tmp_path / "1").rename(homes.path)
    ship_all(Shipping(logs, plane))  # type: ignore[arg-type]
    write(homes.path, b"3\n")
    ship_all(Shipping(logs, plane))  # type: ignore[arg-type]
    assert plane.lines == [b"1", b"2", b"3"]


def test_files_of_several_logs_in_one_home_are_read_in_their_order(homes: Homes) -> None:
    """As those that were begun before logs had names."""
    plane = ControlPlane()
    homes.path.mkdir()
    logs = homes.wipe(1000)
    folder = homes.path / "logs"
    for path in folder.iterdir():
        path.unlink()
    for number in range(4):
        (folder / f"{number:020d}-{'aabb'[number]}.log").write_bytes(b"%d\n" % number)
    ship_all(Shipping(logs, plane))  # type: ignore[arg-type]
    again = Shipping(logs, plane)  # type: ignore[arg-type]
    ship_all(again)
    assert plane.lines == [b"0", b"1", b"2", b"3"]
    assert [name[:20].lstrip("0") for name in logs.left_behind(again.position)] == ["", "1", "2"]
    assert logs.left_behind(again.position, START) == []


def test_who_has_nothing_to_send_asks(logs: AccessLogs, tmp_path: Path) -> None:
    plane = ControlPlane()
    shipping = Shipping(logs, plane, every_s=0.01)  # type: ignore[arg-type]
    assert not logs.files()
    shipping.start()
    try:
        assert shipping.heard.get(timeout=5).up_to == START
        logs.begin()
        write(tmp_path, b"1\n")
        shipping.wake()
        end = Position(logs.files()[0], 2)
        for _ in range(3):  # what was asked before it was written, and with it, and again
            heard = shipping.heard.get(timeout=5)
        assert (heard.up_to, heard.own) == (end, {"all": {"ever": 1}})
    finally:
        shipping.finish(5)
    assert not shipping.is_alive()
