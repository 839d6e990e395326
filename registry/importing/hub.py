"""Downloading from a Hugging Face hub.

`huggingface_hub` answers what a repository holds (commit, files, sizes, checksums) and names its errors. The bytes
we fetch ourselves: its downloader (2.x) writes to a file of a random name and deletes it on failure, so that a
killed worker or a broken line costs everything fetched so far. Here each file grows under one name and goes on with
a Range request, from whichever worker; the commit is pinned, so the content can't change in between. Xet storage is
not used for the same reason; the hub serves the same files over plain HTTP.

Routes: https://huggingface.co/docs/hub/api
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import httpx2  # what huggingface_hub 2.x is built on, and locked with it
from huggingface_hub import HfApi, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils._headers import build_hf_headers
from huggingface_hub.utils._http import (
    default_client_factory,
    get_session,
    hf_raise_for_status,
    set_client_factory,
)

from registry.errors import ImportFailure
from registry.frameworks import FrameworkDefinition
from registry.importing.gguf_file import shards_of
from registry.importing.local import gguf_entry, inspect_imported, needs_room
from registry.importing.progress import Progress
from registry.importing.result import Inspected

READ_BYTES = 4 * 1024 * 1024  # of a file whose checksum is computed
TIMEOUT_S = 30
# Waits after a broken connection; they start over whenever bytes arrived in between.
RETRY_WAITS_S: tuple[float, ...] = (0.5, 1, 2, 4, 8)
PARTS = ".download"  # unfinished files, inside the weights folder until all is there

_SKIPPED_FOLDERS = ("original/", "onnx/", "openvino/", "coreml/", "metal/", "runs/")
_FOLDER_FILES = ("*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken")


@dataclass(frozen=True, slots=True)
class HubSource:
    """A repository at an endpoint. `token` "" asks anonymously, never with the worker's own token.

    commit   the resolved revision when an earlier try has pinned it, else ""
    files    patterns (fnmatch) of what to take, () leaves the choice to the framework
    """

    endpoint: str
    repo_id: str
    revision: str = "main"
    commit: str = ""
    files: tuple[str, ...] = ()
    token: str = ""


@dataclass(frozen=True, slots=True)
class Remote:
    """One file: its path in the repository, bytes, and a checksum: sha256 of large files, else git's blob id."""

    path: str
    size: int
    sha256: str
    blob_id: str


def _client() -> httpx2.Client:
    """The library's own client waits for ever; an import must not."""
    client = default_client_factory()
    client.timeout = httpx2.Timeout(TIMEOUT_S)
    return client


set_client_factory(_client)


def resolve(source: HubSource) -> str:
    """The commit that the revision means now. Raises ImportFailure."""
    with hub_errors(source):
        commit = _api(source).model_info(source.repo_id, revision=source.revision, timeout=TIMEOUT_S).sha
    return str(commit)


def import_hub(
    source: HubSource, target: Path, definition: FrameworkDefinition, progress: Progress
) -> Inspected:
    """Bring the repository's files at `source.commit` into the folder `target`; what is there already is kept.

    Raises ImportFailure, OSError, LeaseLost.
    """
    chosen = _choose(source, definition, list_files(source))
    target.mkdir(parents=True, exist_ok=True)
    target.chmod(0o755)
    total = sum(remote.size for remote in chosen)
    present = sum(_present(target, remote) for remote in chosen)
    progress.start(total, done=present)
    needs_room(target, total - present)
    for remote in chosen:
        fetch(source, remote, target, progress)
    progress.write()
    parts = target / PARTS
    for folder in sorted((p for p in parts.rglob("*") if p.is_dir()), reverse=True):
        folder.rmdir()
    if parts.exists():
        parts.rmdir()
    return inspect_imported(target, definition, entry_file=chosen[0].path)


