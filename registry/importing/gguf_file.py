"""Reading a GGUF file's header: what the model is, and whether the file is whole.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. We walk the header ourselves instead of
using gguf.GGUFReader, which maps the file into memory (a file that shrinks meanwhile would kill the worker) and
builds every token of the vocabulary. Sizes of tensor types are gguf's own table.
"""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType

from registry.errors import ImportFailure
from registry.importing.result import Inspected
from registry.importing.sniff import HEAD_BYTES, is_gguf, kind_of

SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_KEPT_ITEMS = 16  # longer arrays are vocabularies; nothing here needs them
# Guards against a header that lies: no real model comes near.
_MOST_KEYS, _MOST_TENSORS, _MOST_ITEMS, _MOST_TEXT = 100_000, 1_000_000, 50_000_000, 1 << 26

# Architectures whose only use is embeddings, by gguf's names (gguf.MODEL_ARCH_NAMES).
_EMBEDDING_ARCHITECTURES = frozenset(
    {
        "bert",
        "eurobert",
        "gemma-embedding",
        "jina-bert-v2",
        "jina-bert-v3",
        "modern-bert",
        "neo-bert",
        "nomic-bert",
        "nomic-bert-moe",
        "t5encoder",
    }
)
_POOLING = {0: "none", 1: "mean", 2: "cls", 3: "last", 4: "rank"}


@dataclass(frozen=True, slots=True)
class Header:
    """What stands before the weights. `end` is where the file must reach at least."""

    values: dict[str, Any]
    parameters: int
    end: int


class _Broken(Exception):
    """The header makes no sense; the message says where."""


def shards_of(path: Path) -> list[str]:
    """The names of all files of the model that `path` belongs to, the first one first: itself if it is not split."""
    match = SHARD.fullmatch(path.name)
    if not match:
        return [path.name]
    count = int(match["count"])
    return [f"{match['stem']}-{number:05}-of-{count:05}.gguf" for number in range(1, count + 1)]


def inspect(folder: Path, entry_file: str) -> Inspected:
    """What the model in `folder` is. Raises ImportFailure not_gguf, gguf_truncated, gguf_broken, gguf_part,
    gguf_shard_missing."""
    inner = Path(entry_file).parent
    names = [str(inner / name) for name in shards_of(Path(entry_file))]
    headers = []
    for name in names:
        if not (folder / name).is_file():
            raise ImportFailure("gguf_shard_missing", count=len(names), file=name)
        headers.append(read(folder / name))
    values = headers[0].values
    _refuse_parts(names[0], values)
    architecture = str(values.get("general.architecture", ""))
    facts = {
        "format": "gguf",
        "architecture": architecture,
        "title": str(values.get("general.name", "")),
        "parameters": sum(header.parameters for header in headers),
        "quantization": _quantization(values.get("general.file_type")),
        "context_length": _number(values, f"{architecture}.context_length"),
        "embedding_length": _number(values, f"{architecture}.embedding_length"),
        "pooling": _POOLING.get(values.get(f"{architecture}.pooling_type", -1), ""),
        "chat_template": "tokenizer.chat_template" in values,
        "files": names,
    }
    return Inspected(names[0], _task(architecture, str(facts["pooling"])), facts)


