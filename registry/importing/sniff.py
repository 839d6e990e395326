"""What a file is that should have been a GGUF, by its first bytes. The words for each kind are in registry.errors."""

from __future__ import annotations

GGUF_MAGIC = b"GGUF"
HEAD_BYTES = 512

_MAGICS: tuple[tuple[bytes, str], ...] = (
    (b"lmgg", "old_ggml"),  # ggml's magics are numbers, stored little-endian
    (b"tjgg", "old_ggml"),
    (b"fmgg", "old_ggml"),
    (b"algg", "old_ggml"),
    (b"PK\x03\x04", "zip"),
    (b"\x80\x02", "pickle"),
    (b"\x80\x04", "pickle"),
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ", "xz"),
    (b"7z\xbc\xaf", "7z"),
    (b"\x89HDF", "hdf5"),
    (b"\x7fELF", "program"),
    (b"\x89PNG", "picture"),
    (b"\xff\xd8\xff", "picture"),
    (b"%PDF", "pdf"),
)


def is_gguf(head: bytes) -> bool:
    """Whether a file that starts so claims to be GGUF."""
    return head.startswith(GGUF_MAGIC)


def kind_of(head: bytes) -> str:
    """A word of registry.errors.FOUND for a file that starts with `head` (its first HEAD_BYTES bytes)."""
    if not head:
        return "empty"
    for magic, kind in _MAGICS:
        if head.startswith(magic):
            return kind
    text = head.lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return "html"
    if text.startswith(b"version https://git-lfs"):
        return "lfs_pointer"
    # 8 bytes with the length of a JSON header, then the header: the safetensors format.
    if len(head) > 9 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 100_000_000:
        return "safetensors"
    if text.startswith((b"{", b"[")):
        return "json"
    return "text" if _is_text(head) else "binary"


def _is_text(head: bytes) -> bool:
    try:
        decoded = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:  # not just a character that the cut went through
            return False
        decoded = head[: error.start].decode("utf-8")
    return all(character.isprintable() or character.isspace() for character in decoded)