def list_files(source: HubSource) -> list[Remote]:
    """Everything in the repository at the pinned commit."""
    with hub_errors(source):
        tree = _api(source).list_repo_tree(source.repo_id, recursive=True, revision=source.commit)
        return [
            Remote(item.path, item.size, item.lfs.sha256 if item.lfs else "", item.blob_id)
            for item in tree
            if isinstance(item, RepoFile)
        ]


def fetch(source: HubSource, remote: Remote, target: Path, progress: Progress) -> None:
    """One file, whole and checked, or an error. Goes on where an earlier try stopped."""
    final = _inside(target, remote.path)
    if final.is_file() and final.stat().st_size == remote.size:
        return  # it got its name only after its checksum was right
    part = _part(target, remote)
    part.parent.mkdir(parents=True, exist_ok=True)
    for last in (False, True):
        _fill(source, remote, part, progress)
        if _intact(part, remote, progress):
            final.parent.mkdir(parents=True, exist_ok=True)
            part.chmod(0o644)
            part.replace(final)
            return
        progress.add(-part.stat().st_size)
        part.unlink()
        if last:
            raise ImportFailure("checksum_mismatch", file=remote.path)


def _fill(source: HubSource, remote: Remote, part: Path, progress: Progress) -> None:
    """Ask for the missing bytes until all are there, patiently."""
    failures = 0
    while True:
        before = _size(part)
        if before == remote.size and part.exists():
            return
        try:
            with hub_errors(source, remote.path):
                _stream(source, remote, part, before, progress)
            if _size(part) < remote.size:
                raise ImportFailure("hub_connection_lost", file=remote.path, error="the answer ended early")
        except ImportFailure as failure:
            if failure.code not in (
                "hub_connection_lost",
                "hub_unreachable",
                "hub_error",
                "hub_rate_limited",
            ):
                raise
            failures = 1 if _size(part) > before else failures + 1
            if failures > len(RETRY_WAITS_S):
                raise
            progress.write()
            time.sleep(RETRY_WAITS_S[failures - 1])


def _stream(source: HubSource, remote: Remote, part: Path, start: int, progress: Progress) -> None:
    headers = build_hf_headers(token=source.token or False)
    headers["Accept-Encoding"] = "identity"
    if start:
        headers["Range"] = f"bytes={start}-"
    url = hf_hub_url(source.repo_id, remote.path, revision=source.commit, endpoint=source.endpoint)
    with get_session().stream("GET", url, headers=headers, timeout=TIMEOUT_S) as response:
        hf_raise_for_status(response)
        if start and response.status_code != httpx2.codes.PARTIAL_CONTENT:
            progress.add(-start)  # the server sends everything again
            start = 0
        with part.open("r+b" if part.exists() else "wb") as file:
            file.truncate(start)
            file.seek(start)
            for chunk in response.iter_bytes():  # as it comes in: a bigger piece would be lost with the line
                if start + len(chunk) > remote.size:
                    raise ImportFailure("checksum_mismatch", file=remote.path)
                file.write(chunk)
                file.flush()  # so that what counts as done is what a successor finds
                start += len(chunk)
                progress.add(len(chunk))


def _intact(part: Path, remote: Remote, progress: Progress) -> bool:
    """Compare with the checksum that the hub gave: sha256, or git's object id of small files."""
    digest = (
        hashlib.sha256() if remote.sha256 else hashlib.sha1(b"blob %d\0" % remote.size, usedforsecurity=False)
    )
    with part.open("rb") as file:
        while chunk := file.read(READ_BYTES):
            digest.update(chunk)
            progress.add(0)
        os.fsync(file.fileno())
    return digest.hexdigest() == (remote.sha256 or remote.blob_id)


