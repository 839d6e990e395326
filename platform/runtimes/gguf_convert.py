"""A BERT sentence encoder as published (safetensors) → one GGUF file that llama.cpp serves. Pure files in, file out.

Formats: safetensors is a length, a JSON table of tensors and the bytes (https://github.com/huggingface/safetensors
#format); GGUF's keys are https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Weights keep their values; the
pooling is the mean over tokens, as sentence-transformers does it by default, and vectors are scaled to length 1 by
the server.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

_NUMBERS: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2")}
# Not used for sentence vectors: the classifier's pooler, and positions counted up, which llama.cpp does itself.
_LEFT_OUT = ("pooler.", "cls.", "embeddings.position_ids")
_SPECIAL = {
    "[UNK]": "add_unk_token_id",
    "[SEP]": "add_sep_token_id",
    "[PAD]": "add_pad_token_id",
    "[CLS]": "add_bos_token_id",
    "[MASK]": "add_mask_token_id",
}


class NotConvertible(ValueError):
    """The folder holds no BERT that this module understands; the text says what it met."""


def convert_bert(model_dir: Path, target: Path) -> None:
    """Write `target`, whose name becomes the model's, from config.json, model.safetensors and vocab.txt in `model_dir`.

    Raises NotConvertible, or OSError when a file is missing or the disk is full; `target` may then be half written.
    """
    config = json.loads((model_dir / "config.json").read_text("utf-8"))
    if config.get("model_type") != "bert":
        raise NotConvertible(f"model_type is {config.get('model_type')!r}, not 'bert'")
    words = (model_dir / "vocab.txt").read_text("utf-8").removesuffix("\n").split("\n")
    if len(words) != config["vocab_size"]:
        raise NotConvertible(f"vocab.txt has {len(words)} words, config.json says {config['vocab_size']}")
    writer = gguf.GGUFWriter(target, "bert")
    _describe(writer, config, name=target.name.partition(".gguf")[0])
    _add_words(writer, words, config)
    _add_tensors(writer, model_dir / "model.safetensors", config["num_hidden_layers"])
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def _describe(writer: gguf.GGUFWriter, config: dict[str, Any], *, name: str) -> None:
    writer.add_name(name)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)


def _add_words(writer: gguf.GGUFWriter, words: list[str], config: dict[str, Any]) -> None:
    kinds = gguf.TokenType
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([_piece(word).encode() for word in words])
    writer.add_token_types([kinds.CONTROL if _is_special(word) else kinds.NORMAL for word in words])
    writer.add_token_type_count(config["type_vocab_size"])
    for word, method in _SPECIAL.items():
        if word not in words:
            raise NotConvertible(f"vocab.txt has no {word}")
        getattr(writer, method)(words.index(word))
    writer.add_eos_token_id(words.index("[SEP]"))


def _is_special(word: str) -> bool:
    return word.startswith("[") and word.endswith("]")


def _piece(word: str) -> str:
    """WordPiece marks what continues a word ("##ing"); llama.cpp marks what begins one ("▁sing")."""
    if _is_special(word):
        return word
    return word.removeprefix("##") if word.startswith("##") else "\u2581" + word


def _add_tensors(writer: gguf.GGUFWriter, file: Path, layers: int) -> None:
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.BERT, layers)
    for name, values in _tensors(file):
        plain = name.removeprefix("bert.")
        target = names.get_name(f"bert.{plain}", try_suffixes=(".weight", ".bias")) or names.get_name(
            plain, try_suffixes=(".weight", ".bias")
        )
        if target is None:
            raise NotConvertible(f"a BERT of this kind has no tensor {name}")
        writer.add_tensor(target, values.astype(np.float32))


def _tensors(file: Path) -> Iterator[tuple[str, NDArray[Any]]]:
    with file.open("rb") as source:
        (length,) = struct.unpack("<Q", source.read(8))
        if length > 100_000_000:
            raise NotConvertible(f"{file.name} is no safetensors file")
        table = json.loads(source.read(length))
        table.pop("__metadata__", None)
        for name, entry in table.items():
            if name.removeprefix("bert.").startswith(_LEFT_OUT):
                continue
            kind = _NUMBERS.get(entry["dtype"])
            if kind is None:
                raise NotConvertible(
                    f"tensor {name} has numbers of type {entry['dtype']}; F32 and F16 are read"
                )
            begin, end = entry["data_offsets"]
            source.seek(8 + length + begin)
            yield name, np.frombuffer(source.read(end - begin), kind).reshape(entry["shape"])
