"""The image that is made of this machine's own Python, as far as that needs no engine."""

from __future__ import annotations

import platform
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from registry.images import resolve
from runtimes import images
from runtimes.errors import InvalidSpec


class Shelf:
    """An engine that only keeps images, of one architecture."""

    def __init__(self, machine: str) -> None:
        self.machine, self.imported, self.built = machine, [], []  # type: ignore[var-annotated]

    def has_image(self, image: str) -> bool:
        return image in self.imported or image in self.built

    def import_image(self, image: str, archive: Path, changes: list[str]) -> None:
        assert tarfile.is_tarfile(archive)
        self.imported.append(image)

    def build_image(self, image: str, context: Path, arguments: dict[str, str]) -> None:
        assert (context / "Dockerfile").is_file()
        assert set(arguments) == {"XLLAMACPP_VERSION"}
        self.built.append(image)

    def architecture(self) -> str:
        return self.machine


@pytest.fixture
def same_machine() -> Shelf:
    return Shelf(platform.machine())


def test_it_is_made_once(same_machine: Shelf) -> None:
    assert images.ensure_llama_cpp(same_machine) == images.llama_cpp_image()
    assert images.ensure_llama_cpp(same_machine) == images.llama_cpp_image()
    assert same_machine.imported == [images.llama_cpp_image()]
    assert same_machine.built == []


def test_another_architecture_takes_the_dockerfile() -> None:
    shelf = Shelf("riscv64")
    images.ensure_llama_cpp(shelf)
    assert (shelf.imported, shelf.built) == ([], [images.llama_cpp_image()])
    assert "riscv64" in images.cannot_assemble("riscv64")


def test_an_image_of_another_version_cannot_be_made(same_machine: Shelf) -> None:
    assert images.is_ours("berth/llama-cpp:1")
    assert not images.is_ours("vllm/vllm-openai:v1")
    with pytest.raises(InvalidSpec, match="another version"):
        images.ensure_llama_cpp(same_machine, "berth/llama-cpp:1")


def test_a_changed_server_has_another_tag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = images.llama_cpp_image()
    changed = tmp_path / "serve.py"
    changed.write_text(images.LLAMA_CPP_SERVER.read_text() + "\n# changed\n")
    monkeypatch.setattr(images, "LLAMA_CPP_SERVER", changed)
    images.llama_cpp_image.cache_clear()
    try:
        assert images.llama_cpp_image() != before
    finally:
        images.llama_cpp_image.cache_clear()


@pytest.mark.skipif(sys.platform != "linux", reason="the root file system is made of Linux programs")
def test_the_root_file_system_stands_alone(tmp_path: Path) -> None:
    """Run its Python with its own loader and libraries, and nothing of the machine's."""
    archive, root = tmp_path / "image.tar", tmp_path / "root"
    images.assemble_llama_cpp(archive)
    with tarfile.open(archive) as tar:
        tar.extractall(root, filter="fully_trusted")
        assert all(member.uid == 0 for member in tar.getmembers())
    (loader,) = [path for path in root.rglob("ld-*") if path.parent.name.startswith("lib")]
    script = (
        "import json, os, socket, sys, xllamacpp\n"
        "maps = {line.split()[-1] for line in open('/proc/self/maps') if '.so' in line}\n"
        f"print(json.dumps(sorted(path for path in maps if not path.startswith({str(root)!r}))))\n"
    )
    done = subprocess.run(
        [loader, "--library-path", root / images._LIBRARIES, root / "opt/python/bin/python3", "-c", script],
        env={"PYTHONHOME": str(root / images._HOME), "PYTHONPATH": str(root / images._SITE)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "[]\n", done.stderr


def test_the_build_script_names_the_same_image() -> None:
    assert resolve("berth/llama-cpp") == images.llama_cpp_image()
