"""What reads answers in C: nothing that a model server sends makes it look where it may not."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from gateway import compiled_reader
from tests.support import require

TRIAL = Path(__file__).resolve().parents[1] / "fixtures" / "usage_reader_trial.c"
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
STRICT = ("-std=c11", "-D_GNU_SOURCE", "-O1", "-g", "-Wall", "-Wextra", "-Werror")


@pytest.fixture(scope="module")
def compiler() -> str:
    found = shutil.which("cc")
    require("a C compiler", found is not None, "there is no cc")
    assert found is not None
    return found


def test_random_answers_in_random_pieces(compiler: str, tmp_path: Path) -> None:
    program = tmp_path / "trial"
    include = f"-I{compiled_reader.SOURCE.parent}"
    subprocess.run([compiler, *STRICT, *SANITIZERS, include, "-o", program, TRIAL], check=True)
    for seed in ("1", "2"):
        done = subprocess.run([program, seed, "500"], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (0, "alike\n"), done.stdout + done.stderr


def test_a_module_is_made_once_and_found_again(compiler: str, tmp_path: Path) -> None:
    name = compiled_reader.module(tmp_path)
    assert name
    made = tmp_path / f"lib{name}.so"
    before = made.stat()
    assert compiled_reader.module(tmp_path) == name
    assert made.stat() == before
    assert [path.name for path in tmp_path.iterdir()] == [made.name]


def test_without_a_compiler_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert compiled_reader.module(tmp_path) == ""


@pytest.mark.parametrize(
    ("source", "left"),
    [
        ("int nothing;\n", [".failed"]),  # Envoy does not load it: known from then on
        ("int nothing", []),
        (
            compiled_reader.SOURCE.read_text().replace('"v0.2.0"', '"v0.1.0"'),
            [".failed"],
        ),  # another interface's
    ],
    ids=["another library", "no C", "another interface"],
)
def test_what_is_no_module_is_none(
    compiler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, left: list[str]
) -> None:
    written = tmp_path / "source.c"
    written.write_text(source)
    monkeypatch.setattr(compiled_reader, "SOURCE", written)
    folder = tmp_path / "made"
    for _ in range(2):
        assert compiled_reader.module(folder) == ""
        assert [path.suffix for path in folder.iterdir()] == left
