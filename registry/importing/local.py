"""From the models root into the weights folder: linked where that costs nothing, copied otherwise."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from pathlib import Path

from registry.errors import ImportFailure
from registry.frameworks import FrameworkDefinition
from registry.importing.folder import inspect_folder, inspect_repository
from registry.importing.gguf_file import SHARD, inspect, shards_of
from registry.importing.paths import locate, open_beneath
from registry.importing.progress import Progress
from registry.importing.result import Inspected

CHUNK = 4 * 1024 * 1024


def import_local(
    root: Path, path: str, target: Path, definition: FrameworkDefinition, progress: Progress
) -> Inspected:
    """Bring the model at `path` into the folder `target`. Raises ImportFailure, OSError, LeaseLost."""
    real = locate(root, path)
    files = _choose(root, real, path, definition)
    total = sum(size for _source, _name, size in files)
    fresh_folder(target)
    progress.start(total)
    needs_room(target, total)
    for source, name, _size in files:
        destination = target / name
        destination.parent.mkdir(parents=True, exist_ok=True)
        bring(root, source, destination, progress)
    progress.write()
    return inspect_imported(target, definition, entry_file=files[0][1])


def inspect_imported(target: Path, definition: FrameworkDefinition, *, entry_file: str = "") -> Inspected:
    """What the imported files are, read as the framework will read them."""
    if "gguf" in definition.accepts or entry_file.endswith(".gguf"):
        return inspect(target, entry_file)
    if "repository" in definition.accepts:
        return inspect_repository(target)
    if "folder" in definition.accepts:
        return inspect_folder(target)
    return Inspected("", "", {"format": "files"})


def bring(root: Path, source: Path, destination: Path, progress: Progress) -> None:
    """One file, exactly the one that was checked."""
    with open_beneath(root, source) as handle:
        facts = os.fstat(handle)
        if _link(source, destination, facts):
            progress.add(facts.st_size)
        else:
            _copy(handle, destination, progress)


def needs_room(target: Path, count: int) -> None:
    """Raise ImportFailure no_space if `count` bytes don't fit beside `target`."""
    free = shutil.disk_usage(target).free
    if count > free:
        raise ImportFailure("no_space", needed=count, free=free)


def fresh_folder(target: Path) -> None:
    """An empty folder that a container's user may read."""
    if target.exists():
        shutil.rmtree(target)
    target.mkdir(parents=True)
    target.chmod(0o755)


def gguf_entry(names: list[str], where: str) -> str:
    """The one model among the names of GGUF files. Raises ImportFailure gguf_none or gguf_several."""
    mains = []
    for name in sorted(names):
        match = SHARD.fullmatch(Path(name).name)
        if not match or int(match["number"]) == 1:
            mains.append(name)
    if not mains:
        raise ImportFailure("gguf_none", where=where)
    if len(mains) > 1:
        shown = ", ".join(mains[:8]) + (" …" if len(mains) > 8 else "")
        raise ImportFailure("gguf_several", where=where, files=shown)
    return mains[0]


def _choose(
    root: Path, real: Path, path: str, definition: FrameworkDefinition
) -> list[tuple[Path, str, int]]:
    """The files to bring, (where it is, its name in the weights folder, bytes); the one to open stands first."""
    if real.is_file():
        return _choose_file(root, real, path, definition)
    if "gguf" in definition.accepts:
        entry = gguf_entry([item.name for item in real.glob("*.gguf")], path)
        return _shards(root, real / entry)
    return _everything(root, real)


def _choose_file(
    root: Path, real: Path, path: str, definition: FrameworkDefinition
) -> list[tuple[Path, str, int]]:
    if "gguf" in definition.accepts:
        return _shards(root, real)
    if "image" in definition.accepts:
        return [(real, real.name, real.stat().st_size)]
    raise ImportFailure("folder_needed", framework=definition.name, path=path)


def _shards(root: Path, first: Path) -> list[tuple[Path, str, int]]:
    names = shards_of(first)
    chosen = []
    for name in names:
        if not (first.parent / name).exists():
            raise ImportFailure("gguf_shard_missing", count=len(names), file=name)
        shard = locate(root, str(first.parent / name))
        chosen.append((shard, name, shard.stat().st_size))
    return chosen


def _everything(root: Path, folder: Path) -> list[tuple[Path, str, int]]:
    """All files of a folder but hidden ones. A link must lead to a file under the root."""
    chosen = []
    for inner, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.startswith("."):
                continue
            item = Path(inner) / name
            real = locate(root, str(item))
            chosen.append((real, str(item.relative_to(folder)), real.stat().st_size))
    if not chosen:
        raise ImportFailure("weights_none", where=folder.name)
    return chosen


def _link(source: Path, destination: Path, checked: os.stat_result) -> bool:
    """Try a hard link to the very file that was checked; False if it must be copied.

    A container's root has no capability to read other users' files: only world-readable ones may be linked.
    """
    if not checked.st_mode & stat.S_IROTH:
        return False
    try:
        os.link(source, destination, follow_symlinks=False)
    except OSError as error:
        if error.errno in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EACCES, errno.ENOTSUP, errno.ENOENT):
            return False
        raise
    linked = destination.lstat()
    if (linked.st_dev, linked.st_ino) == (checked.st_dev, checked.st_ino):
        return True
    destination.unlink()
    return False


def _copy(handle: int, destination: Path, progress: Progress) -> None:
    with destination.open("xb") as file:
        while chunk := os.read(handle, CHUNK):
            file.write(chunk)
            progress.add(len(chunk))
        file.flush()
        os.fsync(file.fileno())
    destination.chmod(0o644)
