"""Token limits: what is counted, what is kept, and when who is refused."""

from __future__ import annotations

import contextlib
import json
import random
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from gateway import budgets, denials, names
from gateway.access_logs import START, Position
from gateway.budgets import Budgets, minute_of
from gateway.control import Heard
from gateway.denials import Denial
from gateway.request_line import Request
from gateway.targets import Caller, Limits
from tests.unit.test_gateway_snapshot import ready

NOON = int(datetime(2026, 11, 22, 12, 0, 10, tzinfo=UTC).timestamp())
REQUEST = Request(
    at=NOON,
    endpoint="me-a",
    subject="sa-1",
    status=200,
    prompt_tokens=30,
    completion_tokens=12,
    estimated=False,
    unread=False,
    duration_ms=5,
    first_byte_ms=4,
    bytes_in=1,
    bytes_out=1,
    client="127.0.0.1",
    refused=False,
)
AFTER = Position("00000000000000000001-a.log", 100)


class Clock:
    now: float = NOON

    def __call__(self) -> float:
        return self.now


class Home:
    """A gateway's home, whose agents live one after the other."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = Clock()
        self.limits = denials.limits(
            [Caller("sa-1", Limits(tokens_per_minute=100)), Caller("key-1", Limits(tokens_per_month=1000))],
            [ready("me-a", 1, limits=Limits(tokens_per_month=2000))],
        )

    def agent(self) -> Budgets:
        agent = Budgets(self.path, self.path, self.clock)
        agent.limit(self.limits)
        agent.prepare()
        return agent

    def refusals(self) -> dict[str, str]:
        """What Envoy is told: the table's key → the denial's name."""
        document = json.loads((self.path / names.DENIALS).read_text())
        return {
            key: name for key, name in _verdicts(document["resources"][0]["typed_config"]) if name != "within"
        }


def _verdicts(node: Any, key: str = "") -> list[tuple[str, str]]:
    if isinstance(node, dict):
        if node.get("@type", "").endswith("rbac.v3.Action"):
            return [(key, node["name"])]
        found = []
        for name, value in node.items():
            known = name.startswith(("sa-", "key-", "/v1/"))
            found += _verdicts(value, name if known else "" if name == "on_no_match" else key)
        return found
    return [item for value in node for item in _verdicts(value, key)] if isinstance(node, list) else []


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_who_reaches_a_limit_is_refused_until_the_window_ends(home: Home) -> None:
    agent = home.agent()
    agent.count([REQUEST, REQUEST])
    agent.tick()
    assert home.refusals() == {}
    agent.count([REQUEST])
    agent.tick()
    assert home.refusals() == {"sa-1": "caller:minute:100"}
    assert agent.denied(NOON) == {("sa-1", names.MINUTE)}
    home.clock.now = NOON + 49.9
    agent.tick()
    assert home.refusals() == {"sa-1": "caller:minute:100"}
    home.clock.now = NOON + 50
    agent.tick()
    assert home.refusals() == {}


def test_a_limit_is_reached_with_its_last_token(home: Home) -> None:
    agent = home.agent()
    agent.count([REQUEST._replace(prompt_tokens=99, completion_tokens=0)])
    assert agent.denied(NOON) == frozenset()
    agent.count([REQUEST._replace(prompt_tokens=0, completion_tokens=1)])
    assert agent.denied(NOON) == {("sa-1", names.MINUTE)}


def test_a_month_is_told_of_rather_than_a_minute_and_ends_with_the_month(home: Home) -> None:
    home.limits = denials.limits([Caller("sa-1", Limits(tokens_per_minute=1, tokens_per_month=40))], [])
    agent = home.agent()
    agent.count([REQUEST])
    agent.tick()
    assert home.refusals() == {"sa-1": "caller:month:40"}
    home.clock.now = datetime(2026, 11, 30, 23, 59, 59, tzinfo=UTC).timestamp()
    agent.tick()
    assert home.refusals() == {"sa-1": "caller:month:40"}
    home.clock.now += 1
    agent.tick()
    assert home.refusals() == {}


def test_an_endpoint_counts_all_its_callers_and_those_without_a_name(home: Home) -> None:
    agent = home.agent()
    agent.count([REQUEST._replace(subject=f"sa-{n}", prompt_tokens=400) for n in range(2, 5)])
    agent.count([REQUEST._replace(subject="", prompt_tokens=800)])
    agent.tick()
    path = "/v1/me-a"
    assert home.refusals() == dict.fromkeys((path, path + "/", path + "?"), "endpoint:month:2000")
    assert ("", names.MONTH) not in agent.denied(NOON)


def test_a_request_belongs_to_the_minute_in_which_it_ended(home: Home) -> None:
    agent = home.agent()
    agent.count([REQUEST._replace(at=NOON - 11, prompt_tokens=500)])
    agent.tick()
    assert home.refusals() == {}


def test_counts_and_position_survive_together(home: Home) -> None:
    agent = home.agent()
    agent.count([REQUEST._replace(subject="key-1", prompt_tokens=600)])
    agent.save(AFTER)
    agent.count([REQUEST._replace(subject="key-1", prompt_tokens=600)])  # and is killed
    again = home.agent()
    assert again.position == AFTER
    assert again.denied(NOON) == frozenset()
    again.count([REQUEST._replace(subject="key-1", prompt_tokens=600)])  # the same line
    assert again.denied(NOON) == {("key-1", names.MONTH)}
    again.save(Position(AFTER.file, 200))
    assert home.agent().denied(NOON) == {("key-1", names.MONTH)}
    assert home.refusals() == {"key-1": "caller:month:1000"}


def test_a_month_survives_weeks_in_which_minutes_are_forgotten(home: Home) -> None:
    agent = home.agent()
    agent.count([REQUEST._replace(at=NOON - 21 * 86400, subject="key-1", prompt_tokens=1000)])
    agent.save(AFTER)
    kept = json.loads((home.path / budgets.FILE).read_text())["counts"]
    assert set(kept) == {"2026-11"}
    assert home.agent().denied(NOON) == {("key-1", names.MONTH)}


def test_old_windows_are_forgotten(home: Home) -> None:
    agent = home.agent()
    agent.count([REQUEST])
    home.clock.now = datetime(2027, 2, 1, tzinfo=UTC).timestamp()
    agent.save(AFTER)
    assert json.loads((home.path / budgets.FILE).read_text())["counts"] == {}


def test_what_other_gateways_counted_is_added_and_never_twice(home: Home) -> None:
    agent = home.agent()
    agent.count([REQUEST._replace(subject="key-1", prompt_tokens=300)])
    for _ in range(3):
        agent.hear(Heard({"key-1": {"2026-11": 600, minute_of(NOON): 600}}, {}, START))
    assert agent.denied(NOON) == frozenset()
    agent.hear(Heard({"key-1": {"2026-11": 700}}, {}, START))
    assert agent.denied(NOON) == {("key-1", names.MONTH)}
    agent.save(AFTER)
    assert home.agent().denied(NOON) == {("key-1", names.MONTH)}


# ---- what this gateway itself has counted, as the control plane has stored it

CALL = REQUEST._replace(subject="key-1", prompt_tokens=90, completion_tokens=10)


def of_key(agent: Budgets) -> int:
    return agent._used("key-1", "2026-11")


def at(offset: int, log: str = "a") -> Position:
    """In the present log: a line of it has 100 bytes."""
    return Position(f"00000000000000000001-{log}.log", offset)


def own(tokens: int, up_to: Position) -> Heard:
    return Heard({}, {"key-1": {"2026-11": tokens}}, up_to)


def test_a_home_that_was_lost_is_told_its_own_counts(home: Home) -> None:
    """900 tokens of the month were counted in a log that is gone, and 100 in the new one before anything was heard."""
    agent = home.agent()
    agent.count([CALL])
    agent.save(at(100))
    agent.hear(own(900, START))  # nothing of the new log is shipped
    assert of_key(agent) == 900
    agent.hear(own(1000, at(100)))  # now it is
    assert of_key(agent) == 1000
    agent.tick()
    assert home.refusals() == {"key-1": "caller:month:1000"}
    agent.count([CALL])
    agent.save(at(200))
    agent.hear(own(1000, at(100)))  # the same once more
    assert of_key(agent) == 1100
    assert of_key(home.agent()) == 1100


def test_a_month_that_was_forgotten_while_the_clock_was_ahead_is_told_again(home: Home) -> None:
    agent = home.agent()
    agent.count([CALL] * 4)
    agent.save(at(400))
    home.clock.now = NOON + 40 * 86400
    agent.save(at(500))
    home.clock.now = NOON
    assert of_key(agent) == 0
    agent.hear(own(400, at(400)))
    assert of_key(agent) == 400


def test_nothing_is_taken_before_it_is_counted_here(home: Home) -> None:
    """Shipping is ahead: what it heard holds lines that are about to be counted."""
    agent = home.agent()
    agent.count([CALL])
    agent.save(at(100))
    agent.hear(own(300, at(300)))
    assert of_key(agent) == 100
    agent.count([CALL])
    agent.save(at(200))
    assert of_key(agent) == 200
    agent.count([CALL])
    agent.save(at(300))
    assert of_key(agent) == 300
    agent.hear(own(200, at(200)))
    assert of_key(agent) == 300
    agent.hear(own(900, at(400)))  # and 500 that were counted in a home that was lost
    assert of_key(agent) == 300
    agent.count([CALL])
    agent.save(at(400))
    assert of_key(agent) == 900


def test_what_another_log_holds_says_nothing_of_this_one(home: Home) -> None:
    """The counts survived, the log did not: its last position is later than any in the new one."""
    agent = home.agent()
    agent.count([CALL] * 5)
    agent.save(Position("00000000000000000009-old.log", 500))
    agent.hear(own(700, at(200)))
    assert of_key(agent) == 500
    agent.count([CALL] * 2)
    agent.save(at(200))
    assert of_key(agent) == 700


@pytest.mark.parametrize("seed", range(8))
def test_own_counts_are_never_more_than_was_used_and_all_of_it_in_the_end(home: Home, seed: int) -> None:
    """Counting, shipping and hearing in any order; the agent is killed, the home is lost."""
    dice = random.Random(seed)
    agent, log, written, counted, shipped, used, stored = home.agent(), 0, 0, 0, 0, 0, 0
    told = None
    for step in range(150):
        match dice.choice("wwwccssshhkl") if step < 130 else "csh"[step % 3]:
            case "w":
                written += 1
                used += 100
            case "c" if counted < written:
                more = dice.randint(1, written - counted) if step < 120 else written - counted
                agent.count([CALL] * more)
                counted += more
                agent.save(at(100 * counted, f"{log}"))
            case "s" if shipped < written:
                more = dice.randint(1, written - shipped) if step < 120 else written - shipped
                shipped += more
                stored += 100 * more
                told = own(stored, at(100 * shipped, f"{log}"))
            case "h" if told is not None:
                agent.hear(told)
            case "k":
                agent = home.agent()
            case "l" if dice.random() < 0.2:
                used -= 100 * (written - shipped)  # whoever loses a home loses what nobody else has
                (home.path / budgets.FILE).unlink(missing_ok=True)
                agent, log, written, counted, shipped = home.agent(), log + 1, 0, 0, 0
                told = own(stored, START)
        assert of_key(agent) <= used
    assert of_key(agent) == used == stored


@pytest.mark.parametrize("seed", range(3))
def test_envoy_is_told_of_all_that_are_over_their_limits_whatever_changes(
    home: Home, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tick looks at those alone of whom something new is known."""
    dice = random.Random(seed)
    agent, subjects, full = home.agent(), ["sa-1", "sa-2", "key-1", "me-a"], set[frozenset[Any]]()

    def limits() -> list[dict[str, Any]]:
        callers = [
            Caller(s, Limits(None, dice.choice([None, 90]), dice.choice([None, 500]))) for s in subjects[:3]
        ]
        return denials.limits(callers, [ready("me-a", 1, limits=Limits(None, 200, dice.choice([None, 900])))])

    for _ in range(300):
        home.clock.now += dice.choice([0, 0, 0.2, 7])
        now = int(home.clock.now)
        match dice.choice("ccccehlf"):
            case "c":
                agent.count([REQUEST._replace(at=now, endpoint=dice.choice(["me-a", "me-b"]))])
            case "e":
                agent.count([REQUEST._replace(at=now, subject=dice.choice(["sa-2", "key-1", "sa-9", ""]))])
            case "h":
                said = {dice.choice(subjects): {minute_of(now): dice.randrange(90)}}
                agent.hear(Heard(said, {dice.choice(subjects): {"2026-11": dice.randrange(900)}}, START))
            case "l" if dice.random() < 0.2:
                agent.limit(limits())
            case "f":
                with monkeypatch.context() as broken, contextlib.suppress(OSError):
                    broken.setattr("gateway.denial_file.files.write_json", full_disk)
                    agent.tick()
        agent.tick()
        wanted = agent.denied(home.clock.now)
        assert {(d.subject, d.window) for d in agent.denials._written or ()} == wanted
        full.add(wanted)
    assert len(full) > 5


