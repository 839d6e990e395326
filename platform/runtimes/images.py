"""The container images that we build ourselves, without an image registry, a base image or the network.

The llama.cpp image is made of what already runs on this machine: the Python that executes this file, its standard
library, the installed `xllamacpp` package and the shared libraries that the loader resolves for them, laid out
under / and imported by the engine as one layer. That takes a second or two, needs no root and no build tool, and
works for Python from a distribution, pyenv and uv. Where it cannot (macOS, musl, an engine with another processor
architecture) `images/llama-cpp/Dockerfile` is built instead, which needs an image registry and a package index.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Protocol

from runtimes.errors import InvalidSpec

LLAMA_CPP_SOURCE = Path(__file__).resolve().parents[1] / "images" / "llama-cpp"
LLAMA_CPP_SERVER = LLAMA_CPP_SOURCE / "serve.py"
LLAMA_CPP_REPOSITORY = "berth/llama-cpp"

USER = 65532  # no such account on the host: what it may read of a mount is what everyone may
PYTHON = "/opt/python/bin/python3"
_HOME, _SITE, _LIBRARIES = "opt/python", "opt/berth", "opt/python/lib/shared"

# Parts of the standard library that a server never imports, by size; and extension modules whose libraries
# (OpenSSL, Tk, SQLite, ncurses, X11) would double the image.
_SKIPPED_FOLDERS = {
    "__phello__", "config", "distutils", "ensurepip", "idlelib", "lib2to3", "pydoc_data", "site-packages",
    "dist-packages", "sqlite3", "test", "tests", "tkinter", "turtledemo", "venv", "curses",
}  # fmt: skip
_SKIPPED_EXTENSIONS = re.compile(
    r"^(_test|_xx|xx|_tkinter|_ssl|_hashlib|_sqlite3|_curses|readline|nis|_dbm|_gdbm|_ctypes_test|_crypt)"
)


class ImageStore(Protocol):
    """What this module needs of an engine; `DockerRuntime` has it."""

    def has_image(self, image: str) -> bool: ...

    def import_image(self, image: str, archive: Path, changes: list[str]) -> None: ...

    def build_image(self, image: str, context: Path, arguments: dict[str, str]) -> None: ...

    def architecture(self) -> str: ...


@cache
def llama_cpp_image() -> str:
    """`berth/llama-cpp:<llama.cpp build>-<hash>`; the hash covers everything that we put into the image."""
    version = importlib.metadata.version("xllamacpp")
    digest = hashlib.sha256()
    for part in (sys.version, version, platform.machine()):
        digest.update(part.encode() + b"\0")
    for file in (Path(__file__), LLAMA_CPP_SERVER, LLAMA_CPP_SOURCE / "Dockerfile"):
        digest.update(file.read_bytes() + b"\0")
    return f"{LLAMA_CPP_REPOSITORY}:{version}-{digest.hexdigest()[:10]}"


def is_ours(image: str) -> bool:
    """Whether `image` is built here and never pulled."""
    return image.split(":")[0] == LLAMA_CPP_REPOSITORY


def ensure_llama_cpp(engine: ImageStore, image: str | None = None) -> str:
    """Build the image if the engine lacks it, and return its name; takes seconds.

    Raises InvalidSpec with what to do when this machine cannot build it, or any engine error.
    """
    wanted = llama_cpp_image()
    if image is not None and image != wanted:
        raise InvalidSpec(f"{image} was built by another version of this platform; this one uses {wanted}")
    if engine.has_image(wanted):
        return wanted
    why_not = cannot_assemble(engine.architecture())
    if why_not:
        engine.build_image(
            wanted, LLAMA_CPP_SOURCE, {"XLLAMACPP_VERSION": importlib.metadata.version("xllamacpp")}
        )
        return wanted
    with tempfile.TemporaryDirectory(prefix="berth-image-") as folder:
        archive = Path(folder) / "llama-cpp.tar"
        assemble_llama_cpp(archive)
        engine.import_image(wanted, archive, _CHANGES)
    return wanted


_CHANGES = [
    f"ENV PYTHONHOME=/{_HOME} PYTHONPATH=/{_SITE} LD_LIBRARY_PATH=/{_LIBRARIES} PATH=/{_HOME}/bin HOME=/tmp"
    " PYTHONUTF8=1 PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1",
    f"USER {USER}:{USER}",
    "WORKDIR /",
    f'ENTRYPOINT ["{PYTHON}", "/{_SITE}/serve.py"]',
]


def cannot_assemble(engine_architecture: str) -> str:
    """One sentence why the image cannot be made of this machine's own files, or ""."""
    if sys.platform != "linux":
        return f"this is {sys.platform}, and a container needs Linux programs"
    if platform.libc_ver()[0] != "glibc":
        return "this Python is not linked against glibc"
    if _architecture(engine_architecture) != _architecture(platform.machine()):
        return f"the engine's machine is {engine_architecture}, this one {platform.machine()}"
    return ""


def _architecture(name: str) -> str:
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(name, name)


