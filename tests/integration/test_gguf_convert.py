"""The converter against arithmetic written out here, and against figures that others published."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from django.conf import settings
from numpy.typing import NDArray

from launcher.weights import WeightsError, ensure
from runtimes.gguf_convert import NotConvertible, convert_bert
from tests.integration.test_llama_server import serving
from tests.support import require

Array = NDArray[np.float32]
WIDTH, HEADS, HIDDEN, LAYERS, POSITIONS = 64, 4, 128, 2, 64
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "hello", "world", "##s", "the"]
EPS = 1e-12


def small_bert() -> dict[str, Array]:
    """Random weights under the names that the transformers library writes."""
    random = np.random.default_rng(7)

    def some(*shape: int) -> Array:
        return (random.standard_normal(shape) * 0.2).astype(np.float32)

    tensors = {
        "embeddings.word_embeddings.weight": some(len(WORDS), WIDTH),
        "embeddings.position_embeddings.weight": some(POSITIONS, WIDTH),
        "embeddings.token_type_embeddings.weight": some(2, WIDTH),
        "pooler.dense.weight": some(WIDTH, WIDTH),
        "pooler.dense.bias": some(WIDTH),
    }
    linear = {
        "attention.self.query": (WIDTH, WIDTH),
        "attention.self.key": (WIDTH, WIDTH),
        "attention.self.value": (WIDTH, WIDTH),
        "attention.output.dense": (WIDTH, WIDTH),
        "intermediate.dense": (HIDDEN, WIDTH),
        "output.dense": (WIDTH, HIDDEN),
    }
    norms = ["embeddings.LayerNorm"]
    for layer in range(LAYERS):
        prefix = f"encoder.layer.{layer}."
        for name, shape in linear.items():
            tensors[f"{prefix}{name}.weight"], tensors[f"{prefix}{name}.bias"] = some(*shape), some(shape[0])
        norms += [f"{prefix}attention.output.LayerNorm", f"{prefix}output.LayerNorm"]
    for name in norms:
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = 1 + some(WIDTH), some(WIDTH)
    return tensors


def write_model(folder: Path, tensors: dict[str, Array], **config: Any) -> Path:
    """config.json, vocab.txt and model.safetensors as they are published."""
    folder.mkdir(exist_ok=True)
    facts = {
        "model_type": "bert",
        "vocab_size": len(WORDS),
        "type_vocab_size": 2,
        "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "intermediate_size": HIDDEN,
        "max_position_embeddings": POSITIONS,
        "layer_norm_eps": EPS,
    }
    (folder / "config.json").write_text(json.dumps(facts | config))
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    table: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    content = b""
    everything: dict[str, NDArray[Any]] = {**tensors, "embeddings.position_ids": np.arange(POSITIONS)}
    for name, values in everything.items():
        raw, kind = values.tobytes(), {"float32": "F32", "int64": "I64"}[values.dtype.name]
        offsets = [len(content), len(content) + len(raw)]
        table[name] = {"dtype": kind, "shape": list(values.shape), "data_offsets": offsets}
        content += raw
    header = json.dumps(table).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + content)
    return folder


def sentence_vector(tensors: dict[str, Array], ids: list[int]) -> Array:
    """The encoder of Devlin et al. 2018 (arXiv 1810.04805), mean over all tokens, length 1."""

    def linear(name: str, x: Array) -> Array:
        return x @ tensors[f"{name}.weight"].T + tensors[f"{name}.bias"]

    def norm(name: str, x: Array) -> Array:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + EPS)
        return scaled * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]

    words, positions = "embeddings.word_embeddings.weight", "embeddings.position_embeddings.weight"
    x = (
        tensors[words][ids]
        + tensors[positions][: len(ids)]
        + tensors["embeddings.token_type_embeddings.weight"][0]
    )
    x = norm("embeddings.LayerNorm", x)
    for layer in range(LAYERS):
        prefix = f"encoder.layer.{layer}."
        query, key, value = (
            linear(f"{prefix}attention.self.{part}", x).reshape(len(ids), HEADS, -1).transpose(1, 0, 2)
            for part in ("query", "key", "value")
        )
        scores = query @ key.transpose(0, 2, 1) / math.sqrt(WIDTH // HEADS)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (weights / weights.sum(-1, keepdims=True)) @ value
        mixed = mixed.transpose(1, 0, 2).reshape(len(ids), WIDTH)
        x = norm(f"{prefix}attention.output.LayerNorm", x + linear(f"{prefix}attention.output.dense", mixed))
        inner = linear(f"{prefix}intermediate.dense", x)
        inner = inner * 0.5 * (1 + np.vectorize(math.erf)(inner / math.sqrt(2)))
        x = norm(f"{prefix}output.LayerNorm", x + linear(f"{prefix}output.dense", inner))
    mean = x.mean(0)
    vector: Array = mean / np.linalg.norm(mean)
    return vector


def embed(model: Path, texts: list[str]) -> Array:
    with serving(model, "--parallel", "1") as (url, _):  # told from the file that it makes embeddings
        request = {"model": "any", "input": texts}
        data = httpx.post(f"{url}/v1/embeddings", json=request, timeout=60).json()["data"]
    return np.array([item["embedding"] for item in data], np.float32)


def test_vectors_equal_the_arithmetic(tmp_path: Path) -> None:
    tensors = small_bert()
    target = tmp_path / "small.gguf"
    convert_bert(write_model(tmp_path / "model", tensors), target)
    ids = {word: number for number, word in enumerate(WORDS)}
    expected = [
        sentence_vector(tensors, [ids[word] for word in ("[CLS]", *words, "[SEP]")])
        for words in (("hello", "world", "##s"), ("the", "hello"), ("[UNK]", "the"))
    ]
    found = embed(target, ["Hello worlds", "the hello", "nobody the"])
    for one, other in zip(found, expected, strict=True):
        assert float(one @ other) > 0.9999
        assert np.abs(one - other).max() < 5e-3  # the server's GELU works in half precision


def test_the_published_model_has_its_published_similarities() -> None:
    """all-MiniLM-L6-v2's model card compares these three sentences."""
    cache = settings.ROOT / "var" / "tests"
    try:
        model = ensure(
            cache / "models", cache / "downloads", settings.ROOT / "locks" / "demo.txt", lambda text: None
        )
    except WeightsError as error:
        require("all-MiniLM-L6-v2", False, str(error))
    texts = ["The weather is lovely today.", "It is so sunny outside!", "He drove to the stadium."]
    one, two, three = embed(model, texts)
    assert float(one @ two) == pytest.approx(0.679, abs=0.002)
    assert float(one @ three) == pytest.approx(0.104, abs=0.002)


def test_what_it_does_not_understand_is_said(tmp_path: Path) -> None:
    tensors = small_bert()
    for name, words, change in (
        ("kind", "model_type is 'gpt2'", {"model_type": "gpt2"}),
        ("size", "vocab.txt has 9 words, config.json says 10", {"vocab_size": 10}),
    ):
        with pytest.raises(NotConvertible, match=words):
            convert_bert(write_model(tmp_path / name, tensors, **change), tmp_path / "x.gguf")
    strange = tensors | {"encoder.layer.0.adapter.weight": np.zeros((2, 2), np.float32)}
    with pytest.raises(NotConvertible, match=r"no tensor encoder\.layer\.0\.adapter"):
        convert_bert(write_model(tmp_path / "strange", strange), tmp_path / "x.gguf")
