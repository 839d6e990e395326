"""The guards hold for this tree, and each of them can find what it looks for."""

from __future__ import annotations

from pathlib import Path

from tests import guards


def test_this_tree_is_clean() -> None:
    assert guards.all_problems() == []


def test_a_package_in_place_of_platform_is_found(tmp_path: Path) -> None:
    (tmp_path / "platform").mkdir()
    assert guards.platform_is_no_package(tmp_path) == []
    (tmp_path / "platform" / "__init__.py").touch()
    assert "hides the standard library" in guards.platform_is_no_package(tmp_path)[0]


def test_a_child_named_like_an_installed_package_is_found(tmp_path: Path) -> None:
    (tmp_path / "platform" / "config").mkdir(parents=True)
    assert guards.children_hide_no_package(tmp_path) == []
    (tmp_path / "platform" / "docker").mkdir()
    (tmp_path / "platform" / "supervisor.py").touch()
    found = guards.children_hide_no_package(tmp_path)
    assert [line.split()[0] for line in found] == ["platform/docker", "platform/supervisor.py"]


def test_a_registry_host_is_found(tmp_path: Path) -> None:
    lock = tmp_path / "lock.txt"
    lock.write_text("--index-url https://" + guards.REGISTRY_HOSTS[0] + "/simple\n")
    assert len(guards.names_no_registry([lock])) == 1


def test_a_path_of_one_machine_is_found(tmp_path: Path) -> None:
    script = tmp_path / "script.sh"
    script.write_text("cp /" + "work/file .\n")
    assert len(guards.names_no_machine([script])) == 1
    script.write_text("cp network/file . # /workshop, ./work/file\n")
    assert guards.names_no_machine([script]) == []
