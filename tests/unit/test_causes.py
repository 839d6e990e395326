"""Each cause from what the failure really said. tests/fixtures/causes holds outputs of real failures, with the command
that made them, and for what can't be made on a machine without GPUs the texts of the programs' own sources."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from endpoints.causes import Facts, diagnose, early_hint, rules
from endpoints.errors import WORDS, describe
from endpoints.reconciler.evidence import BYTES
from runtimes.contract import Listener

FOLDER = Path(__file__).parents[1] / "fixtures" / "causes"


@dataclass(frozen=True)
class Sample:
    """One failure as it was seen."""

    name: str
    seen: bool
    expects: str
    facts: Facts


def sample(path: Path) -> Sample:
    """A fixture: a head of `# name: value` lines, an empty one, the last log lines."""
    head, _, body = path.read_text().partition("\n\n")
    values = dict(re.findall(r"^# ([\w ]+?): ?(.*)$", head, re.MULTILINE))
    return Sample(
        path.stem,
        "made by" in values,
        values["expects"],
        Facts(values["of"], port=8080, path="/health", logs=body, error=values["error"]),
    )


SAMPLES = [sample(path) for path in sorted(FOLDER.glob("*.txt"))]


@pytest.mark.parametrize("case", SAMPLES, ids=lambda case: case.name)
def test_a_failure_is_told_by_its_own_words(case: Sample) -> None:
    found = diagnose(case.facts)
    assert found.code == case.expects
    reason = describe(
        found.code, {**found.params, "exit_code": 1, "port": 8080, "memory": "4 GiB", "image": "x"}
    )
    assert "?" not in reason.message, reason.message
    assert reason.action


def test_every_rule_is_hit_by_a_sample_and_says_truly_whether_it_was_seen_live() -> None:
    for rule in rules():
        hit = [
            case
            for case in SAMPLES
            if rule.match(case.facts.code, case.facts.logs, case.facts.error) is not None
        ]
        assert hit, f"no sample for {rule.code}: {rule.pattern.pattern}"
        assert rule.seen == any(case.seen for case in hit), f"{rule.code}: {rule.pattern.pattern}"
        assert rule.code in WORDS


def test_numbers_come_out_of_the_texts() -> None:
    by_name = {case.name: diagnose(case.facts).params for case in SAMPLES}
    assert by_name["unseen_vllm_context"] == {"asked": 40960, "fits": 32768}
    assert by_name["unseen_vllm_context_v0"] == {"asked": 32768, "fits": 27296}
    assert by_name["unseen_vllm_context_beyond_model"] == {"asked": 65536, "fits": 32768}
    assert by_name["kv_cpu_mid"] == {"asked": 1048576, "fits": 2048}
    assert by_name["model_missing"] == {"file": "/models/nowhere.gguf"}
    assert by_name["mount_missing"] == {"file": "/srv/weights/gone"}
    assert by_name["port_llama"] == {"address": "0.0.0.0:8080"}
    assert by_name["unseen_node_port"] == {"address": "3000"}


def silent(*listening: Listener, answer: int | None = None, logs: str = "") -> Facts:
    """A replica that never got healthy."""
    return Facts("health_timeout", 8000, "/health", logs=logs, listening=listening, answer=answer)


def test_a_server_on_another_port_is_named_with_that_port() -> None:
    found = diagnose(silent(Listener(8080), Listener(9090)))
    assert found.code == "wrong_port"
    assert found.params == {"listens": "8080, 9090", "ports": [8080, 9090], "port": 8000}
    message = describe(found.code, found.params).message
    assert "8080, 9090" in message
    assert "8000" in message


def test_a_server_for_itself_alone_is_named_with_its_port() -> None:
    assert diagnose(silent(Listener(8000, loopback=True))).params == {"port": 8000}
    only_elsewhere = diagnose(silent(Listener(8080, loopback=True)))
    assert (only_elsewhere.code, only_elsewhere.params) == ("bound_to_loopback", {"port": 8080})
    # The right port, bound wrongly, explains more than a second port that happens to be open.
    assert diagnose(silent(Listener(8000, loopback=True), Listener(9090))).code == "bound_to_loopback"


def test_a_server_on_the_right_port_is_told_by_its_answer_then_by_its_log() -> None:
    right = Listener(8000)
    assert diagnose(silent(right, answer=404)).params == {"answer": 404, "path": "/health"}
    assert diagnose(silent(right, Listener(9090))).code == "health_timeout"
    assert diagnose(silent(right, answer=503)).code == "unhealthy_answer"
    assert diagnose(silent(right, logs="RuntimeError: CUDA out of memory. Tried")).code == "gpu_out_of_memory"
    assert diagnose(silent()).code == "health_timeout"
    assert diagnose(Facts("health_timeout", 8000, "/health")).code == "health_timeout"


def test_a_hint_is_given_only_after_a_while_and_never_for_what_is_right() -> None:
    elsewhere = (Listener(8080),)
    assert early_hint(elsewhere, 8000, age_s=19) is None
    assert early_hint(elsewhere, 8000, age_s=20) == {
        "code": "wrong_port",
        "listens": "8080",
        "ports": [8080],
        "port": 8000,
    }
    assert early_hint((Listener(8000), Listener(8080)), 8000, age_s=60) is None
    assert early_hint((), 8000, age_s=60) is None
    assert early_hint(None, 8000, age_s=60) is None


def test_a_rule_speaks_only_of_the_findings_it_is_for() -> None:
    """A replica that was stopped by us, or an image that is missing, is not explained by a line of its log."""
    assert diagnose(Facts("image_not_found", logs="Address already in use")).code == "image_not_found"
    assert diagnose(Facts("container_gone", logs="CUDA out of memory")).code == "container_gone"


@pytest.mark.parametrize(
    "piece",
    [
        "a", "1", ".", "a b ", "a:1 ", "[", "error loading model: ", "max seq len (1) ", "max seq len (1), (1 GiB KV ",
        "EADDRINUSE ", "CUDA error: ",
        "Bfloat16 is only supported on GPUs with compute capability of at least 8.0. Your ",
        "Model architectures a", "error loading model: tensor '", "Read-only file system: '", "error: argument ",
    ],
)  # fmt: skip
def test_a_log_that_is_made_to_be_slow_is_read_fast(piece: str) -> None:
    for logs in (piece * (BYTES // len(piece)), f"{piece}\n" * (BYTES // (len(piece) + 1))):
        began = time.process_time()
        diagnose(Facts("container_exited", logs=logs, error=logs))
        assert time.process_time() - began < 0.5
