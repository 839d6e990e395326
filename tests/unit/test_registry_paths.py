"""Nothing outside the models root is ever read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from registry.errors import ImportFailure, reason
from registry.importing.paths import head_of, list_models, locate, open_beneath


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "a.gguf").write_bytes(b"GGUFinside")
    (tmp_path / "secret").write_bytes(b"outside")
    return folder


def code_of(root: Path, text: str) -> str:
    with pytest.raises(ImportFailure) as caught:
        locate(root, text)
    told = reason(caught.value.code, caught.value.params)
    assert "?" not in told.message
    return caught.value.code


def test_relative_and_absolute_paths_under_the_root_are_found(root: Path) -> None:
    real = (root / "sub" / "a.gguf").resolve()
    assert locate(root, "sub/a.gguf") == locate(root, str(root / "sub" / "a.gguf")) == real
    assert locate(root, " sub/../sub/a.gguf ") == real
    assert locate(root, "sub") == real.parent
    assert head_of(root, real, 4) == b"GGUF"


@pytest.mark.parametrize(
    "text", ["../secret", "sub/../../secret", "/etc/passwd", "..", "/", "sub/../../models-other/x"]
)
def test_paths_that_lead_out_are_refused_and_the_root_is_named(root: Path, text: str) -> None:
    assert code_of(root, text) == "path_outside_root"
    with pytest.raises(ImportFailure) as caught:
        locate(root, text)
    assert str(root) in reason(caught.value.code, caught.value.params).message


@pytest.mark.parametrize("text", ["sub/b.gguf", "", "sub/a.gguf/x", "\0", "a\0b"])
def test_what_is_not_there_is_missing(root: Path, text: str) -> None:
    assert code_of(root, text) in ("path_missing", "path_unreadable")


def test_whether_something_exists_outside_is_not_told(root: Path) -> None:
    assert code_of(root, "../secret") == code_of(root, "../no-such-file")


def test_links_may_lead_anywhere_under_the_root_and_nowhere_else(root: Path, tmp_path: Path) -> None:
    (root / "good").symlink_to("sub/a.gguf")
    (root / "out").symlink_to(tmp_path / "secret")
    (root / "outdir").symlink_to(tmp_path)
    (root / "loop").symlink_to("loop")
    (root / "dangling").symlink_to("nowhere")
    assert locate(root, "good").name == "a.gguf"
    assert code_of(root, "out") == "path_outside_root"
    assert code_of(root, "outdir/secret") == "path_outside_root"
    assert code_of(root, "loop") == "path_unreadable"
    assert code_of(root, "dangling") == "path_missing"


def test_a_root_that_is_itself_a_link_works(root: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(root)
    assert (
        locate(link, "sub/a.gguf")
        == locate(link, str(link / "sub" / "a.gguf"))
        == (root / "sub/a.gguf").resolve()
    )


def test_a_pipe_is_no_model_and_does_not_hang(root: Path) -> None:
    os.mkfifo(root / "pipe")
    assert code_of(root, "pipe") == "path_not_a_file"
    with pytest.raises(ImportFailure), open_beneath(root, root.resolve() / "pipe"):
        pass


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_link_put_there_after_the_check_is_not_followed(root: Path, tmp_path: Path, what: str) -> None:
    real = locate(root, "sub/a.gguf")
    if what == "file":
        real.unlink()
        real.symlink_to(tmp_path / "secret")
    else:
        (root / "sub").rename(root / "moved")
        (tmp_path / "evil").mkdir()
        (tmp_path / "evil" / "a.gguf").write_bytes(b"outside")
        (root / "sub").symlink_to(tmp_path / "evil")
    with pytest.raises(ImportFailure) as caught:
        head_of(root, real, 10)
    assert caught.value.code == "path_changed"


def test_the_offer_lists_gguf_files_only(root: Path, tmp_path: Path) -> None:
    (root / "b.GGUF").write_bytes(b"")
    (root / "readme.txt").write_text("")
    (root / ".hidden.gguf").write_bytes(b"")
    (tmp_path / "outside.gguf").write_bytes(b"")
    (root / "outdir").symlink_to(tmp_path)
    assert list_models(root) == ["b.GGUF", "sub/a.gguf"]
    assert list_models(root, limit=1) == ["b.GGUF"]
    assert list_models(root / "no-such-folder") == []