@contextmanager
def hub_errors(source: HubSource, file: str = "") -> Iterator[None]:
    """The library's and the network's errors as ImportFailure with a code of ours."""
    repo = source.repo_id
    try:
        yield
    except GatedRepoError as error:
        raise ImportFailure("hub_gated", repo=repo) from error
    except RepositoryNotFoundError as error:
        raise ImportFailure("hub_repo_not_found", repo=repo) from error
    except RevisionNotFoundError as error:
        raise ImportFailure("hub_revision_not_found", repo=repo, revision=source.revision) from error
    except HfHubHTTPError as error:
        raise _status_failure(error.response.status_code, repo) from error
    except httpx2.ConnectError as error:
        raise ImportFailure("hub_unreachable", endpoint=source.endpoint, error=_short(error)) from error
    except httpx2.HTTPError as error:
        code = "hub_connection_lost" if file else "hub_unreachable"
        raise ImportFailure(code, endpoint=source.endpoint, file=file, error=_short(error)) from error


def _status_failure(status: int, repo: str) -> ImportFailure:
    if status == httpx2.codes.UNAUTHORIZED:
        return ImportFailure("hub_token_refused", repo=repo)
    if status == httpx2.codes.FORBIDDEN:
        return ImportFailure("hub_denied", repo=repo, status=status)
    if status == httpx2.codes.TOO_MANY_REQUESTS:
        return ImportFailure("hub_rate_limited", repo=repo)
    return ImportFailure("hub_error", repo=repo, status=status)


def _choose(source: HubSource, definition: FrameworkDefinition, files: list[Remote]) -> list[Remote]:
    """What the framework needs, the file it opens first."""
    wanted = [remote for remote in files if not remote.path.startswith(".")]
    if source.files:
        wanted = [remote for remote in wanted if _matches(remote.path, source.files)]
        if not wanted:
            raise ImportFailure("hub_files_none", repo=source.repo_id, files=", ".join(source.files))
    if "gguf" in definition.accepts:
        return _choose_gguf(source, files, wanted)
    if "repository" in definition.accepts or source.files:
        return wanted
    return _choose_folder(source, wanted)


def _choose_gguf(source: HubSource, files: list[Remote], wanted: list[Remote]) -> list[Remote]:
    names = [remote.path for remote in wanted if remote.path.endswith(".gguf")]
    if not source.files:
        names = [name for name in names if not PurePosixPath(name).name.startswith("mmproj")]
    entry = gguf_entry(names, source.repo_id)
    folder = PurePosixPath(entry).parent
    by_path = {remote.path: remote for remote in files}
    shards = [str(folder / name) for name in shards_of(Path(entry))]
    missing = [name for name in shards if name not in by_path]
    if missing:
        raise ImportFailure("gguf_shard_missing", count=len(shards), file=missing[0])
    return [by_path[name] for name in shards]


def _choose_folder(source: HubSource, wanted: list[Remote]) -> list[Remote]:
    usable = [remote for remote in wanted if not remote.path.startswith(_SKIPPED_FOLDERS)]
    weights = [remote for remote in usable if remote.path.endswith(".safetensors")]
    # Some repositories carry the same weights once more in their authors' own layout.
    weights = [r for r in weights if not r.path.startswith("consolidated")] or weights
    weights = weights or [r for r in usable if _matches(r.path, ("pytorch_model*.bin",))]
    if not weights:
        raise ImportFailure("weights_none", where=source.repo_id)
    return weights + [remote for remote in usable if _matches(remote.path, _FOLDER_FILES)]


def _matches(path: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)


def _api(source: HubSource) -> HfApi:
    return HfApi(endpoint=source.endpoint, token=source.token or False)


def _inside(target: Path, path: str) -> Path:
    """Where a file of the repository goes. A hub could name it `../x`."""
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or parts[0] == PARTS or "\0" in path:
        raise ImportFailure("weights_broken", file=path, detail="its name is not allowed")
    return target.joinpath(*parts)


def _part(target: Path, remote: Remote) -> Path:
    return _inside(target / PARTS, remote.path + ".part")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _present(target: Path, remote: Remote) -> int:
    final = _inside(target, remote.path)
    if final.is_file() and final.stat().st_size == remote.size:
        return remote.size
    return min(_size(_part(target, remote)), remote.size)


def _short(error: Exception) -> str:
    return (str(error) or type(error).__name__)[:200]
