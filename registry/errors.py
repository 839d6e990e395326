"""Every way an import can fail: a stable code, a sentence, and what to do. Words live here alone.

Parameters are plain text, nothing secret; they are escaped where they are shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

if TYPE_CHECKING:
    from registry.models import RegisteredModel


class ImportFailure(Exception):
    """An import that can't go on until someone changes something. `params` fill the sentences of `code`."""

    def __init__(self, code: str, **params: Any) -> None:
        super().__init__(code)
        self.code = code
        self.params = params


@dataclass(frozen=True, slots=True)
class Reason:
    """What a person is told. `fix` names the button that helps: "retry", "resume", "token" or "again" (import again
    with other values)."""

    code: str
    message: str
    action: str
    fix: str = "again"


@dataclass(frozen=True, slots=True)
class _Words:
    message: Promise
    action: Promise
    fix: str = "again"


_TOKEN = _("Give a token that may read it (huggingface.co → Settings → Access Tokens), then retry.")

WORDS: dict[str, _Words] = {
    # local files
    "path_missing": _Words(
        _("There is no file or folder “%(path)s” under the models root %(root)s."),
        _("Copy the model there, or choose one of the files that the form offers."),
    ),
    "path_outside_root": _Words(
        _("“%(path)s” leads outside the models root %(root)s."),
        _("Copy the model under that folder, or let the operator move the root (BERTH_MODELS_ROOT)."),
    ),
    "path_unreadable": _Words(
        _("“%(path)s” can't be read: %(error)s."), _("Let the platform's user read it, then retry."), "retry"
    ),
    "path_not_a_file": _Words(
        _("“%(path)s” is neither a file nor a folder."), _("Choose a model file or a folder that holds one.")
    ),
    "path_changed": _Words(
        _("“%(path)s” was replaced while it was imported."), _("Leave it alone and retry."), "retry"
    ),
    "folder_needed": _Words(
        _("%(framework)s needs a whole folder, “%(path)s” is a single file."),
        _("Choose the folder, or a framework that serves this kind of file."),
    ),
    # the files' content
    "not_gguf": _Words(
        _("“%(file)s” is no GGUF file: it is %(found)s."),
        _("Choose a .gguf file, or a framework that serves this kind of file."),
    ),
    "gguf_truncated": _Words(
        _("“%(file)s” is cut off: it should have %(expected)s bytes and has %(actual)s."),
        _("Copy or download it again, completely."),
    ),
    "gguf_broken": _Words(
        _("“%(file)s” starts like a GGUF file but can't be read: %(detail)s."),
        _("Copy or download it again."),
    ),
    "gguf_part": _Words(
        _("“%(file)s” is no model of its own but %(found)s."), _("Choose the model's main file.")
    ),
    "gguf_shard_missing": _Words(
        _("The model is split into %(count)s files and “%(file)s” is missing."),
        _("Put all of them into one folder."),
    ),
    "gguf_none": _Words(
        _("There is no GGUF file in “%(where)s”."),
        _("Choose a place that has one, or a framework that serves safetensors."),
    ),
    "gguf_several": _Words(
        _("“%(where)s” holds several GGUF models: %(files)s."), _("Name the one that you want.")
    ),
    "weights_none": _Words(
        _("There are no model weights (safetensors or PyTorch files with a config.json) in “%(where)s”."),
        _("Choose a folder in Hugging Face's layout, or llama.cpp for GGUF files."),
    ),
    "weights_broken": _Words(
        _("“%(file)s” is damaged: %(detail)s."), _("Copy or download it again, completely.")
    ),
    "repository_none": _Words(
        _("“%(where)s” is no Triton model repository: no model with a numbered version was found."),
        _("Its layout is <model>/<version>/<files>, with a config.pbtxt beside the versions."),
    ),
    # Hugging Face
    "hub_repo_not_found": _Words(
        _("%(repo)s is not there, or it is private and was asked for without a token that may read it."),
        _TOKEN,
        "token",
    ),
    "hub_gated": _Words(
        _("%(repo)s is gated: its owner must grant access first."),
        _("Accept its terms on the repository's page, then retry with a token of that account."),
        "token",
    ),
    "hub_token_refused": _Words(_("The hub refused the token."), _TOKEN, "token"),
    "hub_denied": _Words(_("The hub denied access to %(repo)s (%(status)s)."), _TOKEN, "token"),
    "hub_revision_not_found": _Words(
        _("%(repo)s has no revision “%(revision)s”."),
        _("Use a branch, a tag or a commit of that repository; “main” is the usual one."),
    ),
    "hub_files_none": _Words(
        _("No file of %(repo)s matches “%(files)s”."),
        _("Look at the repository's file list and correct the names."),
    ),
    "hub_unreachable": _Words(
        _("The hub at %(endpoint)s could not be reached: %(error)s."),
        _(
            "Check this machine's way to it (network, proxy, HF_ENDPOINT), then retry. What is there already is kept."
        ),
        "resume",
    ),
    "hub_connection_lost": _Words(
        _("The connection to the hub broke again and again at “%(file)s”: %(error)s."),
        _("Resume: what has arrived is kept."),
        "resume",
    ),
    "hub_rate_limited": _Words(
        _("The hub asks for a pause: too many requests."),
        _("Resume in some minutes, or use a token."),
        "resume",
    ),
    "hub_error": _Words(
        _("The hub answered %(status)s for %(repo)s."), _("Resume later; what has arrived is kept."), "resume"
    ),
    "checksum_mismatch": _Words(
        _("“%(file)s” did not arrive as the hub describes it (wrong checksum), twice."),
        _("Retry; if it stays so, something between here and the hub changes the content."),
        "retry",
    ),
    # this machine
    "no_space": _Words(
        _("The disk for model weights is full: %(needed)s more bytes are needed, %(free)s are free."),
        _("Free space, or delete models that no endpoint uses, then resume. What has arrived is kept."),
        "resume",
    ),
    "storage_error": _Words(
        _("The weights could not be written: %(error)s."),
        _("Check the disk and its permissions, then retry."),
        "retry",
    ),
    "import_crashed": _Words(
        _("The import failed for a reason that we did not foresee (%(error)s)."),
        _("Retry. If it stays so, the worker's log has the details for a bug report."),
        "retry",
    ),
}

