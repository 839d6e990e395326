"""A real Llama of 470 KB with random weights and a byte tokenizer: every code path of chat and streaming, no sense."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

_WIDTH, _HEADS, _LAYERS, _FEED_FORWARD, _CONTEXT = 64, 4, 2, 128, 2048
_TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"
_NORMAL, _UNKNOWN, _CONTROL, _BYTE = 1, 2, 3, 6  # llama.cpp's token types


def write_tiny_llama(path: Path) -> Path:
    """Write the model to `path`; the same bytes each time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    words = [f"\u2581{word}".encode() for word in ("the", "a", "is", "hello", "model", "test")]
    tokens = [b"<unk>", b"<s>", b"</s>", *(f"<0x{value:02X}>".encode() for value in range(256)), *words]
    types = [_UNKNOWN, _CONTROL, _CONTROL, *[_BYTE] * 256, *[_NORMAL] * len(words)]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny-llama")
    writer.add_context_length(_CONTEXT)
    writer.add_embedding_length(_WIDTH)
    writer.add_block_count(_LAYERS)
    writer.add_feed_forward_length(_FEED_FORWARD)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(_WIDTH // _HEADS)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types(types)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template(_TEMPLATE)
    _add_tensors(writer, len(tokens))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tensors(writer: gguf.GGUFWriter, vocabulary: int) -> None:
    random = np.random.default_rng(0)

    def noise(name: str, *shape: int) -> None:
        writer.add_tensor(name, (random.standard_normal(shape) * 0.05).astype(np.float32))

    def ones(name: str) -> None:
        writer.add_tensor(name, np.ones(_WIDTH, np.float32))

    noise("token_embd.weight", vocabulary, _WIDTH)
    ones("output_norm.weight")
    noise("output.weight", vocabulary, _WIDTH)
    for layer in range(_LAYERS):
        block = f"blk.{layer}."
        ones(block + "attn_norm.weight")
        ones(block + "ffn_norm.weight")
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            noise(f"{block}{part}.weight", _WIDTH, _WIDTH)
        noise(block + "ffn_gate.weight", _FEED_FORWARD, _WIDTH)
        noise(block + "ffn_up.weight", _FEED_FORWARD, _WIDTH)
        noise(block + "ffn_down.weight", _WIDTH, _FEED_FORWARD)