def read(path: Path) -> Header:
    """The checked header. Raises ImportFailure not_gguf, gguf_truncated or gguf_broken."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
        if not is_gguf(head):
            raise ImportFailure("not_gguf", file=path.name, found=kind_of(head))
        file.seek(4)
        try:
            header = _header(file)
        except _Broken as error:
            raise ImportFailure("gguf_broken", file=path.name, detail=str(error)) from error
        except EOFError as error:
            raise ImportFailure("gguf_truncated", file=path.name, expected="?", actual=size) from error
    if size < header.end:
        raise ImportFailure("gguf_truncated", file=path.name, expected=header.end, actual=size)
    return header


def _header(file: BinaryIO) -> Header:
    (version,) = _unpack(file, "<I")
    if version & 0xFFFF == 0:
        raise _Broken("it is big-endian, which llama.cpp here does not read")
    if version not in (2, 3):
        raise _Broken(f"version {version} of the format is unknown")
    tensors, keys = _unpack(file, "<QQ")
    if tensors > _MOST_TENSORS or keys > _MOST_KEYS:
        raise _Broken(f"it claims {tensors} tensors and {keys} keys")
    values: dict[str, Any] = {}
    for _ in range(keys):
        key = _text(file)
        values[key] = _value(file, _unpack(file, "<I")[0])
    parameters = 0
    data_bytes = 0
    for _ in range(tensors):
        elements, end = _tensor(file)
        parameters += elements
        data_bytes = max(data_bytes, end)
    alignment = values.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1:
        raise _Broken(f"its alignment is {alignment!r}")
    start = math.ceil(file.tell() / alignment) * alignment
    return Header(values, parameters, start + data_bytes if tensors else file.tell())


def _tensor(file: BinaryIO) -> tuple[int, int]:
    """(elements, end of its bytes counted from the start of the data)."""
    name = _text(file)
    (dimensions,) = _unpack(file, "<I")
    if dimensions > 8:
        raise _Broken(f"tensor {name[:60]!r} has {dimensions} dimensions")
    shape = _unpack(file, f"<{dimensions}Q")
    kind, offset = _unpack(file, "<IQ")
    elements = math.prod(shape)
    try:
        block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
    except (ValueError, KeyError):
        return elements, offset  # a type newer than our table: its size is not checked
    return elements, offset + elements // block * block_bytes


def _value(file: BinaryIO, kind: int, depth: int = 0) -> Any:
    if kind == _STRING:
        return _text(file)
    if kind != _ARRAY:
        if kind not in _SCALARS:
            raise _Broken(f"value type {kind} is unknown")
        return _unpack(file, "<" + _SCALARS[kind])[0]
    item, length = _unpack(file, "<IQ")
    if length > _MOST_ITEMS or depth > 3:
        raise _Broken(f"a list of {length} items")
    if item in _SCALARS and length > _KEPT_ITEMS:
        _read(file, struct.calcsize("<" + _SCALARS[item]) * length)
        return None
    if item == _STRING and length > _KEPT_ITEMS:
        for _ in range(length):
            _text_bytes(file)
        return None
    return [_value(file, item, depth + 1) for _ in range(length)]


def _text(file: BinaryIO) -> str:
    return _text_bytes(file).decode("utf-8", errors="replace")


def _text_bytes(file: BinaryIO) -> bytes:
    (length,) = _unpack(file, "<Q")
    if length > _MOST_TEXT:
        raise _Broken(f"a text of {length} bytes")
    return _read(file, length)


def _unpack(file: BinaryIO, layout: str) -> tuple[Any, ...]:
    return struct.unpack(layout, _read(file, struct.calcsize(layout)))


def _read(file: BinaryIO, count: int) -> bytes:
    data = file.read(count)
    if len(data) < count:
        raise EOFError
    return data


def _refuse_parts(name: str, values: dict[str, Any]) -> None:
    """Files that go with a model but are none."""
    kind = str(values.get("general.type", "model"))
    if values.get("general.architecture") == "clip" or kind == "mmproj":
        raise ImportFailure("gguf_part", file=name, found="projector")
    if kind == "adapter":
        raise ImportFailure("gguf_part", file=name, found="adapter")


def _task(architecture: str, pooling: str) -> str:
    if pooling == "rank":
        return "other"
    if architecture in _EMBEDDING_ARCHITECTURES or pooling in ("mean", "cls", "last"):
        return "embedding"
    return "llm"


def _number(values: dict[str, Any], key: str) -> int:
    value = values.get(key)
    return value if isinstance(value, int) else 0


def _quantization(file_type: Any) -> str:
    try:
        return LlamaFileType(file_type).name.removeprefix("MOSTLY_").removeprefix("ALL_")
    except ValueError:
        return ""
