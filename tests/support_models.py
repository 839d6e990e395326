"""Small models for tests, made on the spot."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import gguf
import numpy as np

WIDTH, HEADS, LAYERS, HIDDEN, CONTEXT = 64, 4, 2, 128, 2048
_WORDS = ["the", "a", "is", "hello", "model", "test"]
_TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"


def tiny_llama(path: Path) -> Path:
    """Write a Llama of 470 KB with random weights and a byte tokenizer: it answers, streams, and means nothing.

    `path` is the file, or a folder to put tiny-llama.gguf in; either is made readable for everybody, as containers
    run under an account of their own. Returns the file.
    """
    file = path / "tiny-llama.gguf" if path.is_dir() else path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(_tiny_llama_bytes())
    file.chmod(0o644)
    file.parent.chmod(0o755)
    return file


@cache
def _tiny_llama_bytes() -> bytes:
    folder = Path(mkdtemp(prefix="berth-tiny-llama-"))
    file = folder / "tiny.gguf"
    writer = gguf.GGUFWriter(file, "llama")
    _describe(writer)
    _add_tokens(writer)
    _add_weights(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    content = file.read_bytes()
    file.unlink()
    folder.rmdir()
    return content


def _describe(writer: gguf.GGUFWriter) -> None:
    writer.add_name("tiny-llama")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_chat_template(_TEMPLATE)


def _tokens() -> list[bytes]:
    return [
        *(b"<unk>", b"<s>", b"</s>"),
        *(f"<0x{byte:02X}>".encode() for byte in range(256)),
        *("\u2581".encode() + word.encode() for word in _WORDS),
    ]


def _add_tokens(writer: gguf.GGUFWriter) -> None:
    kinds = gguf.TokenType
    types = [kinds.UNKNOWN, kinds.CONTROL, kinds.CONTROL, *[kinds.BYTE] * 256, *[kinds.NORMAL] * len(_WORDS)]
    writer.add_vocab_size(len(_tokens()))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(_tokens())
    writer.add_token_scores([0.0] * len(_tokens()))
    writer.add_token_types(types)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)


def _add_weights(writer: gguf.GGUFWriter) -> None:
    random = np.random.default_rng(0)

    def matrix(name: str, rows: int, columns: int) -> None:
        writer.add_tensor(
            f"{name}.weight", (random.standard_normal((rows, columns)) * 0.05).astype(np.float32)
        )

    def norm(name: str) -> None:
        writer.add_tensor(f"{name}.weight", np.ones(WIDTH, np.float32))

    matrix("token_embd", len(_tokens()), WIDTH)
    norm("output_norm")
    matrix("output", len(_tokens()), WIDTH)
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        norm(f"{block}.attn_norm")
        norm(f"{block}.ffn_norm")
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            matrix(f"{block}.{part}", WIDTH, WIDTH)
        matrix(f"{block}.ffn_gate", HIDDEN, WIDTH)
        matrix(f"{block}.ffn_up", HIDDEN, WIDTH)
        matrix(f"{block}.ffn_down", WIDTH, HIDDEN)
