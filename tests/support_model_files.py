"""Small model files for the registry, made on the spot: real headers, weights of noise."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np


def write_gguf(
    path: Path,
    *,
    architecture: str = "llama",
    context_length: int = 2048,
    pooling: int | None = None,
    kind: str | None = None,
    words: int = 40,
    rows: int = 64,
    seed: int = 0,
) -> Path:
    """A GGUF file whose header is real and whose weights are noise: 16 * rows floats. Not meant to be served."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_context_length(context_length)
    writer.add_embedding_length(16)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    if kind:
        writer.add_type(kind)
    if pooling is not None:
        writer.add_pooling_type(gguf.PoolingType(pooling))
    writer.add_token_list([f"w{number}" for number in range(words)])
    if architecture == "llama":
        writer.add_chat_template("{{ messages }}")
    noise = np.random.default_rng(seed).standard_normal((rows, 16)).astype(np.float32)
    writer.add_tensor("token_embd.weight", noise)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def safetensors_bytes(shape: tuple[int, int] = (4, 8)) -> bytes:
    """A safetensors file with one tensor of zeros."""
    count = shape[0] * shape[1] * 4
    tensor = {"dtype": "F32", "shape": list(shape), "data_offsets": [0, count]}
    header = json.dumps({"__metadata__": {"format": "pt"}, "w": tensor}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(count)


def folder_files(architecture: str = "Qwen2ForCausalLM") -> dict[str, bytes]:
    """The files of a model in Hugging Face's layout, by name."""
    config = {
        "architectures": [architecture],
        "max_position_embeddings": 4096,
        "hidden_size": 8,
        "torch_dtype": "bfloat16",
    }
    return {
        "config.json": json.dumps(config).encode(),
        "model.safetensors": safetensors_bytes(),
        "tokenizer.json": b"{}",
        "tokenizer_config.json": json.dumps({"chat_template": "{{ messages }}"}).encode(),
    }


def write_folder(folder: Path, architecture: str = "Qwen2ForCausalLM") -> Path:
    """`folder_files` on disk."""
    folder.mkdir(parents=True)
    for name, content in folder_files(architecture).items():
        (folder / name).write_bytes(content)
    return folder