def full_disk(*_: Any) -> None:
    raise OSError("No space left on device")


def test_a_raised_limit_lets_pass_at_once(home: Home) -> None:
    agent = home.agent()
    agent.count([REQUEST] * 3)
    agent.tick()
    agent.limit(denials.limits([Caller("sa-1", Limits(tokens_per_minute=1000))], []))
    agent.tick()
    assert home.refusals() == {}


def test_an_agent_without_a_snapshot_leaves_an_envoys_denials_alone(home: Home) -> None:
    first = home.agent()
    first.count([REQUEST] * 3)
    first.tick()
    blind = Budgets(home.path, home.path, home.clock)
    blind.prepare()
    blind.tick()
    assert home.refusals() == {"sa-1": "caller:minute:100"}


def test_a_damaged_file_is_counted_anew(home: Home) -> None:
    agent = home.agent()
    agent.count([REQUEST])
    agent.save(AFTER)
    for damage in ("{", "[]", '{"file": 1}', '{"file": "a", "offset": 1, "counts": {"2026-11": 3}}'):
        (home.path / budgets.FILE).write_text(damage)
        assert home.agent().position == START


def test_nothing_is_written_where_nothing_changed(home: Home) -> None:
    agent = home.agent()
    before = (home.path / names.DENIALS).stat().st_ino
    agent.count([REQUEST])
    agent.tick()
    assert (home.path / names.DENIALS).stat().st_ino == before


def test_a_filter_for_nobody_asks_nothing() -> None:
    assert "matcher" not in denials.extension(())["typed_config"]
    assert "matcher" in denials.extension([Denial("sa-1", names.CALLER, names.MINUTE, 5)])["typed_config"]