def assemble_llama_cpp(archive: Path) -> None:
    """Write the image's root file system as a tar file (about 150 MB)."""
    stdlib = Path(os.__file__).resolve().parent
    package = _package_folder("xllamacpp")
    # venv/bin/python is a link, and pyenv's command a shell script: the interpreter itself is what counts.
    executable = Path(getattr(sys, "_base_executable", None) or sys.executable).resolve()
    programs = [executable, *_extensions(stdlib), *sorted(package.rglob("*.so"))]
    loader, libraries = _shared_libraries(programs)
    with tarfile.open(archive, "w", format=tarfile.GNU_FORMAT) as tar:
        for folder in ("tmp", "models"):
            _add_folder(tar, folder, 0o1777 if folder == "tmp" else 0o755)
        _add_text(tar, "etc/passwd", f"root:x:0:0::/:/\nberth:x:{USER}:{USER}::/tmp:/\n")
        _add_text(tar, "etc/group", f"root:x:0:\nberth:x:{USER}:\n")
        _add_text(tar, "etc/nsswitch.conf", "hosts: files dns\n")
        _add_file(tar, executable, f"{_HOME}/bin/python3", executable=True)
        _add_tree(tar, stdlib, f"{_HOME}/lib/{stdlib.name}", _wanted_of_stdlib)
        _add_tree(tar, package, f"{_SITE}/{package.name}", lambda path: True)
        for licences in package.parent.glob(f"{package.name}-*.dist-info"):
            _add_tree(tar, licences, f"{_SITE}/{licences.name}", lambda path: True)
        _add_file(tar, LLAMA_CPP_SERVER, f"{_SITE}/serve.py")
        _add_file(tar, loader, str(loader.parent).lstrip("/") + "/" + loader.name, executable=True)
        for name, file in sorted(libraries.items()):
            _add_file(tar, file, f"{_LIBRARIES}/{name}", executable=True)


def _package_folder(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise InvalidSpec(f"the Python package {name} is not installed; run `make up` again")
    return Path(spec.origin).parent


def _wanted_of_stdlib(path: Path) -> bool:
    """Decides by one path relative to the standard library's folder."""
    folder = path.parts[0]
    if folder in _SKIPPED_FOLDERS or folder.startswith("config-"):
        return False
    if path.parent.name == "lib-dynload":
        return not _SKIPPED_EXTENSIONS.match(path.name)
    # Optimised byte code is never loaded; .a and .exe serve compilers and installers.
    return path.suffix not in (".a", ".exe", ".whl") and ".opt-" not in path.name


def _extensions(stdlib: Path) -> list[Path]:
    folder = stdlib / "lib-dynload"
    return [path for path in sorted(folder.glob("*.so")) if not _SKIPPED_EXTENSIONS.match(path.name)]


def _shared_libraries(programs: Iterable[Path]) -> tuple[Path, dict[str, Path]]:
    """(the program loader at the path that programs name, {library name → file}).

    glibc loads two more by name when it is asked for them: libgcc_s to end a thread, and before 2.34 the NSS
    modules to look up host names.
    """
    loader: Path | None = None
    found: dict[str, Path] = {}
    for name, path in _ldd(programs):
        if name.startswith("/"):
            loader = loader or Path(name)
        else:
            found.setdefault(name, path)
    if loader is None or "libc.so.6" not in found:
        raise InvalidSpec("ldd names no program loader for this Python, so no image can be made of it")
    for extra in ("libgcc_s.so.1", "libnss_files.so.2", "libnss_dns.so.2", "libresolv.so.2"):
        path = found["libc.so.6"].parent / extra
        if path.exists():
            found.setdefault(extra, path)
    return loader, found


def _ldd(programs: Iterable[Path]) -> list[tuple[str, Path]]:
    """Pairs of a library's name and its file; the loader has the path that programs ask for as its name."""
    try:
        result = subprocess.run(
            ["ldd", *map(str, programs)], capture_output=True, text=True, check=False, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InvalidSpec(f"ldd could not list the libraries of this Python: {error}") from error
    pairs: list[tuple[str, Path]] = []
    for line in result.stdout.splitlines():
        if "=> not found" in line:
            raise InvalidSpec(f"this Python needs {line.split()[0]}, which ldd cannot find")
        if match := re.match(r"\s+(\S+) => (/\S+)", line):
            pairs.append((match[1], Path(match[2])))
        elif match := re.match(r"\s+(/\S+) \(0x", line):
            pairs.append((match[1], Path(match[1])))
    return pairs


def _add_tree(tar: tarfile.TarFile, source: Path, target: str, wanted: Callable[[Path], bool]) -> None:
    for path in sorted(source.rglob("*")):
        relative = path.relative_to(source)
        if path.is_file() and wanted(relative):
            _add_file(tar, path, f"{target}/{relative}", executable=path.suffix == ".so")


def _add_file(tar: tarfile.TarFile, source: Path, target: str, *, executable: bool = False) -> None:
    """Links are followed. Modes and owners are set, so that a private umask here does not matter there."""
    with source.open("rb") as file:
        info = tarfile.TarInfo(target)
        info.size = os.fstat(file.fileno()).st_size
        info.mtime = int(os.fstat(file.fileno()).st_mtime)  # byte code is matched to its source by this
        info.mode = 0o755 if executable else 0o644
        tar.addfile(info, file)


def _add_text(tar: tarfile.TarFile, target: str, text: str) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(text)
        file.flush()
        _add_file(tar, Path(file.name), target)


def _add_folder(tar: tarfile.TarFile, target: str, mode: int) -> None:
    info = tarfile.TarInfo(target)
    info.type, info.mode = tarfile.DIRTYPE, mode
    tar.addfile(info)
