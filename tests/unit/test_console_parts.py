"""What the console's pages are made of: fit, timeline, cause, snippets, list queries."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest
from django.utils import timezone

from endpoints.cause_card import cause
from endpoints.deployment import timeline, told_replica
from endpoints.fit import GIB, ModelNeeds, Offer, misfit
from endpoints.models import DeployPhase, Endpoint, PhaseName, Replica, ReplicaState, Status
from endpoints.selectors import ListQuery
from endpoints.snippets import Target, snippets
from endpoints.templatetags.console import size
from endpoints.templatetags.endpoint_list import took
from iam.actors import Actor
from tests.support_endpoints import load_data, new_endpoint

NOW = timezone.now()
CPU = Offer(0, 0, 8)
GPU = Offer(2, 22, 32)


@pytest.mark.parametrize(
    ("needs", "offer", "reason"),
    [
        (ModelNeeds("vLLM", ("gpu",), GIB), CPU, "vLLM needs a GPU"),
        (ModelNeeds("llama.cpp", ("cpu",), GIB), GPU, "llama.cpp does not use GPUs"),
        (ModelNeeds("vLLM", ("gpu",), 20 * GIB), GPU, "needs about 24 GiB of VRAM"),
        (ModelNeeds("llama.cpp", ("cpu",), int(7.5 * GIB)), CPU, "needs about 9.0 GiB of RAM"),
        (ModelNeeds("vLLM", ("gpu",), 15 * GIB), GPU, ""),
        (ModelNeeds("llama.cpp", ("cpu",), 6 * GIB), CPU, ""),
        (ModelNeeds("llama.cpp", ("cpu",), 600 * GIB), Offer(0, 0, 0), ""),  # no limit
        (ModelNeeds("custom", (), 0), GPU, ""),  # nothing known
    ],
)
def test_an_instance_type_that_cannot_hold_the_model_says_why(
    needs: ModelNeeds, offer: Offer, reason: str
) -> None:
    assert misfit(needs, offer) == reason


def test_list_queries_survive_anything_a_browser_sends() -> None:
    query = ListQuery.parse(
        {"sort": "password", "size": "9999", "page": "-3", "status": "<b>", "search": "x" * 500 + "\x00"}
    )
    assert query == ListQuery(search="x" * 100)
    assert query.url_query(sort="-name", page=2) == f"search={'x' * 100}&sort=-name&page=2"
    assert ListQuery().url_query() == ""
    assert ListQuery.parse({"status": "failed"}, region="HCM").narrowed


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (42.4, "42 s"), (99.1, "1 min 39 s"), (7325, "2 h 2 min"), (None, "")],
)
def test_durations(seconds: float | None, words: str) -> None:
    assert took(seconds) == words


def test_sizes() -> None:
    assert [size(n) for n in (0, 1023, 1536, 470_000, 8_120_000_000)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "459 KiB",
        "7.6 GiB",
    ]


def _replica(slot: int, state: str, attempt: int = 1, **fields: object) -> Replica:
    replica = Replica(slot=slot, state=state, attempt=attempt, name=f"r{slot}-{attempt}", **fields)
    replica.created_at = NOW
    return replica


def test_the_timeline_tells_of_the_replica_that_is_still_on_its_way() -> None:
    ready, starting = _replica(1, ReplicaState.READY), _replica(2, ReplicaState.STARTING)
    failed = _replica(1, ReplicaState.FAILED, ended_at=NOW)
    assert told_replica([ready, starting, failed]) is starting
    assert told_replica([failed, ready]) is ready
    assert told_replica([failed]) is failed
    assert told_replica([]) is None


def _phase(name: PhaseName, start: float, end: float | None, **fields: int) -> DeployPhase:
    finished = None if end is None else NOW + timedelta(seconds=end)
    return DeployPhase(name=name, started_at=NOW + timedelta(seconds=start), finished_at=finished, **fields)


def test_a_running_timeline_has_one_step_under_way_and_the_rest_to_come() -> None:
    phases = [
        _phase(PhaseName.QUEUED, 0, 1),
        _phase(PhaseName.SCHEDULING, 1, 1.5),
        _phase(PhaseName.PULLING, 1.5, None, bytes_done=3, bytes_total=8),
    ]
    told = timeline(Endpoint(requested_at=NOW), _replica(1, ReplicaState.WAITING), phases, {}, NOW)
    states = {step.name: step.state for step in told.steps}
    assert list(states) == list(PhaseName)
    assert [name for name, state in states.items() if state == "now"] == [PhaseName.PULLING]
    assert states[PhaseName.CREATING] == "todo"
    assert told.running
    assert told.total_seconds is None
    assert told.steps[2].bytes_total == 8


def test_a_finished_timeline_leaves_out_the_pull_that_never_was_and_sums_up() -> None:
    names = [name for name in PhaseName if name != PhaseName.PULLING]
    phases = [_phase(name, at, at + 1) for at, name in enumerate(names)]
    told = timeline(Endpoint(requested_at=NOW), _replica(1, ReplicaState.READY), phases, {}, NOW)
    assert [step.name for step in told.steps] == names
    assert {step.state for step in told.steps} == {"done"}
    assert told.total_seconds == len(names) - 1


def test_a_failed_timeline_ends_where_it_failed() -> None:
    ended = NOW + timedelta(seconds=5)
    phases = [_phase(PhaseName.QUEUED, 0, 1), _phase(PhaseName.LOADING, 1, 5)]
    failed = _replica(1, ReplicaState.FAILED, ended_at=ended)
    told = timeline(Endpoint(requested_at=NOW), failed, phases, {}, NOW)
    assert [(step.name, step.state) for step in told.steps] == [("queued", "done"), ("loading", "failed")]


def test_before_there_is_a_replica_it_is_queued_since_the_request() -> None:
    told = timeline(Endpoint(requested_at=NOW), None, [], {}, NOW)
    assert told.steps[0].state == "now"
    assert told.steps[0].started_at == NOW


def test_the_cause_card_carries_the_evidence_of_the_last_failure() -> None:
    endpoint = Endpoint(
        status=Status.FAILED, reason_code="container_exited", reason_params={"exit_code": 137}
    )
    logs = "\n".join(f"line {n}" for n in range(40))
    old = _replica(1, ReplicaState.FAILED, ended_at=NOW - timedelta(hours=1), evidence={"logs": "old"})
    last = _replica(
        1,
        ReplicaState.FAILED,
        2,
        ended_at=NOW,
        evidence={"exit_code": 137, "oom_killed": True, "logs": logs, "error": "x"},
    )
    card = cause(endpoint, [old, last])
    assert card is not None
    assert card.replica is last
    assert card.tone == "bad"
    assert card.log_lines[-1] == "line 39"
    assert len(card.log_lines) == 14
    assert {(fact.label, fact.value) for fact in card.evidence} >= {
        ("Exit code", "137 (SIGKILL)"),
        ("Ended for memory", "yes"),
    }


def test_an_active_endpoint_has_no_card_and_a_deploying_one_a_calm_line() -> None:
    assert cause(Endpoint(status=Status.ACTIVE, reason_code=""), []) is None
    card = cause(Endpoint(status=Status.DEPLOYING, reason_code="starting"), [])
    assert card is not None
    assert card.tone == "info"


ODD = 'it\'s "odd" $(touch /tmp/never) `x` ${y} \\ 名'
TARGETS = [
    Target("http://localhost:1/v1/me-1", "http://localhost:1/token", name, task, private)
    for name in ("tiny", ODD)
    for task in ("llm", "embedding", "other")
    for private in (True, False)
]


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: f"{t.task}-{t.private}-{t.model[:3]}")
def test_snippets_are_programs_whatever_the_model_is_called(target: Target, tmp_path: Path) -> None:
    texts = {snippet.key: snippet.code for snippet in snippets(target)}
    ast.parse(texts["python"])
    subprocess.run(["bash", "-n"], input=texts["curl"], text=True, check=True)
    node = shutil.which("node")
    if node:
        script = tmp_path / "call.mjs"
        script.write_text(texts["javascript"])
        subprocess.run([node, "--check", str(script)], check=True)
    assert ("token" in texts["python"]) is target.private
    for text in texts.values():
        assert target.url in text


@pytest.mark.parametrize("target", [t for t in TARGETS if t.task != "other"], ids=lambda t: t.model[:3])
def test_the_shell_sends_the_model_name_as_it_is(target: Target, tmp_path: Path) -> None:
    # A curl of ours writes down what it was asked to send.
    fake = tmp_path / "curl"
    fake.write_text('#!/usr/bin/env python3\nimport sys\nif "--user" in sys.argv: print(\'{"access_token": "T"}\')\n'
                    f'else: open("{tmp_path}/sent", "w").write(sys.argv[-1])\n')  # fmt: skip
    fake.chmod(0o755)
    code = next(s.code for s in snippets(target) if s.key == "curl")
    subprocess.run(
        ["bash", "-c", code],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "CLIENT_ID": "a", "CLIENT_SECRET": "b"},
        check=True,
    )
    assert json.loads((tmp_path / "sent").read_text())["model"] == target.model


def test_every_icon_that_a_template_names_is_in_the_sprite(db: None, editor_actor: Actor) -> None:
    from launcher.assets import ICONS, ROOT

    load_data()
    new_endpoint(editor_actor)
    named = set()
    for template in (ROOT / "templates").rglob("*.html"):
        text = template.read_text()
        parts = text.split('{% icon "')[1:]
        named |= {part.split('"', 1)[0] for part in parts}
    assert named - set(ICONS) == set()
