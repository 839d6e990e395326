"""The set-up before any package exists: its sentences, and that it knows when there is nothing to do."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from launcher import venv

SOURCE = Path(venv.__file__)
ROOT = SOURCE.parents[2]


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with one lock, and no environment yet."""
    (tmp_path / "locks").mkdir()
    (tmp_path / "locks" / "runtime.txt").write_text("")
    monkeypatch.setattr(venv, "ROOT", tmp_path)
    monkeypatch.setattr(venv, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(venv, "PYTHON", tmp_path / ".venv" / "bin" / "python")
    return tmp_path


def test_an_old_python_gets_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 9, 2))
    with pytest.raises(
        venv.SetupError, match=r"needs Python 3\.11 or newer; .* is 3\.9\. Install python3\.11"
    ):
        venv.check_interpreter()


def test_an_old_python_can_read_it() -> None:
    ast.parse(SOURCE.read_text(), feature_version=(3, 7))


def test_a_set_up_is_made_once_and_again_when_the_lock_changes(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    venv.main("runtime")
    assert "as pinned in locks/runtime.txt" in capsys.readouterr().out
    venv.main("runtime")
    assert capsys.readouterr().out == ""
    (checkout / "locks" / "runtime.txt").write_text("# changed\n")
    venv.main("runtime")
    assert "as pinned" in capsys.readouterr().out


def test_a_broken_environment_is_made_anew(checkout: Path) -> None:
    venv.main("runtime")
    venv.PYTHON.unlink()
    venv.PYTHON.symlink_to(checkout / "no-such-python")
    assert not venv.works(venv.PYTHON)
    venv.main("runtime")
    assert venv.works(venv.PYTHON)


def test_a_package_whose_hash_is_wrong_is_refused_with_pips_words(checkout: Path) -> None:
    (checkout / "locks" / "runtime.txt").write_text(
        "no-such-package-of-berth==1.0 --hash=sha256:" + "0" * 64 + "\n"
    )
    with pytest.raises(venv.SetupError, match="could not be installed; pip's last words"):
        venv.main("runtime")
    assert not (checkout / ".venv" / "berth-runtime.stamp").exists()


def test_make_alone_lists_its_targets() -> None:
    done = subprocess.run(
        ["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert {"demo", "up", "test", "lint", "bench"} <= {line.split()[1] for line in done.stdout.splitlines()}
