"""The front-end packages' few files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launcher import assets


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A checkout whose packages are installed already."""
    (tmp_path / "package-lock.json").write_text("{}")
    for source in assets.FILES:
        file = tmp_path / "node_modules" / source
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"a{}\n/*# sourceMappingURL=x.css.map */" if source.endswith(".css") else b"x")
    icons = tmp_path / "node_modules/@tabler/icons/icons/outline"
    icons.mkdir(parents=True)
    for name in assets.ICONS:
        (icons / f"{name}.svg").write_text(f'<svg class="x"><path id="{name}"/></svg>')
    return tmp_path


def test_built_once_and_again_only_when_the_lock_changes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installs: list[Path] = []
    monkeypatch.setattr(assets, "_install", installs.append)
    assert "built" in assets.build(root)
    assert "up to date" in assets.build(root)
    assert len(installs) == 1
    (root / "package-lock.json").write_text('{"changed": 1}')
    assert "built" in assets.build(root)
    vendor = root / "static" / "vendor"
    # The manifest storage refuses a file that names a map which is not there.
    assert b"sourceMappingURL" not in (vendor / "tabler.min.css").read_bytes()
    assert '<symbol id="copy"' in (vendor / "icons.svg").read_text()


def test_without_npm_it_says_what_to_install(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assets, "npm_commands", list)
    with pytest.raises(assets.AssetsError, match=r"install Node\.js"):
        assets.build(root)
    assert not (root / "static" / "vendor").exists()


def test_the_lock_is_pinned_hashed_and_names_no_host() -> None:
    lock = json.loads((assets.ROOT / "package-lock.json").read_text())
    wanted = json.loads((assets.ROOT / "package.json").read_text())["dependencies"]
    assert all(version[0].isdigit() for version in wanted.values())
    for name, package in lock["packages"].items():
        if name:
            assert package["integrity"].startswith("sha512-"), name
            assert "resolved" not in package, name