# What `found` can be: the kinds of registry.importing.sniff, and parts of models.
FOUND: dict[str, Promise] = {
    "empty": _("an empty file"),
    "old_ggml": _("a model in llama.cpp's old format from before GGUF, which must be converted again"),
    "zip": _("a ZIP archive or a PyTorch checkpoint"),
    "pickle": _("a Python pickle or an old PyTorch checkpoint"),
    "gzip": _("a gzip archive, which must be unpacked first"),
    "zstd": _("a zstd archive, which must be unpacked first"),
    "bzip2": _("a bzip2 archive, which must be unpacked first"),
    "xz": _("an xz archive, which must be unpacked first"),
    "7z": _("a 7-Zip archive, which must be unpacked first"),
    "hdf5": _("an HDF5 file, probably a Keras model"),
    "program": _("a program"),
    "picture": _("a picture"),
    "pdf": _("a PDF document"),
    "html": _("a web page, probably of a download that asked for a sign-in"),
    "lfs_pointer": _("a Git LFS pointer: the real file was not fetched (git lfs pull)"),
    "safetensors": _("a safetensors file"),
    "json": _("a JSON file"),
    "text": _("a text file"),
    "binary": _("a file of an unknown binary format"),
    "projector": _("a vision projector"),
    "adapter": _("a LoRA adapter"),
}


def reason(code: str, params: dict[str, Any] | None = None) -> Reason:
    """The words for a code, in the present language. Unknown codes and missing parameters are shown, not raised."""
    words = WORDS.get(code)
    if words is None:
        return Reason(code, code, "")
    values = _Lenient(params or {})
    if "found" in values:
        values["found"] = FOUND.get(str(values["found"]), values["found"])
    return Reason(code, str(words.message) % values, str(words.action) % values, words.fix)


def reason_of(model: RegisteredModel) -> Reason | None:
    """Why the model's import failed; None unless it did."""
    return reason(model.reason_code, model.reason_params) if model.reason_code else None


class _Lenient(dict[str, Any]):
    def __missing__(self, key: str) -> str:
        return "?"
