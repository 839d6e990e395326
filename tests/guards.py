"""What no linter knows about this tree. Each guard returns one sentence for each thing that is wrong."""

from __future__ import annotations

import re
import subprocess
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# In pieces, so that this file does not contain what it forbids.
REGISTRY_HOSTS = (
    *("py" + "pi.org", "pythonhosted" + ".org", "registry.np" + "mjs.org", "deb." + "debian.org"),
    *("registry.yarn" + "pkg.com", "archive.ub" + "untu.com", "files.python" + "hosted"),
)
MACHINE_PATH = re.compile(rb"(?<![\w.-])/(?:root|work)/")
BINARY_SUFFIXES = {".png", ".jpg", ".woff2", ".gguf", ".mo", ".ico"}


def platform_is_no_package(root: Path = ROOT) -> list[str]:
    """`platform/__init__.py` would hide the standard library's `platform`."""
    if (root / "platform" / "__init__.py").exists():
        return ["platform/__init__.py exists: it hides the standard library's platform module. Remove it."]
    return []


def children_hide_no_package(root: Path = ROOT) -> list[str]:
    """platform/ is on sys.path: a child called like an installed package would be imported in its place."""
    installed = set(packages_distributions())
    return [
        f"platform/{child.name} hides the installed package of that name. Give it another name."
        for child in sorted((root / "platform").iterdir())
        if child.stem in installed and child.name != "__pycache__"
    ]


def tracked(root: Path = ROOT) -> list[Path]:
    """Files under version control that are there; without git, none."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, check=False).stdout
    return [root / name for name in listed.decode().split("\0") if name and (root / name).is_file()]


def names_no_registry(files: list[Path]) -> list[str]:
    """Locks and code name no package registry, so that any mirror serves them."""
    return [
        f"{path}: names the package registry {host}."
        for path in files
        if path.suffix not in BINARY_SUFFIXES
        for host in REGISTRY_HOSTS
        if host.encode() in path.read_bytes()
    ]


def names_no_machine(files: list[Path]) -> list[str]:
    """A path of the machine that somebody works on helps nobody else."""
    return [
        f"{path}: names a path of one machine."
        for path in files
        if path.suffix not in BINARY_SUFFIXES and MACHINE_PATH.search(path.read_bytes())
    ]


def all_problems(root: Path = ROOT) -> list[str]:
    """Every guard over the whole tree."""
    files = tracked(root)
    return [
        *platform_is_no_package(root),
        *children_hide_no_package(root),
        *names_no_registry(files),
        *names_no_machine(files),
    ]


if __name__ == "__main__":
    problems = all_problems()
    print("\n".join(problems) or "guards: nothing found")
    raise SystemExit(bool(problems))
